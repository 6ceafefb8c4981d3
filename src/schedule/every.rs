//! `@every`: fires at anchor + k · period for k = 0, 1, 2, …: the same instants on every node, whatever was missed.
//!
//! The anchor itself is a fire (k = 0), so that a job with `starts_at` 12:00 and `@every 1h` fires at 12:00, 13:00, …; where the
//! anchor is the moment of creation, the first fire comes one period later, as fires are asked for strictly after it.
//! A period counts elapsed time: it knows no time zone and no daylight saving. Milliseconds of the anchor are kept.

use crate::model::UnixMs;

use super::error::{Part, Piece, ScheduleError};

/// The longest period, about 100 years: longer ones are mistakes.
const PERIOD_S_MAX: i64 = 36_525 * 86_400;

const ALLOWED: &str = "whole numbers with w, d, h, m or s, such as 1h30m or 90s; together 1s to 36525d";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Every {
    anchor_ms: i64,
    period_ms: i64,
}

/// Reads what follows `@every`: numbers with units, as Go writes durations, in whole numbers.
pub(super) fn parse(word: Piece<'_>, period: Piece<'_>, anchor_ms: i64) -> Result<Every, ScheduleError> {
    if period.is_empty() {
        return Err(word.error(Part::Period, format!("a period after @every: {ALLOWED}")));
    }
    let mut total_s: i64 = 0;
    let mut rest = period;
    while !rest.is_empty() {
        let digits = rest.bytes().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, tail) = rest.split_at(digits);
        let unit_s = match tail.bytes().first() {
            Some(b'w') => 604_800,
            Some(b'd') => 86_400,
            Some(b'h') => 3_600,
            Some(b'm') => 60,
            Some(b's') => 1,
            _ => return Err(rest.error(Part::Period, ALLOWED)),
        };
        let seconds = number.text().parse::<i64>().ok().and_then(|number| number.checked_mul(unit_s));
        total_s = match seconds.and_then(|seconds| total_s.checked_add(seconds)) {
            Some(total_s) if total_s <= PERIOD_S_MAX => total_s,
            _ => return Err(rest.error(Part::Period, ALLOWED)),
        };
        rest = tail.split_at(1).1;
    }
    match total_s {
        0 => Err(period.error(Part::Period, ALLOWED)),
        _ => Ok(Every { anchor_ms, period_ms: total_s * 1000 }),
    }
}

impl Every {
    /// How many fires lie at or before an instant of the calendar.
    fn fires_until(&self, instant_ms: i64) -> i128 {
        let elapsed = i128::from(instant_ms.min(UnixMs::MAX.0)) - i128::from(self.anchor_ms);
        (elapsed.div_euclid(i128::from(self.period_ms)) + 1).max(0)
    }

    /// The fire with this number, if the calendar covers it.
    fn fire(&self, k: i128) -> Option<UnixMs> {
        let at = i128::from(self.anchor_ms) + k * i128::from(self.period_ms);
        i64::try_from(at).ok().filter(|at| (UnixMs::MIN.0..=UnixMs::MAX.0).contains(at)).map(UnixMs)
    }

    /// The first number whose fire the calendar covers: an anchor may lie before the calendar's first day.
    fn first_after(&self, instant_ms: i64) -> i128 {
        self.fires_until(instant_ms.max(UnixMs::MIN.0 - 1))
    }

    pub(super) fn next_after(&self, instant: UnixMs) -> Option<UnixMs> {
        self.fire(self.first_after(instant.0))
    }

    pub(super) fn count_between(&self, after: UnixMs, to: UnixMs) -> u64 {
        let fires = self.fires_until(to.0) - self.first_after(after.0);
        u64::try_from(fires).unwrap_or(0)
    }

    pub(super) fn last_between(&self, after: UnixMs, to: UnixMs, max: usize) -> Vec<UnixMs> {
        let end = self.fires_until(to.0);
        let start = self.first_after(after.0).max(end - i128::try_from(max).unwrap_or(i128::MAX));
        (start..end).filter_map(|k| self.fire(k)).collect()
    }
}
