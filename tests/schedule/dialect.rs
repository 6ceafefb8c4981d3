//! What each form of the dialect means, said by an equal expression in plainer form or by the fires themselves.

use chrono_flow::model::UnixMs;
use chrono_flow::schedule::{Schedule, seed};

use crate::{at, fires, parse};

/// Instants to look from: an ordinary one, a leap day's eve, the end of a year.
const FROM: [&str; 3] = ["2026-03-03T10:20:30Z", "2028-02-28T23:59:59Z", "2026-12-31T23:59:30Z"];

fn assert_same(one: &str, other: &str) {
    let (a, b) =
        (parse(one, "UTC").unwrap_or_else(|e| panic!("{one}: {e}")), parse(other, "UTC").unwrap_or_else(|e| panic!("{other}: {e}")));
    for from in FROM {
        assert_eq!(fires(&a, at(from), 200), fires(&b, at(from), 200), "`{one}` and `{other}` from {from}");
    }
}

#[test]
fn five_fields_fire_at_second_zero_and_six_begin_with_the_second() {
    assert_same("*/5 * * * *", "0 */5 * * * *");
    let schedule = parse("15,45 30 12 * * *", "UTC").unwrap();
    assert_eq!(fires(&schedule, at(FROM[0]), 3), ["2026-03-03T12:30:15Z", "2026-03-03T12:30:45Z", "2026-03-04T12:30:15Z"]);
}

#[test]
fn blanks_of_any_number_separate_and_surround_fields() {
    assert_same(" \t5   4 *\t* \n*  ", "5 4 * * *");
}

#[test]
fn names_count_in_any_case_alone_and_in_ranges_and_lists() {
    for (one, other) in [
        ("0 0 * jan *", "0 0 * 1 *"),
        ("0 0 * Dec SUN", "0 0 * 12 0"),
        ("0 0 * JAN-Mar,sep *", "0 0 * 1-3,9 *"),
        ("0 0 * * MON-fri", "0 0 * * 1-5"),
        ("0 0 * 6-AUG wed-5", "0 0 * 6-8 3-5"),
        ("0 0 * * sat,Mon", "0 0 * * 1,6"),
    ] {
        assert_same(one, other);
    }
}

#[test]
fn sunday_is_0_and_7_alike() {
    for (one, other) in [
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * 7-2", "0 0 * * 0-2"),
        ("0 0 * * 7-7", "0 0 * * SUN"),
        ("0 0 * * 7-0", "0 0 * * SUN"),
        ("0 0 * * 0-7", "0 0 * * 0-6"),
        ("0 0 * * 7L", "0 0 * * 0L"),
        ("0 0 * * 7#2", "0 0 * * SUN#2"),
        ("0 0 * * 1-7/2", "0 0 * * 0,1,3,5"),
        ("0 0 * * 07", "0 0 * * 0"),
    ] {
        assert_same(one, other);
    }
}

#[test]
fn a_wrapping_range_runs_over_the_end_and_counts_its_step_from_its_start() {
    for (one, other) in [
        ("0 22-2 * * *", "0 22,23,0,1,2 * * *"),
        ("0 20-4/3 * * *", "0 20,23,2 * * *"),
        ("50-10/5 * * * *", "50,55,0,5,10 * * * *"),
        ("58-1 * * * * *", "58,59,0,1 * * * * *"),
        ("0 0 30-2 * *", "0 0 30,31,1,2 * *"),
        ("0 0 28-5/2 * *", "0 0 28,30,1,3,5 * *"),
        ("0 0 1 NOV-FEB *", "0 0 1 11,12,1,2 *"),
        ("0 0 1 10-3/2 *", "0 0 1 10,12,2 *"),
        ("0 0 * * FRI-MON", "0 0 * * 5,6,0,1"),
        ("0 0 * * FRI-SUN", "0 0 * * 5,6,0"),
        ("0 0 * * fri-TUE/2", "0 0 * * 5,0,2"),
        ("0 0 * * 5-1/2", "0 0 * * 5,0"),
        ("0 0 * * SAT-FRI", "0 0 * * 0-6"),
    ] {
        assert_same(one, other);
    }
}

