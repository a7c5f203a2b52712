//! JSON strings from bytes that may be anything, fast.
//!
//! Log lines are nearly always plain ASCII: eight bytes at a time are looked at, and everything up
//! to the next quote, backslash or control character is copied in one piece. Bytes that are not
//! UTF-8 become U+FFFD, as every JSON reader expects UTF-8.

use std::io::Write;

/// Appends `text` to `out` as the inside of a JSON string.
pub fn escape_into(out: &mut Vec<u8>, text: &[u8]) {
    if std::str::from_utf8(text).is_ok() {
        escape_valid(out, text);
        return;
    }
    for chunk in text.utf8_chunks() {
        escape_valid(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Appends `text` as a whole JSON string, quotes included.
pub fn quote_into(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    escape_into(out, text);
    out.push(b'"');
}

fn escape_valid(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(at) = next_special(text) {
        out.extend_from_slice(&text[..at]);
        push_escaped(out, text[at]);
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

fn push_escaped(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            // Writing to a Vec cannot fail.
            write!(out, "\\u{byte:04x}").unwrap_or_default();
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Index of the first byte that a JSON string cannot hold as it is.
fn next_special(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let mut words = text.chunks_exact(8);
    let mut at = 0;
    for word in &mut words {
        let mut eight = [0u8; 8];
        eight.copy_from_slice(word);
        let word = u64::from_le_bytes(eight);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = (below(word, 0x20) | quote | backslash) & HIGHS;
        if found != 0 {
            // The lowest flag is exact: borrows only travel upwards.
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    words.remainder().iter().position(special).map(|rest| at + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &[u8]) -> String {
        let mut out = Vec::new();
        quote_into(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_what_json_needs_escaped() {
        for (text, expected) in [
            (&b""[..], r#""""#),
            (b"plain", r#""plain""#),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"tab\tnl\ncr\r", r#""tab\tnl\ncr\r""#),
            (b"\x00\x1f\x7f", "\"\\u0000\\u001f\x7f\""),
            ("gr\u{fc}n \u{20ac}".as_bytes(), "\"gr\u{fc}n \u{20ac}\""),
            (b"bad\xffbyte", "\"bad\u{fffd}byte\""),
            (b"\xe2\x82", "\"\u{fffd}\""),
        ] {
            assert_eq!(quoted(text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_byte_at_every_place_reads_back() {
        for byte in 0..=255u8 {
            for place in 0..20 {
                let mut text = vec![b'x'; 20];
                text[place] = byte;
                let read: String = serde_json::from_str(&quoted(&text)).unwrap();
                assert_eq!(read, String::from_utf8_lossy(&text), "byte {byte} at {place}");
            }
        }
    }
}
