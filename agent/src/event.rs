//! A line as an event: Filebeat's ECS JSON, byte for byte in Filebeat's shape, or the line itself.
//!
//! Everything that does not change from line to line is rendered once, so that an event is five
//! copies and one escaped string. `@timestamp` (when the line was read, UTC, milliseconds) and
//! `@metadata` come first, as in Filebeat. `@metadata.beat` is `filebeat` and the versions are a
//! Filebeat's, because pipelines build index names and conditions from them.

use std::io::Write;

use tailway_metadata::time::WallMs;

use crate::json;

/// What a record's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON in the Elastic Common Schema, as Filebeat writes it.
    #[default]
    Ecs,
    /// The line and nothing else.
    Raw,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ecs => "ecs",
            Self::Raw => "raw",
        }
    }
}

/// Who sends: the fields of an event that are the agent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// `host.name` and `agent.name`.
    pub name: String,
    /// `agent.id`: kept in the data directory.
    pub id: String,
    /// `agent.ephemeral_id`: new with each start.
    pub ephemeral_id: String,
    /// The Beats version whose events these look like.
    pub beat_version: String,
}

impl Sender {
    /// `"agent":{...}` as the named beat writes it.
    pub fn agent_object(&self, beat: &str) -> String {
        let mut out = b"{\"id\":".to_vec();
        for (key, value) in [
            ("", &self.id[..]),
            (",\"ephemeral_id\":", &self.ephemeral_id),
            (",\"name\":", &self.name),
            (",\"type\":", beat),
            (",\"version\":", &self.beat_version),
        ] {
            out.extend_from_slice(key.as_bytes());
            json::quote_into(&mut out, value.as_bytes());
        }
        out.push(b'}');
        String::from_utf8(out).unwrap_or_default()
    }

    /// `"@metadata":{...}` as the named beat writes it.
    pub fn metadata_object(&self, beat: &str) -> String {
        let mut out = b"{\"beat\":".to_vec();
        json::quote_into(&mut out, beat.as_bytes());
        out.extend_from_slice(b",\"type\":\"_doc\",\"version\":");
        json::quote_into(&mut out, self.beat_version.as_bytes());
        out.push(b'}');
        String::from_utf8(out).unwrap_or_default()
    }

    /// The name as a JSON string.
    pub fn quoted_name(&self) -> String {
        let mut out = Vec::new();
        json::quote_into(&mut out, self.name.as_bytes());
        String::from_utf8(out).unwrap_or_default()
    }
}

/// Renders the events of all files of one agent.
#[derive(Debug, Clone)]
pub struct EventWriter {
    head: Vec<u8>,
    after_time: Vec<u8>,
    tail: Vec<u8>,
    at: WallMs,
}

/// The part of an event that is its file's: rendered once per file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePart {
    format: Format,
    after_offset: Vec<u8>,
}

impl FilePart {
    pub fn format(&self) -> Format {
        self.format
    }

    pub fn new(format: Format, path: &[u8]) -> Self {
        let mut after_offset = b",\"file\":{\"path\":".to_vec();
        json::quote_into(&mut after_offset, path);
        after_offset.extend_from_slice(b"}},\"message\":\"");
        Self { format, after_offset }
    }
}

impl EventWriter {
    pub fn new(sender: &Sender) -> Self {
        let after_time = format!(
            "\",\"@metadata\":{},\"log\":{{\"offset\":",
            sender.metadata_object("filebeat")
        );
        let tail = format!(
            "\",\"input\":{{\"type\":\"filestream\"}},\"ecs\":{{\"version\":\"8.0.0\"}},\
             \"host\":{{\"name\":{}}},\"agent\":{}}}",
            sender.quoted_name(),
            sender.agent_object("filebeat"),
        );
        let mut writer = Self {
            head: Vec::new(),
            after_time: after_time.into_bytes(),
            tail: tail.into_bytes(),
            at: WallMs(i64::MIN),
        };
        writer.set_time(WallMs(0));
        writer
    }