#[test]
fn steps_count_from_the_start_of_their_range_and_a_lone_start_runs_to_the_end() {
    for (one, other) in [
        ("*/15 * * * *", "0,15,30,45 * * * *"),
        ("*/40 * * * *", "0,40 * * * *"),
        ("*/60 * * * *", "0 * * * *"),
        ("0 */24 * * *", "0 0-0 * * *"),
        ("5/20 * * * *", "5,25,45 * * * *"),
        ("59/1 * * * *", "59 * * * *"),
        ("0 9/6 * * *", "0 9,15,21 * * *"),
        ("0 0 10/10 * *", "0 0 10,20,30 * *"),
        ("0 0 1 FEB/5 *", "0 0 1 2,7,12 *"),
        ("0 0 * * 1/2", "0 0 * * 1,3,5,7"),
        ("0 0 * * MON/3", "0 0 * * 1,4,7"),
        ("10-30/10,7 * * * *", "7,10,20,30 * * * *"),
        ("?/15 * * * *", "*/15 * * * *"),
    ] {
        assert_same(one, other);
    }
}

#[test]
fn a_question_mark_is_a_star_in_every_field() {
    for (one, other) in [
        ("0 12 ? * MON", "0 12 * * MON"),
        ("0 12 5 * ?", "0 12 5 * *"),
        ("? ? ? ? ? ?", "* * * * * *"),
        ("0 12 ?/2 * MON", "0 12 */2 * MON"),
    ] {
        assert_same(one, other);
    }
}

#[test]
fn two_day_fields_without_a_star_combine_by_or_and_with_a_star_by_and() {
    let first_days = |text: &str| -> Vec<String> {
        let schedule = parse(text, "UTC").unwrap();
        fires(&schedule, at("2026-08-31T12:00:00Z"), 5).iter().map(|fire| fire[5..10].to_owned()).collect()
    };
    // September 2026 begins on a Tuesday.
    assert_eq!(first_days("0 0 13 * FRI"), ["09-04", "09-11", "09-13", "09-18", "09-25"]);
    assert_eq!(first_days("0 0 */2 * FRI"), ["09-11", "09-25", "10-09", "10-23", "11-13"]);
    assert_eq!(first_days("0 0 1-31/2 * FRI"), ["09-01", "09-03", "09-04", "09-05", "09-07"]);
    assert_eq!(first_days("0 0 1-7 * */5"), ["09-04", "09-06", "10-02", "10-04", "11-01"]);
    assert_eq!(first_days("0 0 */2 * */5"), ["09-11", "09-13", "09-25", "09-27", "10-09"]);
    assert_eq!(first_days("0 0 */3 * FRIL"), ["09-25", "12-25", "05-28", "06-25", "12-31"]);
    assert_eq!(first_days("0 0 L * */2"), ["10-31", "12-31", "01-31", "02-28", "07-31"]);
    assert_eq!(first_days("0 0 H(1-1) * FRI"), ["09-01", "09-04", "09-11", "09-18", "09-25"]);
    // All days by name, without a star: the OR with it holds on every day.
    assert_eq!(first_days("0 0 13 * 0-6"), ["09-01", "09-02", "09-03", "09-04", "09-05"]);
    assert_eq!(first_days("0 0 1-31 * FRI"), ["09-01", "09-02", "09-03", "09-04", "09-05"]);
    // A star somewhere behind the first item is not a star of crontab(5).
    assert_eq!(first_days("0 0 5,*/2 * FRI"), ["09-01", "09-03", "09-04", "09-05", "09-07"]);
}

