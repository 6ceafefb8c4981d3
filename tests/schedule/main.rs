//! What a schedule promises, seen from outside: the fires of an expression in a zone, and the errors of a wrong one.

mod cases;
mod daylight;
mod dialect;
mod errors;
mod every;
mod oracle;
mod random;

use chrono_flow::model::UnixMs;
use chrono_flow::schedule::{Schedule, ScheduleError};

/// A schedule without `H` and without `@every`, which need neither a seed nor an anchor.
fn parse(text: &str, zone: &str) -> Result<Schedule, ScheduleError> {
    Schedule::parse(text, Some(zone), 0, UnixMs(0))
}

fn at(text: &str) -> UnixMs {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// The next `count` fires after an instant, as RFC 3339.
fn fires(schedule: &Schedule, after: UnixMs, count: usize) -> Vec<String> {
    let next = |from: &UnixMs| schedule.next_after(*from);
    std::iter::successors(next(&after), next).take(count).map(|fire| fire.to_string()).collect()
}
