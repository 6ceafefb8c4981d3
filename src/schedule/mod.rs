//! When a job fires: an expression, a time zone, and the instants that come of them. Pure: no clock, no IO, no randomness.
//!
//! ```text
//! text ─ parse ─ item ─► values a field ─ canonical ─► step (saffron) ─► readings of the wall clock
//!                                                      zone (jiff)    ─ resolve ─► instants
//! ```
//!
//! The dialect is described in docs/schedules.md. Invariants, which the tests in tests/schedule hold:
//! - whatever the text and the instants, nothing panics, and every call is bounded;
//! - what parses fires at some time; `next_after` is strictly after its argument and skips no fire;
//! - `next_after`, `count_between` and `last_between` speak of one and the same set of fires;
//! - the set depends on nothing but the arguments of `parse` and the crate's version, so it is the same on every node.
//!
//! Fires are whole seconds, except those of `@every`, which keep the milliseconds of their anchor, and lie between
//! [`UnixMs::MIN`] and [`UnixMs::MAX`]. `starts_at`, `ends_at` and jitter are the engine's business.

mod canonical;
mod error;
mod every;
mod field;
mod hash;
mod item;
mod parse;
mod resolve;
mod step;
mod zone;

use crate::model::UnixMs;

pub use error::{Part, ScheduleError};
pub use field::Field;
pub use hash::seed;

use every::Every;
use parse::Meaning;
use resolve::Clock;
use step::Calendar;
use zone::Zone;

/// A parsed schedule. Small (no heap of its own) and cheap to clone; zones are shared.
#[derive(Debug, Clone)]
pub struct Schedule {
    zone: &'static Zone,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Fires at every instant whose reading matches.
    Interval(Calendar),
    /// Fires once for each matching reading.
    WallClock(Calendar),
    Every(Every),
}

/// What makes the fires: readings of a clock, or elapsed time.
enum Fires<'a> {
    Clock(Clock<'a>),
    Every(&'a Every),
}

impl Schedule {
    /// Reads a user's expression.
    ///
    /// `zone` is the IANA name of the job's `time_zone`; without it a `CRON_TZ=`/`TZ=` prefix decides, and else UTC. `seed` is
    /// [`seed`] of the job's name, for `H`. `anchor` is where `@every` counts from: the job's `starts_at` or else `created_at`.
    pub fn parse(text: &str, zone: Option<&str>, seed: u64, anchor: UnixMs) -> Result<Schedule, ScheduleError> {
        let (prefix, expression) = parse::prefix(text)?;
        let zone = zone::choose(zone, prefix)?;
        let kind = match parse::expression(expression, seed, anchor.0)? {
            Meaning::Clock { calendar, interval: true } => Kind::Interval(calendar),
            Meaning::Clock { calendar, interval: false } => Kind::WallClock(calendar),
            Meaning::Every(every) => Kind::Every(every),
        };
        Ok(Schedule { zone, kind })
    }

    /// The first fire strictly after `instant`; None only where the calendar ends.
    pub fn next_after(&self, instant: UnixMs) -> Option<UnixMs> {
        match self.fires() {
            Fires::Clock(clock) => clock.next_after(second(instant)).map(UnixMs::from_secs),
            Fires::Every(every) => every.next_after(instant),
        }
    }

    /// How many fires lie in `(after, to]`. Costs a look at each day of the span, or none for jobs of every day.
    pub fn count_between(&self, after: UnixMs, to: UnixMs) -> u64 {
        match self.fires() {
            Fires::Clock(clock) => clock.count_between(second(after), second(to)),
            Fires::Every(every) => every.count_between(after, to),
        }
    }

    /// The last `max` fires in `(after, to]`, ascending. The work grows with what is returned, not with the span.
    pub fn last_between(&self, after: UnixMs, to: UnixMs, max: usize) -> Vec<UnixMs> {
        match self.fires() {
            Fires::Clock(clock) => {
                let latest_first = clock.last_between(second(after), second(to), max);
                latest_first.into_iter().rev().map(UnixMs::from_secs).collect()
            }
            Fires::Every(every) => every.last_between(after, to, max),
        }
    }

    /// The IANA name of the time zone, spelled as the database spells it.
    pub fn zone_name(&self) -> &str {
        self.zone.name()
    }

    fn fires(&self) -> Fires<'_> {
        match &self.kind {
            Kind::Interval(calendar) => Fires::Clock(Clock { calendar, zone: self.zone, interval: true }),
            Kind::WallClock(calendar) => Fires::Clock(Clock { calendar, zone: self.zone, interval: false }),
            Kind::Every(every) => Fires::Every(every),
        }
    }
}

/// The whole second at or before an instant. Fires being whole seconds, `(after, to]` in milliseconds and in these are the same.
fn second(instant: UnixMs) -> i64 {
    instant.0.div_euclid(1000)
}
