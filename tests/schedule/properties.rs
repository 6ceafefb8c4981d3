//! What holds for every text and every instant: nothing panics or runs away, fires only go forward, and the three ways of asking
//! for fires speak of the same ones.

use chrono_flow::model::UnixMs;
use chrono_flow::schedule::{Schedule, seed as name_seed};
use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::random::{cases, seed};

/// Runs a property with the suite's seed; a failure shows the smallest input that breaks it.
fn check<S: Strategy>(usual_cases: u32, strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let (seed, cases) = (seed(), cases(usual_cases));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    if let Err(failure) = runner.run(strategy, property) {
        panic!("CHRONO_FLOW_SEED={seed} CHRONO_FLOW_CASES={cases}: {failure}");
    }
}

/// Text that looks like an expression, right or wrong.
fn cron_like() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        4 => (0u32..70).prop_map(|n| n.to_string()),
        2 => Just("*".to_owned()),
        1 => "[A-Za-z]{3}",
        1 => prop::sample::select(&["MON", "sun", "FRI", "JAN", "dec", "H", "L", "LW", "?", "15W", "5L", "FRI#2", "L-3", "31W", "7#5"][..])
            .prop_map(str::to_owned),
        1 => "[HLW?*#/,()-]{1,4}",
    ];
    let item = (atom.clone(), prop::option::weighted(0.3, atom.clone()), prop::option::weighted(0.3, atom)).prop_map(|(from, to, step)| {
        [Some(from), to.map(|to| format!("-{to}")), step.map(|step| format!("/{step}"))].into_iter().flatten().collect()
    });
    let field = prop::collection::vec(item, 1..3).prop_map(|items: Vec<String>| items.join(","));
    let fields = prop::collection::vec(field, 4..8).prop_map(|fields| fields.join(" "));
    let words = "@(every|daily|hourly|reboot|EVERY) ?([0-9]{0,4}[wdhmsx ]){0,4}";
    let prefix = prop::option::weighted(0.1, "(CRON_TZ|TZ|tz)=(UTC|Europe/Berlin|europe/berlin|X|) ");
    (prefix, prop_oneof![9 => fields, 1 => words]).prop_map(|(prefix, rest)| prefix.unwrap_or_default() + &rest)
}

/// Expressions that parse, of all kinds: both classes, all rules, dense and sparse.
fn valid() -> impl Strategy<Value = String> {
    let time = |max: u32| {
        prop_oneof![
            2 => Just("*".to_owned()),
            2 => (0..=max).prop_map(|n| n.to_string()),
            1 => (1..=max).prop_map(|n| format!("*/{n}")),
            1 => (0..=max, 0..=max).prop_map(|(a, b)| format!("{a}-{b}")),
            1 => (0..=max, 0..=max).prop_map(|(a, b)| format!("{a},{b}")),
            1 => Just("H".to_owned()),
        ]
    };
    let day = prop_oneof![
        6 => Just("*".to_owned()),
        1 => (1..=28u32).prop_map(|n| n.to_string()),
        1 => (2..=9u32).prop_map(|n| format!("*/{n}")),
        1 => prop::sample::select(&["L", "LW", "1W", "15W", "28W", "L-3", "28-3", "29"][..]).prop_map(str::to_owned),
    ];
    let month = prop_oneof![8 => Just("*".to_owned()), 1 => (1..=12u32).prop_map(|n| n.to_string()), 1 => Just("OCT-MAR".to_owned())];
    let weekday = prop_oneof![
        6 => Just("*".to_owned()),
        1 => (0..=7u32).prop_map(|n| n.to_string()),
        1 => prop::sample::select(&["MON-FRI", "FRI-MON", "*/2", "5L", "SUN#1", "3#5"][..]).prop_map(str::to_owned),
    ];
    let every = (1..200_000u32).prop_map(|seconds| format!("@every {seconds}s"));
    let fields =
        (prop::option::of(time(59)), time(59), time(23), day, month, weekday).prop_map(|(second, minute, hour, day, month, weekday)| {
            format!("{} {minute} {hour} {day} {month} {weekday}", second.unwrap_or_default())
        });
    prop_oneof![19 => fields, 1 => every]
}

fn zone() -> impl Strategy<Value = String> {
    let names: Vec<String> =
        TimeZoneDatabase::bundled().available().map(|name| name.to_string()).filter(|name| !name.contains("Unknown")).collect();
    const ODD: &[&str] =
        &["Europe/Berlin", "Australia/Lord_Howe", "Asia/Beirut", "America/Santiago", "Antarctica/Troll", "America/Nuuk", "UTC"];
    prop_oneof![prop::sample::select(names), prop::sample::select(ODD).prop_map(str::to_owned)]
}

