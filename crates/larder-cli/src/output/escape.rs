//! Keys and values come from other programs: what they contain must not command the terminal or break a line.

use std::borrow::Cow;
use std::fmt::Write;

/// Escapes control characters, and characters that reverse the direction of the text or have no width.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_harmful(c) => {
                // Writing to a `String` cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Escapes the same characters in a JSON text, where they can only be inside strings: it stays the same document.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c != '\n' && is_harmful(c);
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harmful(c) {
            // All of them are below U+10000.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Writes bytes as pairs of hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn is_harmful(c: char) -> bool {
    let changes_direction =
        matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    let has_no_width = matches!(c, '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}' | '\u{feff}');
    c.is_control() || changes_direction || has_no_width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_can_command_a_terminal() {
        assert_eq!(text("plain ü 漢"), "plain ü 漢");
        assert_eq!(text("a\x1b[2Jb\nc\td\r"), "a\\u{1b}[2Jb\\nc\\td\\r");
        assert_eq!(text("\u{9b}31m \u{202e}x"), "\\u{9b}31m \\u{202e}x");
        assert_eq!(json("{\n \"a\": \"\u{9b}\u{7f}\"\n}"), "{\n \"a\": \"\\u009b\\u007f\"\n}");
        assert_eq!(hex(&[0, 0xfe]), "00fe");
    }
}