#[test]
fn day_rules_find_their_days() {
    let days = |text: &str| -> Vec<String> {
        let schedule = parse(text, "UTC").unwrap();
        fires(&schedule, at("2026-01-01T12:00:00Z"), 6).iter().map(|fire| fire[5..10].to_owned()).collect()
    };
    assert_eq!(days("0 0 L * *"), ["01-31", "02-28", "03-31", "04-30", "05-31", "06-30"]);
    assert_eq!(days("0 0 l-3 * *"), ["01-28", "02-25", "03-28", "04-27", "05-28", "06-27"]);
    assert_eq!(days("0 0 L-30 * *"), ["03-01", "05-01", "07-01", "08-01", "10-01", "12-01"]);
    assert_eq!(days("0 0 LW * *"), ["01-30", "02-27", "03-31", "04-30", "05-29", "06-30"]);
    assert_eq!(days("0 0 1W * *"), ["02-02", "03-02", "04-01", "05-01", "06-01", "07-01"]);
    assert_eq!(days("0 0 15w * *"), ["01-15", "02-16", "03-16", "04-15", "05-15", "06-15"]);
    assert_eq!(days("0 0 28W 2 *"), ["02-27", "02-26", "02-28", "02-28", "02-28", "02-28"]);
    assert_eq!(days("0 0 * * 5L"), ["01-30", "02-27", "03-27", "04-24", "05-29", "06-26"]);
    assert_eq!(days("0 0 * * friL"), ["01-30", "02-27", "03-27", "04-24", "05-29", "06-26"]);
    assert_eq!(days("0 0 * * MON#1"), ["01-05", "02-02", "03-02", "04-06", "05-04", "06-01"]);
    assert_eq!(days("0 0 * * 4#5"), ["01-29", "04-30", "07-30", "10-29", "12-31", "04-29"]);
    // A rule and a plain field: OR.
    assert_eq!(days("0 0 1 * FRI#2"), ["01-09", "02-01", "02-13", "03-01", "03-13", "04-01"]);
}

#[test]
fn the_rarest_days_that_exist_are_found_even_over_the_year_2100() {
    let schedule = parse("0 0 29 2 */7", "UTC").unwrap();
    let found = fires(&schedule, at("2026-01-01T00:00:00Z"), 5);
    assert_eq!(
        found,
        ["2032-02-29T00:00:00Z", "2060-02-29T00:00:00Z", "2088-02-29T00:00:00Z", "2128-02-29T00:00:00Z", "2156-02-29T00:00:00Z"]
    );
    let fifth_sundays = parse("0 0 * 2 7#5", "UTC").unwrap();
    assert_eq!(fires(&fifth_sundays, at("2026-01-01T00:00:00Z"), 5), found);
}

#[test]
fn words_stand_for_what_crontab_says_in_any_case() {
    for (word, meaning) in [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * SUN"),
        ("@daily", "0 0 * * *"),
        ("@Midnight", "0 0 * * *"),
        (" @HOURLY ", "0 * * * *"),
        ("CRON_TZ=UTC @daily", "0 0 * * *"),
    ] {
        assert_same(word, meaning);
    }
}

#[test]
fn the_zone_comes_from_the_prefix_or_the_job_and_else_is_utc() {
    let noon = |text: &str, zone: Option<&str>| {
        let schedule = Schedule::parse(text, zone, 0, UnixMs(0)).unwrap_or_else(|error| panic!("{text}: {error}"));
        (schedule.zone_name().to_owned(), fires(&schedule, at("2026-07-01T00:00:00Z"), 1).remove(0))
    };
    let berlin = ("Europe/Berlin".to_owned(), "2026-07-01T10:00:00Z".to_owned());
    assert_eq!(noon("0 12 * * *", None), ("UTC".to_owned(), "2026-07-01T12:00:00Z".to_owned()));
    assert_eq!(noon("0 12 * * *", Some("europe/BERLIN")), berlin);
    assert_eq!(noon("CRON_TZ=Europe/Berlin 0 12 * * *", None), berlin);
    assert_eq!(noon("TZ=Europe/Berlin\t0 12 * * *", None), berlin);
    assert_eq!(noon("CRON_TZ=europe/berlin 0 12 * * *", Some("Europe/Berlin")), berlin);
    assert_eq!(noon("TZ=Asia/Calcutta 30 12 * * *", Some("Asia/Kolkata")).0, "Asia/Kolkata");
    assert_eq!(noon("TZ=Etc/UTC 0 12 * * *", Some("UTC")).1, "2026-07-01T12:00:00Z");
}

