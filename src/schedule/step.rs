//! Readings of a wall clock that match an expression: seconds since the epoch as the clock shows them, without any time zone.
//!
//! The only module that knows saffron. saffron steps from minute to minute and knows the calendar's days; seconds, the rule that
//! crontab(5) has for stars in the day fields, counting and walking back are done here from the same masks.
//! Time zones and daylight saving are left to `resolve`.

use chrono::{DateTime, Datelike, Utc};
use saffron::Cron;

pub(super) const MINUTE_S: i64 = 60;
pub(super) const HOUR_S: i64 = 3_600;
pub(super) const DAY_S: i64 = 86_400;

/// The Gregorian calendar, with its weekdays, repeats after 400 years.
pub(super) const CYCLE_DAYS: i64 = 146_097;

/// How far ahead a match is searched. The rarest days that exist, a 29 February on a given weekday, are 40 years apart.
const HORIZON_S: i64 = 100 * 366 * DAY_S;
/// How many days that the engine offers may be filtered out in a row: a day rule is met at most 23 times a month, and any filter
/// passes one of these within 40 years for rules of February and within months for others.
const FILTERED_DAYS_MAX: usize = 4_000;

/// A condition on the day beside what the engine steps by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DayFilter {
    None,
    /// Bit d for day d of the month.
    OfMonth(u32),
    /// Bit d for day d of the week, Sunday being 0.
    OfWeek(u8),
}

/// The set of matching readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Calendar {
    seconds: u64,
    minutes: u64,
    hours: u32,
    filter: DayFilter,
    every_day: bool,
    cron: Cron,
}

impl Calendar {
    /// `canonical` is the text that `canonical` writes; the masks say the same of seconds, minutes and hours, and none is empty.
    pub(super) fn new(canonical: &str, seconds: u64, minutes: u64, hours: u64, filter: DayFilter, every_day: bool) -> Calendar {
        let cron = canonical.parse().expect("canonical text holds only numbers within the fields' ranges, in a form that saffron reads");
        Calendar { seconds, minutes, hours: hours as u32, filter, every_day, cron }
    }

    /// Whether no day matches at all.
    pub(super) fn never_fires(&self) -> bool {
        !self.every_day && self.next_after(0).is_none()
    }

    /// The first match after `reading`. None if there is none within 100 years.
    pub(super) fn next_after(&self, reading: i64) -> Option<i64> {
        let second = reading.rem_euclid(MINUTE_S);
        let minute = reading - second;
        let later = self.seconds & !below(second + 1);
        if later != 0 && self.has_minute(minute) {
            return Some(minute + i64::from(later.trailing_zeros()));
        }
        let mut at = minute;
        for _ in 0..FILTERED_DAYS_MAX {
            let next = self.cron.next_after(date_time(at)?)?;
            let found = next.timestamp();
            if found - reading > HORIZON_S {
                return None;
            }
            if self.passes(&next) {
                return Some(found + i64::from(self.seconds.trailing_zeros()));
            }
            // From the day's last minute, so that the engine offers a later day.
            at = found - found.rem_euclid(DAY_S) + DAY_S - MINUTE_S;
        }
        None
    }

    /// The last match within `first..=last`.
    pub(super) fn last_within(&self, first: i64, last: i64) -> Option<i64> {
        let mut day = last.div_euclid(DAY_S);
        let mut time = last.rem_euclid(DAY_S);
        while day >= first.div_euclid(DAY_S) {
            if let Some(found) = self.last_time(time).filter(|_| self.has_day(day)) {
                return Some(day * DAY_S + found).filter(|reading| *reading >= first);
            }
            day -= 1;
            time = DAY_S - 1;
        }
        None
    }

