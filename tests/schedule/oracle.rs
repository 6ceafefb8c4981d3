//! A random comparison against croner 4, which was written by others.
//!
//! croner is asked for readings of the wall clock only. The two rules that we see differently are accounted for: where a day field
//! begins with a star, croner gets its `+`, which combines the day fields by AND; and readings become instants here, by our rules,
//! from jiff's ambiguity API, which the product doesn't use. Forms that croner doesn't know (wrapping ranges, `n/step`) it gets
//! as lists of values.

use std::fmt::Write;

use chrono::{NaiveDateTime, TimeDelta};
use chrono_flow::model::UnixMs;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, civil};

use crate::parse;
use crate::random::{Random, cases, seed};

/// How many fires of each case are compared.
const FIRES: usize = 5;

/// Readings taken from croner for one case: those of two days, each second, for zones that changed their date.
const READINGS_MAX: usize = 200_000;

const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// One expression, as we write it and as croner gets it.
struct Pair {
    ours: String,
    theirs: String,
    interval: bool,
}

struct FieldCase {
    ours: String,
    theirs: String,
}

fn plain(text: impl Into<String>) -> FieldCase {
    let text = text.into();
    FieldCase { theirs: text.clone(), ours: text }
}

/// A value as a number or, at times, as a name.
fn value(random: &mut Random, value: i64, names: &[&str], first: i64) -> String {
    let at = usize::try_from(value - first).ok().and_then(|at| names.get(at));
    match at {
        Some(name) if random.chance(30) => (*name).to_owned(),
        _ => value.to_string(),
    }
}

fn item(random: &mut Random, (min, max): (i64, i64), names: &[&str]) -> FieldCase {
    // croner counts 0 to 7 in the week; wrapping ranges have seven days.
    let length = if max == 7 { 7 } else { max - min + 1 };
    let from = random.within(min, max);
    match random.within(0, 9) {
        0..=4 => FieldCase { ours: value(random, from, names, min), theirs: from.to_string() },
        5 if random.chance(50) => {
            let step = random.within(1, length);
            let list: Vec<String> = (from..=max).step_by(step as usize).map(|value| value.to_string()).collect();
            FieldCase { ours: format!("{}/{step}", value(random, from, names, min)), theirs: list.join(",") }
        }
        kind => {
            let to = random.within(min, max);
            let step = if kind < 8 { 1 } else { random.within(1, length.min(9)) };
            let span = if from <= to { to - from + 1 } else { to % 7 + length - from % 7 + 1 };
            let span = if from <= to || max == 7 { span } else { to - from + length + 1 };
            // Seven and Sunday's zero are one day, so that 7-2 begins with Sunday and 7-0 is Sunday alone.
            let (start, span) = if max == 7 && from == 7 && to < 7 { (0, to + 1) } else { (from, span) };
            let wrap = |value: i64| if max == 7 { value % 7 } else { (value - min) % length + min };
            let list: Vec<String> = (start..start + span).step_by(step as usize).map(|value| wrap(value).to_string()).collect();
            let mut ours = format!("{}-{}", value(random, from, names, min), value(random, to, names, min));
            if step > 1 || random.chance(10) {
                let _ = write!(ours, "/{step}");
            }
            FieldCase { ours, theirs: list.join(",") }
        }
    }
}

fn field(random: &mut Random, range: (i64, i64), names: &[&str], star: i64) -> FieldCase {
    if random.chance(star) {
        return plain("*");
    }
    if random.chance(20) {
        let step = random.within(2, (range.1 - range.0).min(20));
        return plain(format!("*/{step}"));
    }
    let count = *random.pick(&[1, 1, 1, 2, 3]);
    let items: Vec<FieldCase> = (0..count).map(|_| item(random, range, names)).collect();
    let join = |part: fn(&FieldCase) -> &str| items.iter().map(part).collect::<Vec<_>>().join(",");
    FieldCase { ours: join(|item| &item.ours), theirs: join(|item| &item.theirs) }
}

fn day_of_month(random: &mut Random) -> FieldCase {
    match random.within(0, 19) {
        0 => plain("L"),
        1 => plain("LW"),
        2 | 3 => plain(format!("{}W", random.within(1, 28))),
        _ => field(random, (1, 31), &[], 50),
    }
}

fn day_of_week(random: &mut Random) -> FieldCase {
    let day = random.within(0, 7);
    match random.within(0, 19) {
        0 | 1 => plain(format!("{day}L")),
        2 | 3 => plain(format!("{day}#{}", random.within(1, 5))),
        _ => field(random, (0, 7), &DAYS, 50),
    }
}

fn pair(random: &mut Random) -> Pair {
    let second = random.chance(50).then(|| field(random, (0, 59), &[], 20));
    let minute = field(random, (0, 59), &[], 30);
    let hour = field(random, (0, 23), &[], 40);
    let (day, month, weekday) = (day_of_month(random), field(random, (1, 12), &MONTHS, 60), day_of_week(random));
    // croner counts only a lone star as one; ours is any field that begins with one.
    let and = if day.ours.starts_with('*') || weekday.ours.starts_with('*') { "+" } else { "" };
    let second = second.as_ref().map_or(("", "0"), |second| (&second.ours, &second.theirs));
    let ours = format!("{} {} {} {} {} {}", second.0, minute.ours, hour.ours, day.ours, month.ours, weekday.ours);
    let theirs = format!("{} {} {} {} {} {and}{}", second.1, minute.theirs, hour.theirs, day.theirs, month.theirs, weekday.theirs);
    let mut hours: Vec<&str> = hour.theirs.split(',').collect();
    hours.sort_unstable();
    hours.dedup();
    Pair { ours, theirs, interval: hour.ours.starts_with('*') || hours.len() == 24 }
}

