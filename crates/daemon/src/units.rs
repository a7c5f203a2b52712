//! Sizes and times with their units, as people write them in a configuration: `64MiB`, `500ms`, `7d`.
//!
//! Both are integers inside (bytes, milliseconds) and serialise back to the shortest exact text. A bare number is bytes
//! for a size; for a time it is refused, because nobody can see whether it means seconds or milliseconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A time span with millisecond resolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

/// Why a text is not a size or a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}; write {example}")]
pub struct UnitError {
    text: String,
    kind: &'static str,
    example: &'static str,
}

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
const SPANS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl ByteSize {
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n << 10)
    }

    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n << 20)
    }

    pub const fn gib(n: u64) -> ByteSize {
        ByteSize(n << 30)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// For buffers; a size beyond the address space is the largest there is.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Span {
    pub const fn from_millis(ms: u64) -> Span {
        Span(ms)
    }

    pub const fn from_secs(seconds: u64) -> Span {
        Span(seconds * 1_000)
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        span.duration()
    }
}

/// `digits[.digits] unit`, exactly representable.
fn parse(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start();
    let scale = if unit.is_empty() {
        bare?
    } else {
        units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.len() > 9 {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if !fraction.is_empty() {
        let digits = fraction.parse::<u64>().ok()?.checked_mul(scale)?;
        let power = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
        if digits % power != 0 {
            return None;
        }
        value = value.checked_add(digits / power)?;
    }
    Some(value)
}

fn write(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let unit =
        units.iter().rev().find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale));
    let (name, scale) = unit.unwrap_or(&units[0]);
    write!(f, "{}{name}", value / scale)
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<ByteSize, UnitError> {
        parse(text, &SIZES, Some(1)).map(ByteSize).ok_or_else(|| UnitError {
            text: text.to_owned(),
            kind: "size",
            example: "a number with B, KiB, MiB, GiB or TiB, for example 64MiB",
        })
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Span, UnitError> {
        // Zero needs no unit.
        let parsed = if text.trim() == "0" { Some(0) } else { parse(text, &SPANS, None) };
        parsed.map(Span).ok_or_else(|| UnitError {
            text: text.to_owned(),
            kind: "time span",
            example: "a number with ms, s, m, h or d, for example 500ms or 10s",
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &SIZES[..5])
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &SPANS)
    }
}

struct UnitVisitor<T> {
    expecting: &'static str,
    bare: fn(u64) -> Option<T>,
}

impl<T: FromStr<Err = UnitError>> Visitor<'_> for UnitVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        (self.bare)(number)
            .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self.expecting))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        let expecting = "a size such as 64MiB";
        deserializer.deserialize_any(UnitVisitor { expecting, bare: |n| Some(ByteSize(n)) })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let expecting = "a time span with its unit such as 500ms or 10s";
        let zero_only = |n| (n == 0).then_some(Span(0));
        deserializer.deserialize_any(UnitVisitor { expecting, bare: zero_only })
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("0", 0, "0B"),
            ("1000", 1_000, "1000B"),
            ("64MiB", 64 << 20, "64MiB"),
            ("1.5 KiB", 1_536, "1536B"),
            ("1gb", 1_000_000_000, "1000000000B"),
            ("2TiB", 2 << 40, "2TiB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for bad in ["", "MiB", "-1", "1.", "1.3B", "1XB", "99999999999TiB", "1e3", "1 2KiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spans() {
        for (text, ms, shown) in [
            ("0", 0, "0ms"),
            ("500ms", 500, "500ms"),
            ("10s", 10_000, "10s"),
            ("1.5s", 1_500, "1500ms"),
            ("90m", 5_400_000, "90m"),
            ("7d", 604_800_000, "7d"),
            ("168 h", 604_800_000, "7d"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.as_millis(), span.to_string().as_str()), (ms, shown), "{text}");
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for bad in ["", "10", "s", "-1s", "1.0001s", "1 fortnight"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn through_serde() {
        assert_eq!(serde_json::from_str::<ByteSize>("4096").unwrap(), ByteSize::kib(4));
        assert_eq!(serde_json::to_string(&Span::from_secs(10)).unwrap(), "\"10s\"");
        let error = serde_json::from_str::<Span>("10").unwrap_err().to_string();
        assert!(error.contains("expected a time span with its unit"), "{error}");
    }
}
