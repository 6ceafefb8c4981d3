//! The daylight-saving rules, as tables: what a job of each class does where the clock jumps.
//!
//! Interval jobs (hour field with a star, or all 24 hours) fire whenever the clock shows a matching time. Wall-clock jobs fire once
//! for each time they name: after a gap that swallows it, and on the first pass of a repeated hour.

use chrono_flow::model::UnixMs;

use crate::{at, fires, parse};

/// (what, zone, expression, looked at from, the fires that follow)
type Row = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

#[track_caller]
fn assert_rows(rows: &[Row]) {
    for (what, zone, expression, from, expected) in rows {
        let schedule = parse(expression, zone).unwrap_or_else(|error| panic!("{expression}: {error}"));
        assert_eq!(fires(&schedule, at(from), expected.len()), *expected, "{what}: `{expression}` in {zone}");
        // From any instant within, the rest of the same fires follows.
        for (n, fire) in expected.iter().enumerate() {
            let just_before = at(fire) - 1;
            assert_eq!(fires(&schedule, just_before, expected.len() - n), expected[n..], "{what}: from just before {fire}");
        }
        let (after, to) = (at(from), at(expected.last().unwrap()));
        assert_eq!(schedule.count_between(after, to), expected.len() as u64, "{what}: counted");
        let last: Vec<String> = schedule.last_between(after, to, usize::MAX).iter().map(UnixMs::to_string).collect();
        assert_eq!(last, *expected, "{what}: the last ones");
    }
}

/// Berlin 2026: 29 March 02:00 → 03:00 (01:00Z), 25 October 03:00 → 02:00 (01:00Z).
#[test]
fn a_whole_hour_skipped_and_repeated() {
    let zone = "Europe/Berlin";
    let gap = "2026-03-28T12:00:00Z";
    let fold = "2026-10-24T12:00:00Z";
    assert_rows(&[
        ("a time in the gap fires at its end", zone, "30 2 * * *", gap, &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        ("the gap's first minute", zone, "0 2 * * *", gap, &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]),
        ("the first minute after the gap", zone, "0 3 * * *", gap, &["2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"]),
        (
            "many times in the gap fire once together",
            zone,
            "*/10 2 * * *",
            gap,
            &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T00:10:00Z"],
        ),
        (
            "one in the gap and one at its end are one fire",
            zone,
            "0 2,3 * * *",
            gap,
            &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T01:00:00Z"],
        ),
        (
            "one in the gap and one after it are two",
            zone,
            "30 2,3 * * *",
            gap,
            &["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"],
        ),
        (
            "an interval job makes nothing up",
            zone,
            "*/30 * * * *",
            "2026-03-29T00:00:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
        ),
        (
            "an interval job with stepped hours skips the missing one",
            zone,
            "30 */2 * * *",
            "2026-03-28T23:00:00Z",
            &["2026-03-28T23:30:00Z", "2026-03-29T02:30:00Z"],
        ),
        ("a repeated time fires on its first pass only", zone, "30 2 * * *", fold, &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        (
            "nothing of the second pass, and on from there",
            zone,
            "0,30 2,3 * * *",
            fold,
            &["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z", "2026-10-25T02:30:00Z"],
        ),
        (
            "an interval job fires on both passes",
            zone,
            "*/30 * * * *",
            "2026-10-25T00:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"],
        ),
        (
            "all 24 hours by name are an interval",
            zone,
            "30 0-23 * * *",
            "2026-10-25T00:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"],
        ),
        (
            "? and H/1 as well",
            zone,
            "30 ? * * *",
            "2026-10-25T00:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"],
        ),
        (
            "stepped hours are an interval",
            zone,
            "30 */2 * * *",
            "2026-10-24T23:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T03:30:00Z"],
        ),
        (
            "a list with a star in front is an interval",
            zone,
            "30 */12,2 * * *",
            "2026-10-24T23:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T11:30:00Z"],
        ),
        (
            "23 hours by name are wall-clock",
            zone,
            "30 1-23 * * *",
            "2026-10-24T23:45:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T02:30:00Z"],
        ),
        ("@hourly is an interval", zone, "@hourly", "2026-10-25T00:00:00Z", &["2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"]),
        (
            "the last second before the clock is set back, once",
            zone,
            "59 59 2 * * *",
            fold,
            &["2026-10-25T00:59:59Z", "2026-10-26T01:59:59Z"],
        ),
    ]);
}

