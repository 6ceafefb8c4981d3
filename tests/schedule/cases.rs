//! The 2,800 cases that came with the design: what an independent evaluator says (`agreed`), and what the two rules of our own
//! change (`rule`).

use crate::{at, fires, parse};

const CASES: &str = include_str!("cases.tsv");

#[test]
fn every_row_of_the_case_file_fires_as_written() {
    let mut rows = 0;
    let mut wrong = Vec::new();
    for line in CASES.lines().filter(|line| !line.starts_with('#')) {
        let [basis, expression, zone, from, expected] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("five columns: {line}") };
        let schedule = parse(expression, zone).unwrap_or_else(|error| panic!("{expression}: {error}"));
        let found = fires(&schedule, at(from), 5).join(",");
        if found != expected {
            wrong.push(format!("{basis}: {expression} in {zone} from {from}\n  expected {expected}\n  found    {found}"));
        }
        rows += 1;
    }
    assert_eq!(rows, 2800, "rows in the case file");
    assert!(wrong.is_empty(), "{} of {rows} rows differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}