/// FNV-1a's published test vectors, and places that must never move: jobs keep them in every version.
#[test]
fn h_is_frozen() {
    assert_eq!(seed(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(seed("a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(seed("foobar"), 0x8594_4171_f739_67e8);
    let first = |name: &str, text: &str| {
        let schedule = Schedule::parse(text, None, seed(name), UnixMs(0)).unwrap();
        fires(&schedule, at("2026-01-01T00:00:00Z"), 1).remove(0)
    };
    assert_eq!(first("backup", "H H H H H *"), "2026-04-02T11:53:59Z");
    assert_eq!(first("backup", "H H * * *"), "2026-01-01T11:53:00Z");
    assert_eq!(first("Date Printer", "H H * * *"), "2026-01-01T20:55:00Z");
    assert_eq!(first("Date Printer", "H H * * H"), "2026-01-06T20:55:00Z");
    assert_eq!(first("Date Printer", "H/20 * * * *"), "2026-01-01T00:18:00Z");
    assert_eq!(first("Date Printer", "0 H(9-17) * * *"), "2026-01-01T16:00:00Z");
}

/// The values that one field of a schedule takes over many job names.
fn places(text: &str, part: impl Fn(&str) -> u32) -> std::collections::BTreeSet<u32> {
    let names = (0..500).map(|n| format!("job {n}"));
    names
        .map(|name| part(&fires(&Schedule::parse(text, None, seed(&name), UnixMs(0)).unwrap(), at("2026-01-01T00:00:00Z"), 1)[0]))
        .collect()
}

fn number(text: &str) -> u32 {
    text.parse().unwrap()
}

#[test]
fn h_spreads_over_the_whole_field_and_keeps_to_its_range() {
    let all = |from: u32, to: u32| (from..=to).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(places("H * * * *", |fire| number(&fire[14..16])), all(0, 59));
    assert_eq!(places("0 H * * *", |fire| number(&fire[11..13])), all(0, 23));
    assert_eq!(places("H 0 0 * * *", |fire| number(&fire[17..19])), all(0, 59));
    // Plain H leaves out the days that some months lack.
    assert_eq!(places("0 0 H 2 *", |fire| number(&fire[8..10])), all(1, 28));
    assert_eq!(places("0 0 1 H *", |fire| number(&fire[5..7])), all(1, 12));
    assert_eq!(places("0 0 * * H", |fire| number(&fire[8..10])), all(2, 8));
    assert_eq!(places("H(10-12) * * * *", |fire| number(&fire[14..16])), all(10, 12));
    assert_eq!(places("0 0 1 h(Nov-jan) *", |fire| number(&fire[5..7])), [1, 11, 12].into());
    // Looked at from minute 0, exclusive: what lies at 0 shows as 15.
    assert_eq!(places("H/15 * * * *", |fire| number(&fire[14..16])), all(1, 15));
    assert_eq!(places("H(30-59)/10 * * * *", |fire| number(&fire[14..16])), all(30, 39));
}

#[test]
fn h_with_a_step_keeps_the_step_and_stands_in_lists() {
    for name in ["a", "b", "backup", "Date Printer"] {
        let schedule = Schedule::parse("H/15 * * * *", None, seed(name), UnixMs(0)).unwrap();
        let found = fires(&schedule, at("2026-01-01T00:00:00Z"), 8);
        let first = number(&found[0][14..16]) % 15;
        for (n, fire) in found.iter().enumerate() {
            assert_eq!(number(&fire[14..16]), (first + 15 * (n as u32 % 4)) % 60, "{name}: {found:?}");
        }
    }
    let schedule = Schedule::parse("H(0-0),30 * * * *", None, 7, UnixMs(0)).unwrap();
    assert_eq!(fires(&schedule, at("2026-01-01T00:00:00Z"), 2), ["2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"]);
}

/// Two fields of one job are placed independently: no line such as minute = hour.
#[test]
fn h_places_fields_independently() {
    let names = (0..500).map(|n| format!("job {n}"));
    let pairs: std::collections::BTreeSet<String> = names
        .map(|name| fires(&Schedule::parse("H H * * *", None, seed(&name), UnixMs(0)).unwrap(), at("2026-01-01T00:00:00Z"), 1).remove(0))
        .collect();
    // 500 draws from 1,440 places leave about 423 different ones.
    assert!(pairs.len() > 390, "{}", pairs.len());
}