    /// The time that the following events carry.
    pub fn set_time(&mut self, at: WallMs) {
        if at == self.at {
            return;
        }
        self.at = at;
        self.head.clear();
        self.head.extend_from_slice(b"{\"@timestamp\":\"");
        push_rfc3339_ms(&mut self.head, at);
        self.head.extend_from_slice(&self.after_time);
    }

    /// The time that events carry now.
    pub fn time(&self) -> WallMs {
        self.at
    }

    /// Appends one event to `out`.
    pub fn write(&self, out: &mut Vec<u8>, file: &FilePart, offset: u64, text: &[u8]) {
        if file.format == Format::Raw {
            out.extend_from_slice(text);
            return;
        }
        out.extend_from_slice(&self.head);
        push_decimal(out, offset);
        out.extend_from_slice(&file.after_offset);
        json::escape_into(out, text);
        out.extend_from_slice(&self.tail);
    }
}

/// Makes two values of one that is too large: each with half of the text, the second with its own
/// offset. Also returns the length of the first half of the text. `None` if it cannot be halved.
pub fn halve(format: Format, value: &[u8], offset: u64) -> Option<(Vec<u8>, Vec<u8>, u64)> {
    if format == Format::Raw {
        let half = value.len() / 2;
        let (first, second) = (value[..half].to_vec(), value[half..].to_vec());
        return (half > 0).then_some((first, second, half as u64));
    }
    let start = memchr::memmem::find(value, MESSAGE)? + MESSAGE.len();
    let end = memchr::memmem::rfind(value, AFTER_MESSAGE)?;
    let quoted = value.get(start - 1..=end)?;
    let text: String = serde_json::from_slice(quoted).ok()?;
    // What was not UTF-8 in the file has another length here, so the cut comes before it.
    let clean = text.find('\u{fffd}').unwrap_or(text.len());
    let mut half = (text.len() / 2).min(clean);
    while !text.is_char_boundary(half) {
        half -= 1;
    }
    let (first, second) = text.split_at(half);
    if first.is_empty() || second.is_empty() {
        return None;
    }
    let offset_at = memchr::memmem::find(value, OFFSET)? + OFFSET.len();
    let offset_end = offset_at + value[offset_at..].iter().position(|b| !b.is_ascii_digit())?;
    let mut one = value[..start].to_vec();
    json::escape_into(&mut one, first.as_bytes());
    one.extend_from_slice(&value[end..]);
    let mut two = value[..offset_at].to_vec();
    push_decimal(&mut two, offset + half as u64);
    two.extend_from_slice(&value[offset_end..start]);
    json::escape_into(&mut two, second.as_bytes());
    two.extend_from_slice(&value[end..]);
    Some((one, two, half as u64))
}

/// The text of a value's line as it stands in the file; `None` if it cannot be told, because bytes
/// that were not UTF-8 stand in it as U+FFFD.
pub fn text_of(format: Format, value: &[u8]) -> Option<Vec<u8>> {
    if format == Format::Raw {
        return Some(value.to_vec());
    }
    let start = memchr::memmem::find(value, MESSAGE)? + MESSAGE.len();
    let end = memchr::memmem::rfind(value, AFTER_MESSAGE)?;
    let text: String = serde_json::from_slice(value.get(start - 1..=end)?).ok()?;
    (!text.contains('\u{fffd}')).then(|| text.into_bytes())
}

const OFFSET: &[u8] = b"\"log\":{\"offset\":";
const MESSAGE: &[u8] = b"\"message\":\"";
const AFTER_MESSAGE: &[u8] = b"\",\"input\":{\"type\":\"filestream\"}";

