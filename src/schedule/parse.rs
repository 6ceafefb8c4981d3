//! The user's text to what it means: the time zone prefix, the `@` words, and the five or six fields.

use super::canonical::{self, Fields};
use super::error::{Part, Piece, ScheduleError};
use super::every::{self, Every};
use super::field::Field;
use super::item;
use super::step::Calendar;

/// The longest expression that is read, in bytes. The longest useful one, every field a full list, is below 500.
pub(super) const TEXT_BYTES_MAX: usize = 1024;

const FIELDS_ALLOWED: &str =
    "5 fields (minute hour day-of-month month day-of-week), 6 with the second first, or a word such as @daily or @every 1h30m";
const WORDS_ALLOWED: &str = "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly or @every with a period such as 1h30m";

/// The `@` words and what they stand for (crontab(5)).
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// What an expression says, apart from its time zone.
pub(super) enum Meaning {
    /// Readings of the wall clock; `interval` is the class of DESIGN's daylight-saving rules.
    Clock {
        calendar: Calendar,
        interval: bool,
    },
    Every(Every),
}

/// Parts the zone's name of a `CRON_TZ=` or `TZ=` prefix from the expression behind it.
pub(super) fn prefix(text: &str) -> Result<(Option<Piece<'_>>, Piece<'_>), ScheduleError> {
    let whole = Piece::whole(text);
    if text.len() > TEXT_BYTES_MAX {
        return Err(whole.error(Part::Expression, format!("at most {TEXT_BYTES_MAX} bytes")));
    }
    let (word, rest) = whole.split_word();
    match word.split_once(b'=') {
        Some((key, name)) if matches!(key.text(), "CRON_TZ" | "TZ") => match name.is_empty() {
            true => Err(word.error(Part::Prefix, "CRON_TZ= or TZ= with a time zone, such as CRON_TZ=Europe/Berlin")),
            false => Ok((Some(name), rest)),
        },
        Some((key, _)) => Err(key.error(Part::Prefix, "CRON_TZ= or TZ=")),
        None => Ok((None, whole.trim())),
    }
}

/// Reads the expression behind the prefix.
pub(super) fn expression(piece: Piece<'_>, seed: u64, anchor_ms: i64) -> Result<Meaning, ScheduleError> {
    if piece.bytes().first() != Some(&b'@') {
        return fields(piece, seed);
    }
    let (word, rest) = piece.split_word();
    if word.text().eq_ignore_ascii_case("@every") {
        return every::parse(word, rest, anchor_ms).map(Meaning::Every);
    }
    match WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word.text())) {
        None => Err(word.error(Part::Expression, WORDS_ALLOWED)),
        Some(_) if !rest.is_empty() => Err(rest.error(Part::Expression, format!("nothing after {}", word.text().to_ascii_lowercase()))),
        Some((_, meaning)) => fields(Piece::whole(meaning), seed),
    }
}

fn fields(piece: Piece<'_>, seed: u64) -> Result<Meaning, ScheduleError> {
    let mut words = [piece; 6];
    let mut count = 0;
    let mut rest = piece;
    while !rest.is_empty() {
        let (word, more) = rest.split_word();
        match words.get_mut(count) {
            Some(slot) => *slot = word,
            None => return Err(rest.error(Part::Expression, FIELDS_ALLOWED)),
        }
        count += 1;
        rest = more;
    }
    if count < 5 {
        return Err(piece.error(Part::Expression, FIELDS_ALLOWED));
    }
    if count == 5 {
        words.rotate_right(1);
    }
    let read = |field: Field| item::parse(words[field as usize], field, seed);
    // The user's order, so that the first mistake is the one reported.
    let seconds = if count == 6 { read(Field::Second)?.mask } else { 1 };
    let fields = Fields {
        seconds,
        minutes: read(Field::Minute)?.mask,
        hours: read(Field::Hour)?,
        days: read(Field::DayOfMonth)?,
        months: read(Field::Month)?.mask,
        weekdays: read(Field::DayOfWeek)?,
    };
    let interval = fields.hours.star || fields.hours.mask == Field::Hour.full();
    let calendar = canonical::calendar(&fields);
    if calendar.never_fires() {
        let date = words[Field::DayOfMonth as usize].through(words[Field::DayOfWeek as usize]);
        return Err(date.error(Part::Expression, "days that occur: these three fields together never match one"));
    }
    Ok(Meaning::Clock { calendar, interval })
}
