//! One field's text to a set of values: lists, ranges, steps, `H`, and the day rules `L`, `W` and `#`.

use super::error::{Part, Piece, ScheduleError};
use super::field::{Field, LAST_DAY_OF_ALL_MONTHS};
use super::hash;

/// A day rule that depends on the month. It stands alone in its field: the stepping engine holds one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DayRule {
    /// `L`, `L-3`: so many days before the last day of the month.
    Last { before: u8 },
    /// `LW`: the last Monday-to-Friday day of the month.
    LastWorkday,
    /// `15W`: the Monday-to-Friday day nearest to a day, within the month.
    NearestWorkday(u8),
    /// `5L`: the month's last day of that name, Sunday being 0.
    LastNamed(u8),
    /// `5#2`: the month's second day of that name.
    Nth(u8, u8),
}

/// What a field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Values {
    /// Bit v is set for each value v, Sunday being 0. Empty if there is a rule.
    pub(super) mask: u64,
    pub(super) rule: Option<DayRule>,
    /// The text begins with `*` or `?`: a star for crontab(5)'s rule of the two day fields.
    pub(super) star: bool,
}

/// Reads one field. `seed` places `H`.
pub(super) fn parse(piece: Piece<'_>, field: Field, seed: u64) -> Result<Values, ScheduleError> {
    let star = matches!(piece.bytes().first(), Some(b'*' | b'?'));
    let mut values = Values { mask: 0, rule: None, star };
    let mut rest = piece;
    loop {
        let (item, more) = match rest.split_once(b',') {
            Some((item, more)) => (item, Some(more)),
            None => (rest, None),
        };
        if let Some(rule) = day_rule(item, field)? {
            if item.text().len() != piece.text().len() {
                return Err(item.error(Part::Field(field), "L, W and # only alone in their field, without a list"));
            }
            values.rule = Some(rule);
        } else {
            values.mask |= mask(item, field, seed)?;
        }
        match more {
            Some(more) => rest = more,
            None => return Ok(values),
        }
    }
}

/// The values of one list item: `v`, `a-b`, `*`, `H`, `H(a-b)`, each perhaps with a step.
fn mask(item: Piece<'_>, field: Field, seed: u64) -> Result<u64, ScheduleError> {
    let (base, step) = match item.split_once(b'/') {
        Some((base, step)) => (base, Some(number(step, 1, field.count()).ok_or_else(|| bad_step(step, field))?)),
        None => (item, None),
    };
    match base.bytes() {
        b"*" | b"?" => Ok(walk(field.min(), field.max(), step.unwrap_or(1), field)),
        [b'H' | b'h', ..] => hashed(base, step, field, seed),
        _ => match (base.split_once(b'-'), step) {
            (Some((from, to)), step) => Ok(walk(value(from, field, base)?, value(to, field, base)?, step.unwrap_or(1), field)),
            (None, Some(step)) => Ok(walk(value(base, field, item)?, field.max(), step, field)),
            (None, None) => Ok(walk(value(base, field, base)?, value(base, field, base)?, 1, field)),
        },
    }
}

/// From `from` to `to`, over the end of the field if `to` is smaller; the step counts from `from`.
fn walk(from: u8, to: u8, step: u8, field: Field) -> u64 {
    let mut mask = 0;
    for value in span(from, to, field).step_by(usize::from(step.max(1))) {
        mask |= 1 << value;
    }
    mask
}

/// The values of a range in order, Sunday being 0 in each; a wrapping range counts each day of the week once.
fn span(from: u8, to: u8, field: Field) -> impl Iterator<Item = u8> {
    // `5-7` needs no wrap, `FRI-SUN` does: both walk 5, 6, 0. A wrapping range that starts at 7 starts at Sunday, 0.
    let from = if field == Field::DayOfWeek && from == 7 && to < 7 { 0 } else { from };
    let length = if from <= to { to - from + 1 } else { to + field.count() - from + 1 };
    (0..length).map(move |n| field.min() + (from - field.min() + n) % field.count())
}