/// Appends `n` in decimal.
fn push_decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(n % 10).unwrap_or_default();
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends `2024-09-07T08:02:54.662Z`.
pub fn push_rfc3339_ms(out: &mut Vec<u8>, at: WallMs) {
    let (days, ms) = (at.0.div_euclid(86_400_000), at.0.rem_euclid(86_400_000));
    // Days to a civil date, in eras of 400 years that start on March 1 (Howard Hinnant's algorithm).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, millis) = (ms / 1_000 % 60, ms % 1_000);
    // Writing to a Vec cannot fail.
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
        .unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender() -> Sender {
        Sender {
            name: "web-01".into(),
            id: "1a300adf".into(),
            ephemeral_id: "270c28c5".into(),
            beat_version: "8.14.4".into(),
        }
    }

    #[test]
    fn an_event_has_filebeats_shape() {
        let mut writer = EventWriter::new(&sender());
        writer.set_time(WallMs(1_725_696_174_662));
        let mut out = Vec::new();
        writer.write(&mut out, &FilePart::new(Format::Ecs, b"/var/log/x.log"), 42, b"say \"hi\"");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"@timestamp\":\"2024-09-07T08:02:54.662Z\",\
             \"@metadata\":{\"beat\":\"filebeat\",\"type\":\"_doc\",\"version\":\"8.14.4\"},\
             \"log\":{\"offset\":42,\"file\":{\"path\":\"/var/log/x.log\"}},\
             \"message\":\"say \\\"hi\\\"\",\"input\":{\"type\":\"filestream\"},\
             \"ecs\":{\"version\":\"8.0.0\"},\"host\":{\"name\":\"web-01\"},\
             \"agent\":{\"id\":\"1a300adf\",\"ephemeral_id\":\"270c28c5\",\"name\":\"web-01\",\
             \"type\":\"filebeat\",\"version\":\"8.14.4\"}}"
        );
    }

    #[test]
    fn an_event_that_is_too_large_is_halved() {
        let writer = EventWriter::new(&sender());
        let part = FilePart::new(Format::Ecs, b"/var/log/\"message\":\"x");
        for (text, first, second) in [
            ("12345678", "1234", "5678"),
            ("a\"\\\n5678", "a\"\\\n", "5678"),
            ("123\u{20ac}678", "123", "\u{20ac}678"),
            ("12\u{fffd}45678", "12", "\u{fffd}45678"),
        ] {
            let event = |offset: u64, text: &str| {
                let mut out = Vec::new();
                writer.write(&mut out, &part, offset, text.as_bytes());
                out
            };
            let (one, two, len) = halve(Format::Ecs, &event(70, text), 70).unwrap();
            assert_eq!(one, event(70, first), "{text:?}");
            assert_eq!(two, event(70 + first.len() as u64, second), "{text:?}");
            assert_eq!(len, first.len() as u64);
            let known = |part: &str| (!part.contains('\u{fffd}')).then(|| part.as_bytes().to_vec());
            assert_eq!(text_of(Format::Ecs, &one), known(first), "{text:?}");
            assert_eq!(text_of(Format::Ecs, &two), known(second), "{text:?}");
            let short = event(70, &text[..1]);
            assert_eq!(halve(Format::Ecs, &short, 70), None);
        }
        let halves = halve(Format::Raw, b"12345", 7);
        assert_eq!(halves, Some((b"12".to_vec(), b"345".to_vec(), 2)));
        assert_eq!(halve(Format::Raw, b"1", 7), None);
    }

    #[test]
    fn a_raw_event_is_the_line() {
        let writer = EventWriter::new(&sender());
        let mut out = Vec::new();
        writer.write(&mut out, &FilePart::new(Format::Raw, b"/x"), 7, b"as \"it\" is\xff");
        assert_eq!(out, b"as \"it\" is\xff");
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_704_067_199_999, "2023-12-31T23:59:59.999Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (4_102_444_800_123, "2100-01-01T00:00:00.123Z"),
        ] {
            let mut out = Vec::new();
            push_rfc3339_ms(&mut out, WallMs(ms));
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{ms}");
        }
    }

    #[test]
    fn decimals_of_any_size() {
        for n in [0, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, n);
            assert_eq!(String::from_utf8(out).unwrap(), n.to_string());
        }
    }
}