/// Any instant, with the calendar's ends and changes of the clock more often than chance has them.
fn instant() -> impl Strategy<Value = i64> {
    prop_oneof![
        2 => any::<i64>(),
        3 => UnixMs::MIN.0..UnixMs::MAX.0,
        5 => -2_200_000_000_000i64..5_000_000_000_000,
        1 => prop::sample::select(&[i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX, UnixMs::MIN.0, UnixMs::MAX.0][..]),
    ]
}

/// An instant within a day and a half of a change of a zone's clock, in milliseconds.
fn near_change(zone: &str, around_s: i64, shift_s: i64) -> i64 {
    let tz = TimeZoneDatabase::bundled().get(zone).unwrap();
    let change = tz.following(Timestamp::from_second(around_s).unwrap()).next();
    change.map_or(around_s, |change| change.timestamp().as_second() + shift_s) * 1000
}

/// Whatever the text: an error that points into it, or a schedule that behaves.
fn parses_or_points(text: &str, zone: Option<&str>, anchor: i64, instant: i64) -> Result<(), TestCaseError> {
    let schedule = match Schedule::parse(text, zone, name_seed(text), UnixMs(anchor)) {
        Ok(schedule) => schedule,
        Err(error) => {
            let characters = if error.property() == "schedule" { text.chars().count() } else { zone.unwrap_or("").chars().count() };
            prop_assert!(error.column() >= 1 && error.column() - 1 + error.length() <= characters, "{text:?}: {error}");
            prop_assert!(!error.to_string().is_empty() && !error.allowed().is_empty());
            return Ok(());
        }
    };
    let mut at = UnixMs(instant);
    for _ in 0..4 {
        let Some(fire) = schedule.next_after(at) else {
            // Only past the last fires of the calendar; the rarest days are 40 years apart.
            let is_late = at.0 > UnixMs::MAX.0 - 101 * 366 * 86_400_000;
            prop_assert!(is_late || anchor > UnixMs::MAX.0, "`{text}` ends after {at}");
            break;
        };
        prop_assert!(fire > at, "`{text}`: {fire} after {at}");
        prop_assert!((UnixMs::MIN..=UnixMs::MAX).contains(&fire), "`{text}`: {}", fire.0);
        prop_assert_eq!(schedule.count_between(at, fire), 1, "`{}`", text);
        prop_assert_eq!(schedule.last_between(at, fire, 9), vec![fire], "`{}`", text);
        at = fire;
    }
    Ok(())
}

#[test]
fn any_text_and_any_instant_neither_panic_nor_go_back() {
    let texts = prop_oneof![2 => any::<String>(), 1 => "[ -~]{0,40}", 1 => "\\PC{0,12}( \\PC{0,3}){4,6}"];
    let inputs = (texts, prop::option::of("\\PC{0,20}"), any::<i64>(), instant());
    check(3_000, &inputs, |(text, zone, anchor, instant)| {
        parses_or_points(&text, zone.as_deref(), anchor, instant)?;
        parses_or_points(&text, None, anchor, instant)
    });
}

#[test]
fn text_like_an_expression_neither_panics_nor_goes_back() {
    check(6_000, &(cron_like(), prop::option::of(zone()), instant(), instant()), |(text, zone, anchor, instant)| {
        parses_or_points(&text, zone.as_deref(), anchor, instant)
    });
}

#[test]
fn valid_expressions_only_go_forward_from_any_instant() {
    check(3_000, &(valid(), zone(), instant(), instant()), |(text, zone, anchor, instant)| {
        parses_or_points(&text, Some(&zone), anchor, instant)
    });
}

/// All fires in `(after, to]` by stepping, the plain way.
fn stepped(schedule: &Schedule, after: UnixMs, to: UnixMs) -> Vec<UnixMs> {
    let mut fires = Vec::new();
    let mut at = after;
    while let Some(fire) = schedule.next_after(at).filter(|fire| *fire <= to) {
        assert!(fire > at, "{fire} after {at}");
        fires.push(fire);
        at = fire;
    }
    fires
}

#[test]
fn counting_and_the_last_fires_agree_with_stepping_over_changes_of_the_clock() {
    let spans = prop_oneof![3 => 0i64..20_000, 2 => 0i64..200_000, 1 => 0i64..90_000_000];
    let inputs = (valid(), zone(), -2_200_000_000i64..6_000_000_000, -100_000i64..20_000, spans, 0usize..30, 0i64..1000);
    check(3_000, &inputs, |(text, zone, around_s, shift_s, span_s, max, ms)| {
        let after = UnixMs(near_change(&zone, around_s, shift_s) + ms);
        let schedule = match Schedule::parse(&text, Some(&zone), 7, after - 1_000_000) {
            Ok(schedule) => schedule,
            Err(_) => return Ok(()),
        };
        // Dense schedules are stepped over a shorter span.
        let mut to = after.plus_secs(span_s);
        let is_dense = schedule.last_between(after, to, 5_000).len() == 5_000;
        if is_dense {
            to = after.plus_secs(span_s.min(5_000));
        }
        let fires = stepped(&schedule, after, to);
        prop_assert_eq!(schedule.count_between(after, to), fires.len() as u64, "`{}` in {} ({}, {}]", &text, &zone, after, to);
        let last = &fires[fires.len().saturating_sub(max)..];
        prop_assert_eq!(schedule.last_between(after, to, max), last, "`{}` in {} ({}, {}]", &text, &zone, after, to);
        prop_assert_eq!(schedule.count_between(to, after), 0);
        Ok(())
    });
}

