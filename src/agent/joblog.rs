//! What the worker says about its runs: start, output lines (target `job`), end. Written by a thread of its own, so that a slow reader of
//! the log delays no run; when it falls behind, lines are left out and counted.
//!
//! Output is text from elsewhere: bytes that are no UTF-8 are replaced, control characters escaped, lines and rates bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::model::{RunId, Stream};

/// The log target of output lines.
pub const OUTPUT_TARGET: &str = "job";
/// Lines that wait to be written, at most.
const LINES_QUEUED_MAX: usize = 8 * 1024;
/// Bytes of an output line, at most; the rest of it is left out.
const LINE_BYTES_MAX: usize = 1024;
/// Output lines of one run in the log: so many at once, and after that so many a second.
const LINES_BURST: u32 = 200;
const LINES_PER_S: i64 = 50;

/// A handle to the writing thread. Cheap to clone.
#[derive(Clone)]
pub struct JobLog {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

enum Line {
    Event(String),
    Output(String),
}

impl JobLog {
    /// Starts the thread, which ends with the last handle.
    pub fn start() -> std::io::Result<(JobLog, JoinHandle<()>)> {
        let (lines, waiting) = sync_channel(LINES_QUEUED_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let log = JobLog { lines, dropped: dropped.clone() };
        let thread = std::thread::Builder::new().name("job-log".into()).spawn(move || write(&waiting, &dropped))?;
        Ok((log, thread))
    }

    /// Whether anybody wants events.
    pub fn is_enabled(&self) -> bool {
        log::log_enabled!(log::Level::Info)
    }

    /// Says something about a run; nothing that comes from its environment's values.
    pub fn event(&self, text: impl FnOnce() -> String) {
        if self.is_enabled() {
            self.push(Line::Event(text()));
        }
    }

    fn push(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(lines: &Receiver<Line>, dropped: &AtomicU64) {
    while let Ok(line) = lines.recv() {
        match line {
            Line::Event(text) => log::info!("{text}"),
            Line::Output(text) => log::info!(target: OUTPUT_TARGET, "{text}"),
        }
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            count => log::warn!("{count} lines about runs were left out: the log was not read fast enough"),
        }
    }
}

/// Cuts one run's output into lines for the log.
pub struct Lines {
    log: JobLog,
    prefix: String,
    /// The line that is not complete yet, of each stream.
    partial: [Partial; 2],
    /// Lines that may be written now, and when that was last reckoned.
    allowance: u32,
    reckoned_us: i64,
    left_out_bytes: u64,
}

#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Lines {
    /// None if nobody wants output lines.
    pub fn new(log: &JobLog, job_name: &str, run: RunId, now_us: i64) -> Option<Lines> {
        log::log_enabled!(target: OUTPUT_TARGET, log::Level::Info).then(|| Lines {
            log: log.clone(),
            prefix: format!("job {job_name:?} run {run}: "),
            partial: Default::default(),
            allowance: LINES_BURST,
            reckoned_us: now_us,
            left_out_bytes: 0,
        })
    }

    pub fn push(&mut self, now_us: i64, stream: Stream, mut bytes: &[u8]) {
        let index = usize::from(stream == Stream::Stderr);
        while !bytes.is_empty() {
            if !self.may_write(now_us) {
                self.left_out_bytes += (bytes.len() + self.partial[index].bytes.len()) as u64;
                self.partial[index] = Partial::default();
                return;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (line, rest) = end.map_or((bytes, &bytes[bytes.len()..]), |end| (&bytes[..end], &bytes[end + 1..]));
            let partial = &mut self.partial[index];
            let room = LINE_BYTES_MAX - partial.bytes.len();
            partial.bytes.extend_from_slice(&line[..line.len().min(room)]);
            partial.is_cut |= line.len() > room;
            // Looking for the end of an endless line costs time too.
            self.allowance = self.allowance.saturating_sub((line.len() / LINE_BYTES_MAX) as u32);
            if end.is_some() {
                self.end_line(index);
            }
            bytes = rest;
        }
    }

    /// Whether this run's rate allows a line; says what was left out before.
    fn may_write(&mut self, now_us: i64) -> bool {
        let earned = (now_us - self.reckoned_us) * LINES_PER_S / 1_000_000;
        if earned > 0 {
            self.reckoned_us = now_us;
            self.allowance = self.allowance.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(LINES_BURST);
        }
        if self.allowance > 0 && self.left_out_bytes > 0 {
            self.say_left_out();
        }
        self.allowance > 0
    }

    fn say_left_out(&mut self) {
        let bytes = std::mem::take(&mut self.left_out_bytes);
        self.log.push(Line::Output(format!("{}[{bytes} bytes of output left out of the log]", self.prefix)));
    }

    fn end_line(&mut self, index: usize) {
        let partial = std::mem::take(&mut self.partial[index]);
        let mut text = self.prefix.clone();
        append_escaped(&mut text, &partial.bytes);
        if partial.is_cut {
            text.push_str(" [cut]");
        }
        self.allowance = self.allowance.saturating_sub(1);
        self.log.push(Line::Output(text));
    }

    /// The output is complete: what has no line end is a line too.
    pub fn finish(mut self) {
        for index in [0, 1] {
            if !self.partial[index].bytes.is_empty() {
                self.end_line(index);
            }
        }
        if self.left_out_bytes > 0 {
            self.say_left_out();
        }
    }
}

/// Appends text from elsewhere so that it can neither break a line nor speak to a terminal.
fn append_escaped(text: &mut String, bytes: &[u8]) {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    for character in String::from_utf8_lossy(bytes).chars() {
        if character == '\t' || !character.is_control() { text.push(character) } else { text.extend(character.escape_default()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        let mut text = String::new();
        append_escaped(&mut text, bytes);
        text
    }

    fn lines() -> (Lines, Receiver<Line>) {
        let (sender, receiver) = sync_channel(10_000);
        let log = JobLog { lines: sender, dropped: Arc::default() };
        let lines =
            Lines { log, prefix: String::new(), partial: Default::default(), allowance: LINES_BURST, reckoned_us: 0, left_out_bytes: 0 };
        (lines, receiver)
    }

    fn written(receiver: &Receiver<Line>) -> Vec<String> {
        let line = |line| match line {
            Line::Output(text) => text,
            Line::Event(_) => panic!("output only"),
        };
        receiver.try_iter().map(line).collect()
    }

    #[test]
    fn text_from_elsewhere_can_not_break_a_line_or_speak_to_a_terminal() {
        assert_eq!(text(b"caf\xc3\xa9\ttab\r"), "café\ttab");
        assert_eq!(text(b"\x1b[31mred\x07 \xff\xfe \x00"), "\\u{1b}[31mred\\u{7} \u{fffd}\u{fffd} \\u{0}");
    }

    #[test]
    fn lines_are_joined_from_pieces_by_stream_and_bounded() {
        let (mut lines, receiver) = lines();
        lines.push(0, Stream::Stdout, b"one\ntw");
        lines.push(0, Stream::Stderr, b"err\n");
        lines.push(0, Stream::Stdout, b"o\n");
        lines.push(0, Stream::Stdout, &[b'x'; 5000]);
        lines.push(0, Stream::Stdout, b"\nlast");
        lines.finish();
        let written = written(&receiver);
        assert_eq!(written[..3], ["one", "err", "two"]);
        assert_eq!(written[3].len(), LINE_BYTES_MAX + " [cut]".len());
        assert_eq!(written[4], "last");
    }

    #[test]
    fn the_rate_is_bounded_and_what_is_left_out_is_counted() {
        let (mut lines, receiver) = lines();
        for _ in 0..1000 {
            lines.push(0, Stream::Stdout, b"line\n");
        }
        assert_eq!(written(&receiver).len(), LINES_BURST as usize);
        lines.push(1_000_000, Stream::Stdout, b"later\n");
        assert_eq!(written(&receiver), ["[4000 bytes of output left out of the log]", "later"]);
    }
}