/// H does not begin with a star: wall-clock, unless it covers all hours.
#[test]
fn h_in_the_hour_field_is_wall_clock() {
    let zone = "Europe/Berlin";
    assert_rows(&[
        ("H in the gap", zone, "30 H(2-2) * * *", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        ("H in the fold", zone, "30 H(2-2) * * *", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        ("H/1 is every hour", zone, "30 H/1 * * *", "2026-10-25T00:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]),
    ]);
}

/// Lord Howe shifts by half an hour: 2026-04-05 02:00 → 01:30 (2026-04-04T15:00Z), 2026-10-04 02:00 → 02:30 (2026-10-03T15:30Z).
#[test]
fn half_an_hour_skipped_and_repeated() {
    let zone = "Australia/Lord_Howe";
    assert_rows(&[
        ("in the gap", zone, "15 2 * * *", "2026-10-03T00:00:00Z", &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"]),
        ("after the gap", zone, "45 2 * * *", "2026-10-03T00:00:00Z", &["2026-10-03T15:45:00Z", "2026-10-04T15:45:00Z"]),
        (
            "an interval job in the gap",
            zone,
            "*/15 * * * *",
            "2026-10-03T15:00:00Z",
            &["2026-10-03T15:15:00Z", "2026-10-03T15:30:00Z", "2026-10-03T15:45:00Z"],
        ),
        ("@hourly finds no 02:00", zone, "@hourly", "2026-10-03T14:30:00Z", &["2026-10-03T16:00:00Z", "2026-10-03T17:00:00Z"]),
        ("in the fold", zone, "45 1 * * *", "2026-04-04T00:00:00Z", &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"]),
        (
            "an interval job in the fold",
            zone,
            "45 * * * *",
            "2026-04-04T14:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-04T16:15:00Z"],
        ),
    ]);
}

/// Where the clock jumps at midnight, a day has no 00:00, or two: Beirut 2026-03-29 00:00 → 01:00 (2026-03-28T22:00Z),
/// Santiago 2026-04-05 00:00 → 23:00 (03:00Z) and 2026-09-06 00:00 → 01:00 (04:00Z).
#[test]
fn midnight_skipped_and_repeated() {
    assert_rows(&[
        (
            "@daily on a day without midnight",
            "Asia/Beirut",
            "@daily",
            "2026-03-28T12:00:00Z",
            &["2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"],
        ),
        (
            "a weekday rule of a day without midnight",
            "Asia/Beirut",
            "30 0 * * SUN",
            "2026-03-28T12:00:00Z",
            &["2026-03-28T22:00:00Z", "2026-04-04T21:30:00Z"],
        ),
        ("@daily in Santiago", "America/Santiago", "@daily", "2026-09-05T12:00:00Z", &["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"]),
        (
            "the hour before midnight, twice",
            "America/Santiago",
            "30 23 * * *",
            "2026-04-04T12:00:00Z",
            &["2026-04-05T02:30:00Z", "2026-04-06T03:30:00Z"],
        ),
        (
            "an interval job's hour before midnight, on Saturday only",
            "America/Santiago",
            "0,30 * * * SAT",
            "2026-04-05T01:30:00Z",
            &["2026-04-05T02:00:00Z", "2026-04-05T02:30:00Z", "2026-04-05T03:00:00Z", "2026-04-05T03:30:00Z", "2026-04-11T04:00:00Z"],
        ),
        (
            "midnight after the repeated hour, once",
            "America/Santiago",
            "@daily",
            "2026-04-04T12:00:00Z",
            &["2026-04-05T04:00:00Z", "2026-04-06T04:00:00Z"],
        ),
    ]);
}

/// Dublin's winter time is the daylight saving (negative), Troll shifts by two hours, Samoa skipped all of 2011-12-30,
/// Casablanca shifts around Ramadan, and Nuuk, for which jiff reports a fold on 2023-10-28, had none.
#[test]
fn the_odd_ones() {
    assert_rows(&[
        ("Dublin's gap", "Europe/Dublin", "30 1 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        ("Dublin's fold", "Europe/Dublin", "30 1 * * *", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        (
            "two hours' gap",
            "Antarctica/Troll",
            "15 1,2 * * *",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-29T23:15:00Z", "2026-03-30T00:15:00Z"],
        ),
        (
            "two hours' fold, passed twice by an interval job",
            "Antarctica/Troll",
            "15 * * * *",
            "2026-10-25T00:00:00Z",
            &["2026-10-25T00:15:00Z", "2026-10-25T01:15:00Z", "2026-10-25T02:15:00Z", "2026-10-25T03:15:00Z"],
        ),
        (
            "a day that never was",
            "Pacific/Apia",
            "0 10 * * *",
            "2011-12-29T00:00:00Z",
            &["2011-12-29T20:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T20:00:00Z"],
        ),
        ("only that day", "Pacific/Apia", "0 10 30 12 *", "2011-01-01T00:00:00Z", &["2011-12-30T10:00:00Z", "2012-12-29T20:00:00Z"]),
        ("Ramadan", "Africa/Casablanca", "30 2 * * *", "2026-03-21T12:00:00Z", &["2026-03-22T02:00:00Z", "2026-03-23T01:30:00Z"]),
        ("no fold in Nuuk", "America/Nuuk", "30 22 * * *", "2023-10-28T12:00:00Z", &["2023-10-29T00:30:00Z", "2023-10-30T00:30:00Z"]),
        (
            "nor for an interval job",
            "America/Nuuk",
            "30 * * * *",
            "2023-10-28T23:45:00Z",
            &["2023-10-29T00:30:00Z", "2023-10-29T01:30:00Z", "2023-10-29T02:30:00Z"],
        ),
        ("far ahead", "Europe/Berlin", "30 2 * * *", "8026-03-28T12:00:00Z", &["8026-03-29T01:00:00Z", "8026-03-30T00:30:00Z"]),
        ("over 2500", "Europe/Berlin", "30 2 31 10 *", "2498-12-01T12:00:00Z", &["2499-10-31T01:30:00Z", "2500-10-31T00:30:00Z"]),
    ]);
}
