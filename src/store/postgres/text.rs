//! Texts that PostgreSQL can't hold as they are: NUL becomes two characters, and so does the character that says so.

use std::borrow::Cow;

const MARK: char = '\u{1A}';
const NUL: char = '\u{E000}';
const MARK_ITSELF: char = '\u{E001}';

pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', MARK]) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => escaped.extend([MARK, NUL]),
            MARK => escaped.extend([MARK, MARK_ITSELF]),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// What `escape` made; any other text is left as it is.
pub(super) fn unescape(text: String) -> String {
    if !text.contains(MARK) {
        return text;
    }
    text.replace("\u{1A}\u{E000}", "\0").replace("\u{1A}\u{E001}", "\u{1A}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back_and_hold_no_nul() {
        for text in ["", "plain", "\0", "a\0b\u{1A}c", "\u{1A}\u{E000}", "\u{1A}\0\u{E001}", "\u{E000}\u{1A}\u{1A}"] {
            let escaped = escape(text);
            assert!(!escaped.contains('\0'));
            assert_eq!(unescape(escaped.into_owned()), text);
        }
    }
}