/// Counting may be cut anywhere: the parts make the whole. So long spans, which can't be stepped, are held to short ones.
#[test]
fn counts_of_parts_add_up_over_the_whole_calendar() {
    check(20, &(valid(), zone(), instant(), instant(), instant()), |(text, zone, a, b, c)| {
        let Ok(schedule) = Schedule::parse(&text, Some(&zone), 7, UnixMs(0)) else { return Ok(()) };
        let mut cuts = [a, b, c].map(UnixMs);
        cuts.sort_unstable();
        let [a, b, c] = cuts;
        prop_assert_eq!(
            schedule.count_between(a, c),
            schedule.count_between(a, b) + schedule.count_between(b, c),
            "`{}` in {}",
            &text,
            &zone
        );
        Ok(())
    });
}

/// A brute-force definition for jobs of whole minutes, independent of stretches, since 1973 when all
/// offsets are whole minutes: each minute of four days around a change is read
/// on jiff's clock. An interval job fires where the reading matches; a wall-clock job where it matches for the first time, and at
/// the first instant after a jump over matching readings.
#[test]
fn fires_around_changes_are_those_of_a_minute_by_minute_scan() {
    let hours = prop_oneof![(0..24u32).prop_map(|h| vec![h]), (0..24u32, 0..24u32).prop_map(|(a, b)| vec![a.min(b), a.max(b)])];
    let inputs = (prop::option::of(hours), prop::collection::btree_set(0..60u32, 1..4), zone(), 100_000_000i64..6_000_000_000);
    check(400, &inputs, |(hours, minutes, zone, around_s)| {
        let list = |values: Vec<String>| values.join(",");
        let minute_text = list(minutes.iter().map(u32::to_string).collect());
        let hour_text = hours.as_ref().map_or("*".to_owned(), |hours| list(hours.iter().map(u32::to_string).collect()));
        let text = format!("{minute_text} {hour_text} * * *");
        let tz = TimeZoneDatabase::bundled().get(&zone).unwrap();
        let reading = |minute: i64| {
            let at = Timestamp::from_second(minute * 60).unwrap();
            (at.as_second() + i64::from(tz.to_offset(at).seconds())).div_euclid(60)
        };
        let matches = |reading: i64| {
            let hour = reading.rem_euclid(1440) / 60;
            minutes.contains(&(reading.rem_euclid(60) as u32)) && hours.as_ref().is_none_or(|hours| hours.contains(&(hour as u32)))
        };
        let change = near_change(&zone, around_s, 0) / 60_000;
        let mut expected = Vec::new();
        let mut seen = reading(change - 2_881);
        for minute in change - 2_880..change + 2_880 {
            let now = reading(minute);
            let missed = hours.is_some() && (seen + 1..now).any(matches);
            if missed || (matches(now) && (hours.is_none() || now > seen)) {
                expected.push(UnixMs::from_secs(minute * 60));
            }
            seen = seen.max(now);
        }
        let schedule = Schedule::parse(&text, Some(&zone), 0, UnixMs(0)).unwrap();
        let from = UnixMs::from_secs((change - 2_881) * 60);
        let found = stepped(&schedule, from, UnixMs::from_secs((change + 2_879) * 60));
        prop_assert_eq!(found, expected, "`{}` in {} around {}", text, zone, UnixMs::from_secs(change * 60));
        Ok(())
    });
}

/// A month of an every-second job: counted, and its end taken, without stepping through 2.7 million fires.
#[test]
fn a_month_of_seconds_is_counted_exactly() {
    for (text, count) in [("* * * * * *", 31 * 86_400), ("* * * * * MON-FRI", 22 * 86_400), ("* * 9-16 * * *", 31 * 8 * 3_600)] {
        // March 2026 in Berlin lacks an hour, which an interval job loses.
        let schedule = Schedule::parse(text, Some("Europe/Berlin"), 0, UnixMs(0)).unwrap();
        let (after, to): (UnixMs, UnixMs) = ("2026-02-28T22:59:59Z".parse().unwrap(), "2026-03-31T21:59:59Z".parse().unwrap());
        let lost = if text.starts_with("* * * * * *") { 3_600 } else { 0 };
        assert_eq!(schedule.count_between(after, to), count - lost, "{text}");
        assert_eq!(schedule.last_between(after, to, 3).len(), 3);
    }
}

/// 100,000 of them fit into a few megabytes; engines hold that many.
#[test]
fn a_schedule_is_small() {
    assert!(size_of::<Schedule>() <= 80, "{} bytes", size_of::<Schedule>());
}
