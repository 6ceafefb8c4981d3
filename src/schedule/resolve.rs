//! Readings of the wall clock to instants: the daylight-saving rules.
//!
//! - An *interval* job fires at every instant whose reading matches: nothing is made up in a gap, and both passes of a fold count.
//! - A *wall-clock* job fires once for each matching reading: at its first pass in a fold, and for those that a gap skips, once
//!   together, at the first instant after the gap.
//!
//! The zone's stretches of constant offset are gone through one by one. In each, the readings that count are those from
//! [`Stretch::first_reading`] (interval), or from there but not [seen](Stretch::seen) before (wall-clock). Instants are seconds.

use super::step::Calendar;
use super::zone::{FIRST_S, LAST_S, Stretch, Zone};

/// A matching set of readings on a zone's clock.
pub(super) struct Clock<'a> {
    pub(super) calendar: &'a Calendar,
    pub(super) zone: &'a Zone,
    pub(super) interval: bool,
}

impl Clock<'_> {
    /// The first reading of a stretch that counts.
    fn first_counted(&self, stretch: &Stretch) -> i64 {
        let first = stretch.first_reading();
        if self.interval { first } else { first.max(stretch.seen) }
    }

    /// Whether a wall-clock job has readings to make up for in the gap before a stretch.
    fn has_fire_for_gap(&self, stretch: &Stretch) -> bool {
        let first = stretch.first_reading();
        !self.interval && stretch.seen < first && self.calendar.next_after(stretch.seen - 1).is_some_and(|reading| reading < first)
    }

    /// The first fire after an instant.
    pub(super) fn next_after(&self, instant: i64) -> Option<i64> {
        let instant = instant.max(FIRST_S - 1);
        if instant >= LAST_S {
            return None;
        }
        let mut stretch = self.zone.stretch_at(instant);
        // `reading` is always the first match after `from`.
        let mut from = (self.first_counted(&stretch) - 1).max(instant + stretch.offset);
        let mut reading = self.calendar.next_after(from)?;
        while reading >= stretch.end_reading() {
            if stretch.end > LAST_S {
                return None;
            }
            stretch = self.zone.stretch_at(stretch.end);
            // All before `seen` was passed already, so that `reading` isn't: what lies before the stretch lies in the gap.
            if !self.interval && reading < stretch.first_reading() {
                return Some(stretch.start);
            }
            let before = self.first_counted(&stretch) - 1;
            if before < from || reading <= before {
                from = before;
                reading = self.calendar.next_after(from)?;
            }
        }
        Some(reading - stretch.offset).filter(|fire| *fire <= LAST_S)
    }

    /// How many fires lie after `after` and up to `to`.
    pub(super) fn count_between(&self, after: i64, to: i64) -> u64 {
        let (first, last) = (after.saturating_add(1).max(FIRST_S), to.min(LAST_S));
        let mut count = 0;
        let mut at = first;
        while at <= last {
            let stretch = self.zone.stretch_at(at);
            let from = self.first_counted(&stretch).max(at + stretch.offset);
            let until = last.min(stretch.end - 1) + stretch.offset;
            count += self.calendar.count_within(from, until);
            // The gap's fire may coincide with one of the stretch's own.
            let opening = self.calendar.count_within(stretch.first_reading(), stretch.first_reading());
            if stretch.start >= first && opening == 0 && self.has_fire_for_gap(&stretch) {
                count += 1;
            }
            at = stretch.end;
        }
        count
    }

    /// The last `max` fires after `after` and up to `to`, latest first.
    pub(super) fn last_between(&self, after: i64, to: i64, max: usize) -> Vec<i64> {
        let (first, mut last) = (after.saturating_add(1).max(FIRST_S), to.min(LAST_S));
        let mut fires = Vec::new();
        while last >= first && fires.len() < max {
            let stretch = self.zone.stretch_at(last);
            let from = self.first_counted(&stretch).max(first.max(stretch.start) + stretch.offset);
            let mut until = last + stretch.offset;
            while let Some(reading) = self.calendar.last_within(from, until) {
                fires.push(reading - stretch.offset);
                if fires.len() >= max {
                    return fires;
                }
                until = reading - 1;
            }
            if stretch.start >= first && fires.last() != Some(&stretch.start) && self.has_fire_for_gap(&stretch) {
                fires.push(stretch.start);
            }
            last = stretch.start - 1;
        }
        fires
    }
}
