//! docs/schedules.md keeps its word: what it shows parses, and what it says of daylight saving is so.

use chrono_flow::model::UnixMs;
use chrono_flow::schedule::Schedule;

use crate::{at, parse};

const PAGE: &str = include_str!("../../docs/schedules.md");

/// The expressions in the first column of the page's tables.
fn expressions() -> Vec<&'static str> {
    let cells = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(code, _)| code);
    cells.filter(|code| !code.starts_with('"')).collect()
}

#[test]
fn every_expression_shown_parses() {
    let expressions = expressions();
    assert!(expressions.len() > 35, "{}", expressions.len());
    for text in expressions {
        Schedule::parse(text, None, 0, UnixMs(0)).unwrap_or_else(|error| panic!("`{text}`: {error}"));
    }
}

#[test]
fn words_are_what_the_page_says() {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `@") && line.matches('`').count() >= 4);
    let mut words = 0;
    for row in rows {
        let codes: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let (meaning, names) = codes.split_last().unwrap();
        for name in names {
            let (one, other) = (parse(name, "UTC").unwrap(), parse(meaning, "UTC").unwrap());
            assert_eq!(one.next_after(at("2026-03-04T05:06:07Z")), other.next_after(at("2026-03-04T05:06:07Z")), "{name}");
            words += 1;
        }
    }
    assert_eq!(words, 7);
}

#[test]
fn the_days_of_changing_clocks_are_as_the_page_says() {
    // Berlin's 29 March and 25 October, midnight to midnight.
    let days = [("2026-03-28T22:59:59Z", "2026-03-29T21:59:59Z"), ("2026-10-24T21:59:59Z", "2026-10-25T22:59:59Z")];
    for (text, spring, autumn) in [
        ("30 2 * * *", 1, 1),
        ("*/20 2 * * *", 1, 3),
        ("0 2,3 * * *", 1, 2),
        ("*/30 * * * *", 46, 50),
        ("30 */2 * * *", 11, 13),
        ("@every 1h", 23, 25),
    ] {
        assert!(expressions().contains(&text), "{text} is on the page");
        let schedule = parse(text, "Europe/Berlin").unwrap();
        let counts = days.map(|(after, to)| schedule.count_between(at(after), at(to)));
        assert_eq!(counts, [spring, autumn], "{text}");
    }
}

#[test]
fn the_error_shown_is_the_one_given() {
    let error = parse("0 9-25 * * MON-FRI", "UTC").unwrap_err().to_string();
    assert!(PAGE.contains(&format!("```\n{error}\n```")), "{error}");
}