/// A moment within a day and a half of one of the zone's changes between 1900 and 2100, or any other.
fn moment(random: &mut Random, zone: &TimeZone) -> i64 {
    let any = random.within(-2_200_000_000, 4_100_000_000);
    let next = zone.following(Timestamp::from_second(any).unwrap()).next();
    match next {
        Some(change) if random.chance(70) => change.timestamp().as_second() + random.within(-130_000, 7_200),
        _ => any,
    }
}

/// Our rules, from jiff's ambiguity API: the instants that a reading stands for.
fn instants(reading: NaiveDateTime, zone: &TimeZone, interval: bool) -> Vec<i64> {
    let seconds = reading.and_utc().timestamp();
    let civil = civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0) + jiff::SignedDuration::from_secs(seconds);
    let at = |offset: jiff::tz::Offset| seconds - i64::from(offset.seconds());
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => vec![at(offset)],
        AmbiguousOffset::Fold { before, after } if interval => vec![at(before), at(after)],
        AmbiguousOffset::Fold { before, .. } => vec![at(before)],
        AmbiguousOffset::Gap { .. } if interval => vec![],
        // The reading with the offset of before lies after the jump: the last change up to there is the jump.
        AmbiguousOffset::Gap { before, .. } => {
            let after = Timestamp::from_second(at(before) + 1).unwrap();
            vec![zone.preceding(after).next().expect("a gap comes of a change").timestamp().as_second()]
        }
    }
}

/// The next fires after `from` as croner's readings give them.
fn expected(cron: &Cron, zone: &TimeZone, interval: bool, from: i64) -> Vec<i64> {
    // Back by what the clock was changed, so that a second pass and the fire for a gap are not missed.
    let mut reading = jiff_reading(zone, from) - TimeDelta::seconds(changed_nearby(zone, from));
    let mut fires = Vec::new();
    for _ in 0..READINGS_MAX {
        let Ok(next) = cron.find_next_occurrence(&reading, false) else { return fires };
        reading = next;
        fires.extend(instants(next, zone, interval).into_iter().filter(|fire| *fire > from));
        fires.sort_unstable();
        fires.dedup();
        // Instants come in the order of their readings, but for what a change of the clock nearby mixes.
        if let Some(last) = fires.get(FIRES - 1)
            && jiff_reading(zone, *last) + TimeDelta::seconds(changed_nearby(zone, *last)) <= reading
        {
            fires.truncate(FIRES);
            return fires;
        }
        fires.truncate(4 * FIRES);
    }
    panic!("{READINGS_MAX} readings do not settle the next {FIRES} fires");
}

/// By how many seconds the clock changes in all within two days of an instant.
fn changed_nearby(zone: &TimeZone, instant: i64) -> i64 {
    let at = |instant: i64| Timestamp::from_second(instant).unwrap();
    let changes = zone.following(at(instant - 172_800)).take_while(|change| change.timestamp() <= at(instant + 172_800));
    let offset = |instant: Timestamp| i64::from(zone.to_offset(instant).seconds());
    changes.map(|change| (offset(change.timestamp()) - offset(at(change.timestamp().as_second() - 1))).abs()).sum()
}

fn jiff_reading(zone: &TimeZone, instant: i64) -> NaiveDateTime {
    let offset = zone.to_offset(Timestamp::from_second(instant).unwrap()).seconds();
    chrono::DateTime::from_timestamp(instant + i64::from(offset), 0).unwrap().naive_utc()
}

#[test]
fn random_expressions_fire_as_croner_says_with_our_two_rules() {
    let seed = seed();
    let cases = cases(1_500);
    let mut random = Random::new(seed);
    let database = TimeZoneDatabase::bundled();
    // Nuuk: jiff's ambiguity API reports a fold that never was.
    let zones: Vec<String> = database
        .available()
        .map(|name| name.to_string())
        .filter(|name| !name.contains("Unknown") && name != "America/Nuuk" && name != "America/Godthab")
        .collect();
    let parser = CronParser::builder().seconds(Seconds::Required).build();
    let mut compared = 0;
    for case in 0..cases {
        let pair = pair(&mut random);
        let name = if random.chance(15) { "UTC" } else { random.pick(&zones) };
        let zone = database.get(name).unwrap();
        let from = moment(&mut random, &zone);
        let told = format!("case {case} of CHRONO_FLOW_SEED={seed} CHRONO_FLOW_CASES={cases}: `{}` in {name} from {from}", pair.ours);
        let Ok(schedule) = parse(&pair.ours, name) else {
            // Only what never fires may be refused: croner must find nothing either. A year far from a leap day shows it, soon.
            let cron = parser.parse(&pair.theirs).unwrap_or_else(|error| panic!("{told}: {error}"));
            let error = parse(&pair.ours, name).unwrap_err();
            assert!(error.to_string().contains("never match"), "{told}: {error}");
            let year = jiff_reading(&zone, 0);
            let found = cron.find_next_occurrence(&year, false).ok();
            assert!(found.is_none(), "{told}: refused, but croner finds {found:?}");
            continue;
        };
        let cron = parser.parse(&pair.theirs).unwrap_or_else(|error| panic!("{told}, croner's `{}`: {error}", pair.theirs));
        let expected = expected(&cron, &zone, pair.interval, from);
        let mut found = Vec::new();
        let mut at = UnixMs::from_secs(from);
        while found.len() < expected.len() {
            at = schedule.next_after(at).unwrap_or_else(|| panic!("{told}: ends after {found:?}, expected {expected:?}"));
            found.push(at.0 / 1000);
        }
        assert_eq!(found, expected, "{told}, croner's `{}`", pair.theirs);
        compared += expected.len().min(1);
    }
    assert!(compared * 10 > cases as usize * 9, "only {compared} of {cases} were compared");
}
