//! Server-sent events (WHATWG HTML, section 9.2): how output parts become events.

use crate::model::{OutputPart, Stream};

/// Milliseconds after which a client whose connection broke connects again.
pub const RECONNECT: &str = "retry: 1000\n\n";
/// What keeps a silent connection alive.
pub const COMMENT: &str = ": nothing new\n\n";
/// Bytes of a UTF-8 sequence without its last one, at most.
const CUT_BYTES_MAX: usize = 3;

/// One event. A reader gets `data` back with its line ends as `\n`, be they `\n`, `\r\n` or `\r`: the format knows no other.
pub fn event(kind: &str, id: u64, data: &str) -> String {
    let mut text = format!("id: {id}\nevent: {kind}\n");
    let lines = data.replace("\r\n", "\n").replace('\r', "\n");
    for line in lines.split('\n') {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text
}

pub fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

/// Turns consecutive parts into events. An event's id is the offset behind what has been shown, from where a reader may go on.
///
/// Bytes that are no UTF-8 become U+FFFD; a character that lies across two parts is kept whole.
pub struct PartEvents {
    wanted: Option<Stream>,
    /// The offset behind the last part.
    expected: u64,
    /// The beginning of a character whose rest has not come yet.
    held: Option<(Stream, Vec<u8>)>,
}

impl PartEvents {
    /// `from` is the offset of the first part to come, if nothing before it was dropped.
    pub fn new(from: u64, wanted: Option<Stream>) -> PartEvents {
        PartEvents { wanted, expected: from, held: None }
    }

    /// Appends the events of a part to `text`.
    pub fn push(&mut self, text: &mut String, part: &OutputPart) {
        let joins = part.offset == self.expected && self.held.as_ref().is_some_and(|(stream, _)| *stream == part.stream);
        if !joins {
            self.finish(text);
        }
        if part.offset > self.expected {
            text.push_str(&event("dropped", part.offset, &(part.offset - self.expected).to_string()));
        }
        self.expected = part.end();
        if self.wanted.is_some_and(|wanted| wanted != part.stream) {
            return;
        }
        let mut bytes = self.held.take().map(|(_, held)| held).unwrap_or_default();
        bytes.extend_from_slice(&part.bytes);
        let held = bytes.split_off(bytes.len() - cut_bytes(&bytes));
        if !bytes.is_empty() {
            let id = self.expected - held.len() as u64;
            text.push_str(&event(stream_name(part.stream), id, &String::from_utf8_lossy(&bytes)));
        }
        self.held = (!held.is_empty()).then_some((part.stream, held));
    }

    /// Appends what was held back, if something was: its rest does not come any more.
    pub fn finish(&mut self, text: &mut String) {
        if let Some((stream, held)) = self.held.take() {
            text.push_str(&event(stream_name(stream), self.expected, &String::from_utf8_lossy(&held)));
        }
    }

    /// The offset behind the last part.
    pub fn offset(&self) -> u64 {
        self.expected
    }
}

/// How many bytes at the end are the beginning of a character that is not whole.
fn cut_bytes(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(CUT_BYTES_MAX)..];
    let Some(lead) = tail.iter().rposition(|byte| byte & 0b1100_0000 != 0b1000_0000) else { return 0 };
    match std::str::from_utf8(&tail[lead..]) {
        Err(error) if error.error_len().is_none() => tail.len() - lead,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, stream: Stream, bytes: &[u8]) -> OutputPart {
        OutputPart { offset, stream, bytes: bytes.to_vec() }
    }

    fn events(from: u64, wanted: Option<Stream>, parts: &[OutputPart]) -> String {
        let mut events = PartEvents::new(from, wanted);
        let mut text = String::new();
        parts.iter().for_each(|part| events.push(&mut text, part));
        events.finish(&mut text);
        text
    }

    #[test]
    fn every_line_of_the_data_has_its_own_field_and_no_line_end_breaks_out() {
        assert_eq!(event("stdout", 4, "a\nb\n"), "id: 4\nevent: stdout\ndata: a\ndata: b\ndata: \n\n");
        assert_eq!(event("stdout", 4, "1%\r2%\r\nid: 9"), "id: 4\nevent: stdout\ndata: 1%\ndata: 2%\ndata: id: 9\n\n");
    }

    #[test]
    fn an_event_names_its_stream_and_the_offset_behind_it() {
        let parts = [part(0, Stream::Stdout, b"out"), part(3, Stream::Stderr, b"err")];
        assert_eq!(events(0, None, &parts), "id: 3\nevent: stdout\ndata: out\n\nid: 6\nevent: stderr\ndata: err\n\n");
        assert_eq!(events(0, Some(Stream::Stderr), &parts), "id: 6\nevent: stderr\ndata: err\n\n");
    }

    #[test]
    fn a_hole_is_an_event_of_its_own() {
        let parts = [part(0, Stream::Stdout, b"a"), part(11, Stream::Stdout, b"b")];
        assert_eq!(
            events(0, None, &parts),
            "id: 1\nevent: stdout\ndata: a\n\nid: 11\nevent: dropped\ndata: 10\n\nid: 12\nevent: stdout\ndata: b\n\n"
        );
    }

    #[test]
    fn a_character_across_two_parts_stays_whole_and_can_be_resumed_at() {
        let euro = "€".as_bytes();
        let parts = [part(0, Stream::Stdout, &[b"1", &euro[..2]].concat()), part(3, Stream::Stdout, &euro[2..])];
        assert_eq!(events(0, None, &parts), "id: 1\nevent: stdout\ndata: 1\n\nid: 4\nevent: stdout\ndata: €\n\n");
        let resumed = [part(1, Stream::Stdout, &euro[..2]), part(3, Stream::Stdout, &euro[2..])];
        assert_eq!(events(1, None, &resumed), "id: 4\nevent: stdout\ndata: €\n\n");
    }

    #[test]
    fn what_is_no_utf8_is_replaced_and_never_held_for_long() {
        let parts = [part(0, Stream::Stdout, b"a\xff\xfe"), part(3, Stream::Stdout, b"b\xe2"), part(5, Stream::Stderr, b"c")];
        let text = events(0, None, &parts);
        assert_eq!(text.matches("data: ").count(), 4);
        assert!(text.contains("id: 5\nevent: stdout\ndata: \u{FFFD}\n\nid: 6\nevent: stderr\ndata: c\n\n"), "{text}");
        assert_eq!(cut_bytes(b"\x80\x80\x80\x80"), 0);
        assert_eq!(cut_bytes(b"\xf0\x9f\x98"), 3);
        assert_eq!(cut_bytes("😀".as_bytes()), 0);
        assert_eq!(cut_bytes(b""), 0);
    }
}
