//! What is wrong with a schedule, and where: every refusal names its part, column, what was found and what is allowed.

use std::borrow::Cow;
use std::fmt;

use super::field::Field;

/// Characters of the offending text that an error repeats; the rest is cut, so that an error stays small.
const FOUND_CHARS_MAX: usize = 40;

/// The part of a job's schedule that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The expression as a whole: its length, its number of fields, an unknown `@` word.
    Expression,
    /// One of the five or six fields.
    Field(Field),
    /// The period of `@every`.
    Period,
    /// The `CRON_TZ=` or `TZ=` prefix.
    Prefix,
    /// The job's `time_zone`, which is a text of its own: columns count from its start.
    TimeZone,
}

impl Part {
    pub const fn name(self) -> &'static str {
        match self {
            Part::Expression => "schedule",
            Part::Field(field) => field.name(),
            Part::Period => "period",
            Part::Prefix => "time zone prefix",
            Part::TimeZone => "time_zone",
        }
    }
}

/// Why an expression or a time zone was refused. `Display` is one sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleError {
    part: Part,
    column: usize,
    length: usize,
    found: Box<str>,
    allowed: Cow<'static, str>,
}

impl ScheduleError {
    /// The part of the schedule at fault.
    pub fn part(&self) -> Part {
        self.part
    }

    /// The name of the part at fault: `second`, `minute`, `hour`, `day-of-month`, `month`, `day-of-week`, `period`,
    /// `time zone prefix`, `schedule` (the whole) or `time_zone` (the job's property).
    pub fn field(&self) -> &'static str {
        self.part.name()
    }

    /// The property of the job that holds the mistake: `schedule` or `time_zone`.
    pub fn property(&self) -> &'static str {
        if self.part == Part::TimeZone { "time_zone" } else { "schedule" }
    }

    /// Where the mistake begins: 1-based, in characters, in the text of [`Self::property`].
    pub fn column(&self) -> usize {
        self.column
    }

    /// How many characters are wrong; 0 where something is missing.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The text at fault, cut to 40 characters.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// What would have been right.
    pub fn allowed(&self) -> &str {
        &self.allowed
    }
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, column {}: found ", self.part.name(), self.column)?;
        if self.found.is_empty() {
            f.write_str("nothing")?
        } else {
            write!(f, "`{}`", self.found)?
        }
        write!(f, "; allowed: {}", self.allowed)
    }
}

impl std::error::Error for ScheduleError {}

/// A stretch of the user's text that remembers where it lies, so that an error can point at it.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    full: &'a str,
    start: usize,
    end: usize,
}

impl<'a> Piece<'a> {
    pub(super) fn whole(full: &'a str) -> Piece<'a> {
        Piece { full, start: 0, end: full.len() }
    }

    pub(super) fn text(self) -> &'a str {
        &self.full[self.start..self.end]
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        self.text().as_bytes()
    }

    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The first `length` bytes, and the rest. `length` must lie on a character boundary within the piece.
    pub(super) fn split_at(self, length: usize) -> (Piece<'a>, Piece<'a>) {
        let middle = self.start + length;
        (Piece { end: middle, ..self }, Piece { start: middle, ..self })
    }

    /// What comes before and after the first `separator` (an ASCII character).
    pub(super) fn split_once(self, separator: u8) -> Option<(Piece<'a>, Piece<'a>)> {
        let at = self.bytes().iter().position(|byte| *byte == separator)?;
        let (before, rest) = self.split_at(at);
        Some((before, rest.split_at(1).1))
    }

    /// Without blanks (spaces, tabs, line ends) at both ends.
    pub(super) fn trim(self) -> Piece<'a> {
        let text = self.text();
        let start = self.start + (text.len() - text.trim_ascii_start().len());
        let end = start + text.trim_ascii().len();
        Piece { start, end, ..self }
    }

    /// The first word, and what follows the blanks behind it. Both empty when there is none.
    pub(super) fn split_word(self) -> (Piece<'a>, Piece<'a>) {
        let piece = self.trim();
        let length = piece.bytes().iter().position(u8::is_ascii_whitespace).unwrap_or(piece.end - piece.start);
        let (word, rest) = piece.split_at(length);
        (word, rest.trim())
    }

    /// This piece with the next `bytes` bytes of the full text, as far as they go.
    pub(super) fn through(self, other: Piece<'a>) -> Piece<'a> {
        Piece { end: other.end.max(self.end), ..self }
    }

    pub(super) fn error(self, part: Part, allowed: impl Into<Cow<'static, str>>) -> ScheduleError {
        let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        ScheduleError {
            part,
            column: self.full[..self.start].chars().count() + 1,
            length: self.text().chars().count(),
            found: self.text().chars().take(FOUND_CHARS_MAX).map(visible).collect(),
            allowed: allowed.into(),
        }
    }
}
