//! The fields' values to the one form that the stepping engine gets: `*`, ascending lists, and a single day rule.
//!
//! saffron reads more than this, but reads some of it wrongly (reverse ranges, `5,*`, `31W`), and knows day-of-week only as
//! 1 = Sunday … 7 = Saturday. It combines two restricted day fields by OR, as crontab(5) says for fields without a star. Where a
//! day field begins with a star, crontab(5) combines by AND: then saffron steps by one field, and the other filters its days.

use std::fmt::Write;

use super::field::Field;
use super::item::{DayRule, Values};
use super::step::{Calendar, DayFilter};

/// All fields of an expression, read.
pub(super) struct Fields {
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: Values,
    pub(super) days: Values,
    pub(super) months: u64,
    pub(super) weekdays: Values,
}

/// One day field as the engine gets it; `Any` puts no limit on the day.
enum Days {
    Any,
    List(u64),
    Rule(DayRule),
}

pub(super) fn calendar(fields: &Fields) -> Calendar {
    let (days, weekdays, filter) = combine(&fields.days, &fields.weekdays);
    let every_day = matches!((&days, &weekdays, &filter), (Days::Any, Days::Any, DayFilter::None)) && fields.months == Field::Month.full();
    let mut text = String::with_capacity(96);
    list(&mut text, Field::Minute, fields.minutes, 0);
    list(&mut text, Field::Hour, fields.hours.mask, 0);
    day_field(&mut text, Field::DayOfMonth, &days, 0);
    list(&mut text, Field::Month, fields.months, 0);
    day_field(&mut text, Field::DayOfWeek, &weekdays, 1);
    text.pop();
    Calendar::new(&text, fields.seconds, fields.minutes, fields.hours.mask, filter, every_day)
}

/// Which days the engine steps over, and what else a day must satisfy.
fn combine(days: &Values, weekdays: &Values) -> (Days, Days, DayFilter) {
    let month_days = as_days(days, Field::DayOfMonth);
    let week_days = as_days(weekdays, Field::DayOfWeek);
    if !days.star && !weekdays.star {
        return match (month_days, week_days) {
            // A field without a star that names every day matches every day, so does the OR with it.
            (Days::Any, _) | (_, Days::Any) => (Days::Any, Days::Any, DayFilter::None),
            both => (both.0, both.1, DayFilter::None),
        };
    }
    match (month_days, week_days) {
        (Days::List(_), Days::List(mask)) => (as_days(days, Field::DayOfMonth), Days::Any, DayFilter::OfWeek(mask as u8)),
        (rule @ Days::Rule(_), Days::List(mask)) => (rule, Days::Any, DayFilter::OfWeek(mask as u8)),
        (Days::List(mask), rule @ Days::Rule(_)) => (Days::Any, rule, DayFilter::OfMonth(mask as u32)),
        (month_days, week_days) => (month_days, week_days, DayFilter::None),
    }
}

fn as_days(values: &Values, field: Field) -> Days {
    match values.rule {
        Some(rule) => Days::Rule(rule),
        None if values.mask == field.full() => Days::Any,
        None => Days::List(values.mask),
    }
}

fn day_field(text: &mut String, field: Field, days: &Days, shift: u8) {
    match days {
        Days::Any => text.push_str("* "),
        Days::List(mask) => list(text, field, *mask, shift),
        Days::Rule(rule) => {
            // Writing to a String can't fail.
            let _ = match *rule {
                DayRule::Last { before: 0 } => write!(text, "L "),
                DayRule::Last { before } => write!(text, "L-{before} "),
                DayRule::LastWorkday => write!(text, "LW "),
                DayRule::NearestWorkday(day) => write!(text, "{day}W "),
                DayRule::LastNamed(day) => write!(text, "{}L ", day + shift),
                DayRule::Nth(day, nth) => write!(text, "{}#{nth} ", day + shift),
            };
        }
    }
}

/// `*` or the values in ascending order, then a blank.
fn list(text: &mut String, field: Field, mask: u64, shift: u8) {
    if mask == field.full() {
        text.push_str("* ");
        return;
    }
    let mut left = mask;
    while left != 0 {
        let value = left.trailing_zeros() as u8 + shift;
        if value >= 10 {
            text.push(char::from(b'0' + value / 10));
        }
        text.push(char::from(b'0' + value % 10));
        left &= left - 1;
        text.push(if left == 0 { ' ' } else { ',' });
    }
}
