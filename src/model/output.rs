//! What a command printed: parts in the order in which they were captured. A part's offset counts every byte that the command wrote,
//! kept or not, so that a hole between two parts is exactly what was dropped.

use serde::{Deserialize, Serialize};

/// Which of the command's two outputs a part came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Consecutive bytes of one stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OutputPart {
    /// Bytes that the command had written, to both streams together, before this part.
    pub offset: u64,
    pub stream: Stream,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

impl OutputPart {
    /// The offset just behind this part.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// Appends `parts` to `text`, only those of `stream` if one is named, with a line of its own wherever bytes were dropped. `expected`
/// is the offset at which the text so far ends; the new one is returned, to go on from.
pub fn render(text: &mut Vec<u8>, mut expected: u64, parts: &[OutputPart], stream: Option<Stream>) -> u64 {
    for part in parts {
        if part.offset > expected {
            append_marker(text, part.offset - expected);
        }
        if stream.is_none_or(|wanted| wanted == part.stream) {
            text.extend_from_slice(&part.bytes);
        }
        expected = part.end();
    }
    expected
}

fn append_marker(text: &mut Vec<u8>, dropped: u64) {
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(format!("[chrono-flow: {dropped} bytes of output dropped here]\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, stream: Stream, text: &str) -> OutputPart {
        OutputPart { offset, stream, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn parts_are_joined_in_order_and_holes_are_named() {
        let parts = [part(0, Stream::Stdout, "out"), part(3, Stream::Stderr, "err\n"), part(107, Stream::Stdout, "end\n")];
        let mut both = Vec::new();
        assert_eq!(render(&mut both, 0, &parts, None), 111);
        assert_eq!(String::from_utf8(both).unwrap(), "outerr\n[chrono-flow: 100 bytes of output dropped here]\nend\n");
        let mut one = Vec::new();
        render(&mut one, 0, &parts, Some(Stream::Stdout));
        assert_eq!(String::from_utf8(one).unwrap(), "out\n[chrono-flow: 100 bytes of output dropped here]\nend\n");
    }
}
