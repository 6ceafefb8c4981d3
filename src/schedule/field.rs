//! The six fields: their names, their values, and the words that stand for values.

/// A field of a cron expression, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Second,
    Minute,
    Hour,
    DayOfMonth,
    Month,
    DayOfWeek,
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// The longest month that every year has days for: plain `H` stays below the month ends that come and go.
pub(super) const LAST_DAY_OF_ALL_MONTHS: u8 = 28;

impl Field {
    pub const ALL: [Field; 6] = [Field::Second, Field::Minute, Field::Hour, Field::DayOfMonth, Field::Month, Field::DayOfWeek];

    pub const fn name(self) -> &'static str {
        match self {
            Field::Second => "second",
            Field::Minute => "minute",
            Field::Hour => "hour",
            Field::DayOfMonth => "day-of-month",
            Field::Month => "month",
            Field::DayOfWeek => "day-of-week",
        }
    }

    /// The smallest value that may be written.
    pub(super) const fn min(self) -> u8 {
        match self {
            Field::DayOfMonth | Field::Month => 1,
            _ => 0,
        }
    }

    /// The largest value that may be written; 7 is Sunday, as 0 is (crontab(5)).
    pub(super) const fn max(self) -> u8 {
        match self {
            Field::Second | Field::Minute => 59,
            Field::Hour => 23,
            Field::DayOfMonth => 31,
            Field::Month => 12,
            Field::DayOfWeek => 7,
        }
    }

    /// How many different values there are: the longest step that means anything.
    pub(super) const fn count(self) -> u8 {
        match self {
            Field::DayOfWeek => 7,
            _ => self.max() - self.min() + 1,
        }
    }

    /// The mask of all values, Sunday being 0.
    pub(super) const fn full(self) -> u64 {
        ((1 << self.count()) - 1) << self.min()
    }

    /// The values that plain `H` chooses from.
    pub(super) const fn hashed_range(self) -> (u8, u8) {
        match self {
            Field::DayOfMonth => (1, LAST_DAY_OF_ALL_MONTHS),
            Field::DayOfWeek => (0, 6),
            _ => (self.min(), self.max()),
        }
    }

    /// What an error says is allowed as one value.
    pub(super) const fn allowed(self) -> &'static str {
        match self {
            Field::Second | Field::Minute => "0-59",
            Field::Hour => "0-23",
            Field::DayOfMonth => "1-31",
            Field::Month => "1-12 or JAN-DEC",
            Field::DayOfWeek => "0-7 (0 and 7 are Sunday) or SUN-SAT",
        }
    }

    /// The value that a word of three letters stands for, in any case.
    pub(super) fn named(self, word: &str) -> Option<u8> {
        let (names, first): (&[&str], usize) = match self {
            Field::Month => (&MONTHS, 1),
            Field::DayOfWeek => (&DAYS, 0),
            _ => return None,
        };
        let at = names.iter().position(|name| name.eq_ignore_ascii_case(word))?;
        u8::try_from(at + first).ok()
    }
}
