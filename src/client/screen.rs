//! Where answers go: tables for people or JSON as the API gave it on standard output, all else on standard error.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, BufRead, BufWriter, IsTerminal, Stdout, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::Value;

use crate::cli::client::Format;
use crate::clock;
use crate::model::UnixMs;

use super::failure::Failure;
use super::times;

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[1;31m";
const PLAIN: &str = "\x1b[0m";

pub struct Screen {
    format: Format,
    out: RefCell<BufWriter<Stdout>>,
    has_colour: bool,
    has_err_colour: bool,
    pub now: UnixMs,
}

impl Screen {
    pub fn new(format: Format) -> Screen {
        // https://no-color.org: set and not empty.
        let wants_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Screen {
            format,
            out: RefCell::new(BufWriter::new(io::stdout())),
            has_colour: wants_colour && io::stdout().is_terminal(),
            has_err_colour: wants_colour && io::stderr().is_terminal(),
            now: clock::wall_now(),
        }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Somebody sits there who can be asked.
    pub fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    pub fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.borrow_mut().write_all(bytes)?)
    }

    pub fn flush(&self) -> Result<(), Failure> {
        Ok(self.out.borrow_mut().flush()?)
    }

    pub fn line(&self, text: impl Display) -> Result<(), Failure> {
        Ok(writeln!(self.out.borrow_mut(), "{text}")?)
    }

    /// An answer of the API, untouched.
    pub fn json(&self, text: &str) -> Result<(), Failure> {
        self.line(text.trim_end())
    }

    /// Says why a command failed.
    pub fn complain(&self, failure: &Failure) {
        self.complain_about("", failure);
    }

    /// The same of one of several things.
    pub fn complain_about(&self, what: &str, failure: &Failure) {
        // What was printed before comes first.
        let _ = self.flush();
        if *failure == Failure::Closed {
            return;
        }
        let (on, off) = if self.has_err_colour { (RED, PLAIN) } else { ("", "") };
        let colon = if what.is_empty() { "" } else { ": " };
        note(format_args!("{on}error:{off} {}{colon}{failure}", visible(what)));
    }

    /// Asks a question that is answered by yes or no; no answer is no.
    pub fn ask(&self, question: &str) -> bool {
        let _ = write!(io::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        let is_read = io::stdin().lock().read_line(&mut answer).is_ok();
        is_read && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
    }

    /// A table with a heading. Columns whose heading begins with `#` are numbers and stand to the right.
    pub fn table(&self, heading: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        // Two blanks between columns and nothing else, so that tools can take it apart.
        table.load_preset(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(heading.iter().map(|name| name.trim_start_matches('#')));
        for row in rows {
            table.add_row(row.iter().map(|cell| visible(cell)));
        }
        for (index, name) in heading.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if name.starts_with('#') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        for (index, line) in table.lines().enumerate() {
            match line.trim_end() {
                heading if index == 0 && self.has_colour => self.line(format_args!("{BOLD}{heading}{PLAIN}"))?,
                line => self.line(line)?,
            }
        }
        Ok(())
    }

    /// Names and values below each other. Empty values are left out.
    pub fn details(&self, pairs: &[(&str, String)]) -> Result<(), Failure> {
        let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
            let mut lines = value.lines().map(visible);
            let (on, off) = if self.has_colour { (BOLD, PLAIN) } else { ("", "") };
            self.line(format_args!("{on}{name:width$}{off}  {}", lines.next().unwrap_or_default()))?;
            for line in lines {
                self.line(format_args!("{:width$}  {line}", ""))?;
            }
        }
        Ok(())
    }

    /// An instant of the API with how far away it is: `2026-01-31T12:00:00Z (in 5 s)`.
    pub fn when(&self, value: &Value) -> String {
        match value.as_str().and_then(|text| text.parse::<UnixMs>().ok()) {
            Some(at) => format!("{at} ({})", times::distance(at, self.now)),
            None => text(value),
        }
    }
}

/// Words beside the answer, for who watches. That nobody does is no failure.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A value of the API as people read it; null is nothing.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(pairs) => pairs.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Text without what could steer a terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