fn hashed(base: Piece<'_>, step: Option<u8>, field: Field, seed: u64) -> Result<u64, ScheduleError> {
    let wrong = || base.error(Part::Field(field), "H, H/n or H(a-b), with a and b in the field's range");
    let (_, range) = base.split_at(1);
    let (from, to) = match range.bytes() {
        [] => field.hashed_range(),
        [b'(', .., b')'] => {
            let (_, inside) = range.split_at(1);
            let (inside, _) = inside.split_at(inside.bytes().len() - 1);
            let (from, to) = inside.split_once(b'-').ok_or_else(wrong)?;
            (value(from, field, from)?, value(to, field, to)?)
        }
        _ => return Err(wrong()),
    };
    let among = span(from, to, field).count();
    match step.map(usize::from) {
        None => Ok(span(from, to, field).nth(hash::place(seed, field, among)).map_or(0, |value| 1 << value)),
        Some(step) => {
            let first = hash::place(seed, field, step.min(among));
            Ok(span(from, to, field).skip(first).step_by(step).fold(0, |mask, value| mask | 1 << value))
        }
    }
}

fn day_rule(item: Piece<'_>, field: Field) -> Result<Option<DayRule>, ScheduleError> {
    match field {
        Field::DayOfMonth => month_day_rule(item),
        Field::DayOfWeek => week_day_rule(item),
        _ => Ok(None),
    }
}

fn month_day_rule(item: Piece<'_>) -> Result<Option<DayRule>, ScheduleError> {
    let part = Part::Field(Field::DayOfMonth);
    match item.bytes() {
        [b'L' | b'l'] => Ok(Some(DayRule::Last { before: 0 })),
        [b'L' | b'l', b'W' | b'w'] => Ok(Some(DayRule::LastWorkday)),
        [b'L' | b'l', b'-', ..] => {
            let before = item.split_at(2).1;
            match number(before, 1, 30) {
                Some(before) => Ok(Some(DayRule::Last { before })),
                None => Err(item.error(part, "L-1 to L-30 (days before the month's last)")),
            }
        }
        [b'L' | b'l', ..] => Err(item.error(part, "L, LW, or L-1 to L-30")),
        [.., b'W' | b'w'] => {
            let day = item.split_at(item.bytes().len() - 1).0;
            match number(day, 1, LAST_DAY_OF_ALL_MONTHS) {
                Some(day) => Ok(Some(DayRule::NearestWorkday(day))),
                None => Err(item.error(part, "1W to 28W (the days of every month), or LW for the last working day")),
            }
        }
        _ => Ok(None),
    }
}

fn week_day_rule(item: Piece<'_>) -> Result<Option<DayRule>, ScheduleError> {
    let part = Part::Field(Field::DayOfWeek);
    if let Some((day, nth)) = item.split_once(b'#') {
        let day = value(day, Field::DayOfWeek, day)? % 7;
        return match number(nth, 1, 5) {
            Some(nth) => Ok(Some(DayRule::Nth(day, nth))),
            None => Err(item.error(part, "a day with #1 to #5, such as FRI#2")),
        };
    }
    match item.bytes() {
        [b'L' | b'l'] => Err(item.error(part, "L with its day, such as 5L or FRIL (the month's last Friday)")),
        [.., b'L' | b'l'] => {
            let day = item.split_at(item.bytes().len() - 1).0;
            Ok(Some(DayRule::LastNamed(value(day, Field::DayOfWeek, day)? % 7)))
        }
        _ => Ok(None),
    }
}

/// One value, as a number or a name. `shown` is what an error repeats if there is nothing at all.
fn value(piece: Piece<'_>, field: Field, shown: Piece<'_>) -> Result<u8, ScheduleError> {
    if let Some(value) = number(piece, field.min(), field.max()).or_else(|| field.named(piece.text())) {
        return Ok(value);
    }
    let at = if piece.is_empty() { shown } else { piece };
    Err(at.error(Part::Field(field), field.allowed()))
}

/// A decimal number within bounds; leading zeros are fine.
fn number(piece: Piece<'_>, min: u8, max: u8) -> Option<u8> {
    let digits = piece.bytes();
    if digits.is_empty() {
        return None;
    }
    let value = digits.iter().try_fold(0u8, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(byte - b'0'),
        _ => None,
    })?;
    (min..=max).contains(&value).then_some(value)
}

fn bad_step(step: Piece<'_>, field: Field) -> ScheduleError {
    let longest = field.count();
    let is_number = !step.is_empty() && step.bytes().iter().all(u8::is_ascii_digit);
    // `*/90` in the minute field is no 90 minutes but once an hour: say what would do it.
    let hint = if is_number { "; for longer periods there is @every, such as @every 90m" } else { "" };
    step.error(Part::Field(field), format!("a step of 1-{longest}{hint}"))
}
