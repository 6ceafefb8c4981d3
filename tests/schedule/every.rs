//! `@every`: anchor + k · period.

use chrono_flow::model::UnixMs;
use chrono_flow::schedule::Schedule;

use crate::{at, fires};

fn every(text: &str, anchor: &str) -> Schedule {
    Schedule::parse(text, None, 0, at(anchor)).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn fires_are_the_anchor_and_whole_periods_after_it() {
    let schedule = every("@every 1h30m", "2026-01-01T12:00:00.250Z");
    assert_eq!(fires(&schedule, UnixMs::MIN, 2), ["2026-01-01T12:00:00.25Z", "2026-01-01T13:30:00.25Z"]);
    // Strictly after: the anchor itself doesn't come again.
    assert_eq!(fires(&schedule, at("2026-01-01T12:00:00.250Z"), 1), ["2026-01-01T13:30:00.25Z"]);
    assert_eq!(fires(&schedule, at("2026-01-01T13:30:00.249Z"), 1), ["2026-01-01T13:30:00.25Z"]);
    assert_eq!(fires(&schedule, at("2026-02-01T00:00:00Z"), 1), ["2026-02-01T00:00:00.25Z"]);
}

#[test]
fn units_add_up_in_any_order_and_the_word_counts_in_any_case() {
    for (text, seconds) in [
        ("@every 1s", 1),
        ("@every 90s", 90),
        ("@every 1m30s", 90),
        ("@EVERY\t30s1m", 90),
        ("@every 2w1d3h4m5s", 2 * 604_800 + 86_400 + 3 * 3_600 + 4 * 60 + 5),
        ("@every 0h10m", 600),
        ("CRON_TZ=Europe/Berlin @every 36525d", 36_525 * 86_400),
    ] {
        let schedule = every(text, "2026-01-01T00:00:00Z");
        assert_eq!(schedule.next_after(at("2026-01-01T00:00:00Z")), Some(at("2026-01-01T00:00:00Z").plus_secs(seconds)), "{text}");
    }
}

#[test]
fn a_day_is_24_hours_whatever_the_zone_does() {
    let schedule = Schedule::parse("@every 1d", Some("Europe/Berlin"), 0, at("2026-03-28T02:30:00Z")).unwrap();
    assert_eq!(fires(&schedule, at("2026-03-28T03:00:00Z"), 2), ["2026-03-29T02:30:00Z", "2026-03-30T02:30:00Z"]);
}

#[test]
fn counting_and_the_last_fires_agree_with_the_fires() {
    let schedule = every("@every 7s", "2026-01-01T00:00:00Z");
    let (after, to) = (at("2025-12-31T23:00:00Z"), at("2026-01-01T00:00:21Z"));
    assert_eq!(schedule.count_between(after, to), 4);
    assert_eq!(schedule.count_between(to, after), 0);
    assert_eq!(schedule.last_between(after, to, 2), [at("2026-01-01T00:00:14Z"), at("2026-01-01T00:00:21Z")]);
    assert_eq!(schedule.last_between(after, to, usize::MAX).len(), 4);
    assert_eq!(schedule.last_between(after, to, 0), []);
}

#[test]
fn anchors_and_instants_beyond_the_calendar_neither_panic_nor_leave_it() {
    for anchor in [i64::MIN, UnixMs::MIN.0, 0, UnixMs::MAX.0, i64::MAX] {
        let schedule = Schedule::parse("@every 1s", None, 0, UnixMs(anchor)).unwrap();
        for instant in [i64::MIN, UnixMs::MIN.0, -1, 0, UnixMs::MAX.0 - 1, UnixMs::MAX.0, i64::MAX] {
            if let Some(fire) = schedule.next_after(UnixMs(instant)) {
                assert!(fire.0 > instant && fire >= UnixMs::MIN && fire <= UnixMs::MAX, "{anchor} {instant}: {}", fire.0);
            }
            assert!(schedule.last_between(UnixMs(i64::MIN), UnixMs(instant), 3).len() <= 3);
            schedule.count_between(UnixMs(instant), UnixMs(i64::MAX));
        }
    }
}