    /// How many matches lie within `first..=last`. Costs a look at each day, at most 400 years of them.
    pub(super) fn count_within(&self, first: i64, last: i64) -> u64 {
        if first > last {
            return 0;
        }
        // Readings before the end minus readings before the start: the days of both are looked at once, apart from the whole days.
        let (from_day, from_time) = (first.div_euclid(DAY_S), first.rem_euclid(DAY_S));
        let (to_day, to_time) = ((last + 1).div_euclid(DAY_S), (last + 1).rem_euclid(DAY_S));
        let mut count = self.days_between(from_day, to_day) * self.times_before(DAY_S);
        if to_time > 0 && self.has_day(to_day) {
            count += self.times_before(to_time);
        }
        if from_time > 0 && self.has_day(from_day) {
            count -= self.times_before(from_time);
        }
        count
    }

    /// How many days match within `from..to`, counted from the epoch.
    fn days_between(&self, from: i64, to: i64) -> u64 {
        if self.every_day {
            return (to - from).unsigned_abs();
        }
        let cycles = (to - from) / CYCLE_DAYS;
        let rest = from + cycles * CYCLE_DAYS;
        let in_cycle = if cycles > 0 { (from..from + CYCLE_DAYS).filter(|day| self.has_day(*day)).count() as u64 } else { 0 };
        in_cycle * cycles.unsigned_abs() + (rest..to).filter(|day| self.has_day(*day)).count() as u64
    }

    fn has_day(&self, day: i64) -> bool {
        self.every_day || {
            // Any matching minute of the day will do to ask the engine about the day.
            let time = i64::from(self.hours.trailing_zeros()) * HOUR_S + i64::from(self.minutes.trailing_zeros()) * MINUTE_S;
            date_time(day * DAY_S + time).is_some_and(|at| self.cron.contains(at) && self.passes(&at))
        }
    }

    fn has_minute(&self, minute: i64) -> bool {
        let time = minute.rem_euclid(DAY_S);
        self.hours >> (time / HOUR_S) & 1 == 1
            && self.minutes >> (time % HOUR_S / MINUTE_S) & 1 == 1
            && self.has_day(minute.div_euclid(DAY_S))
    }

    fn passes(&self, at: &DateTime<Utc>) -> bool {
        match self.filter {
            DayFilter::None => true,
            DayFilter::OfMonth(mask) => mask >> at.day() & 1 == 1,
            DayFilter::OfWeek(mask) => mask >> at.weekday().num_days_from_sunday() & 1 == 1,
        }
    }

    /// How many of a matching day's readings come before `time`, 0 to 86,400 seconds of the day.
    fn times_before(&self, time: i64) -> u64 {
        let (hour, minute, second) = (time / HOUR_S, time % HOUR_S / MINUTE_S, time % MINUTE_S);
        let ones = |mask: u64| u64::from(mask.count_ones());
        let hours = u64::from(self.hours);
        let mut count = ones(hours & below(hour)) * ones(self.minutes) * ones(self.seconds);
        if hours >> hour & 1 == 1 {
            count += ones(self.minutes & below(minute)) * ones(self.seconds);
            if self.minutes >> minute & 1 == 1 {
                count += ones(self.seconds & below(second));
            }
        }
        count
    }

    /// The last of a matching day's readings at or before `time`, seconds of the day.
    fn last_time(&self, time: i64) -> Option<i64> {
        let (hour, minute, second) = (time / HOUR_S, time % HOUR_S / MINUTE_S, time % MINUTE_S);
        let hours = u64::from(self.hours);
        if hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(last) = highest(self.seconds & below(second + 1))
            {
                return Some(hour * HOUR_S + minute * MINUTE_S + last);
            }
            if let Some(last) = highest(self.minutes & below(minute)) {
                return Some(hour * HOUR_S + last * MINUTE_S + highest(self.seconds)?);
            }
        }
        let last = highest(hours & below(hour))?;
        Some(last * HOUR_S + highest(self.minutes)? * MINUTE_S + highest(self.seconds)?)
    }
}

/// A mask of the values below `n`, which is at most 60.
fn below(n: i64) -> u64 {
    (1 << n) - 1
}

fn highest(mask: u64) -> Option<i64> {
    mask.checked_ilog2().map(i64::from)
}

fn date_time(reading: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(reading, 0)
}
