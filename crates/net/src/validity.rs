//! From when to when a certificate is good, read from its DER.
//!
//! Only as much of X.509 as lies before the end of the validity: `SEQUENCE { SEQUENCE { [0] version, serial, algorithm,
//! issuer, SEQUENCE { notBefore, notAfter } ...`. Anything unexpected gives `None`, which the caller treats as expired.

use tailway_metadata::time::WallMs;
use time::{Date, Month, PrimitiveDateTime, Time};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The last moment at which the certificate is good.
pub fn not_after(der: &[u8]) -> Option<WallMs> {
    validity(der).map(|(_, not_after)| not_after)
}

/// The first and the last moment at which the certificate is good.
pub fn validity(der: &[u8]) -> Option<(WallMs, WallMs)> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest, VERSION)?.1;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = element(rest, tag)?.1;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (not_before, after) = moment_at(validity)?;
    let (not_after, _) = moment_at(after)?;
    Some((not_before, not_after))
}

/// The moment at the front, and what follows it.
fn moment_at(der: &[u8]) -> Option<(WallMs, &[u8])> {
    let tag = *der.first()?;
    let (text, rest) = element(der, tag)?;
    Some((moment(tag, std::str::from_utf8(text).ok()?)?, rest))
}

/// The content of the element with `tag` at the front, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = if *length < 0x80 {
        (usize::from(*length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7F))?;
        if digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    if *first == tag { rest.split_at_checked(length) } else { None }
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn moment(tag: u8, text: &str) -> Option<WallMs> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u8>().ok();
    let (year, at) = match tag {
        UTC_TIME => {
            let year = i32::from(number(0, 2)?);
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        GENERALIZED_TIME => (text.get(0..4)?.parse().ok()?, 4),
        _ => return None,
    };
    let field = |index: usize| number(at + 2 * index, at + 2 * index + 2);
    let date = Date::from_calendar_date(year, Month::try_from(field(0)?).ok()?, field(1)?).ok()?;
    let time = Time::from_hms(field(2)?, field(3)?, field(4)?).ok()?;
    let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    Some(WallMs(seconds.checked_mul(1_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 2, 27);
        params.not_after = rcgen::date_time_ymd(year, 2, 28);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        for (year, seconds) in [(2026, 1_772_236_800), (2049, 2_498_083_200), (2075, 3_318_537_600)]
        {
            let expected = (WallMs(1_772_150_400_000), WallMs(seconds * 1_000));
            assert_eq!(validity(&certificate(year)), Some(expected), "{year}");
        }
    }

    #[test]
    fn every_truncation_is_nothing() {
        let der = certificate(2030);
        for end in 0..der.len() {
            assert_eq!(not_after(&der[..end]), None, "{end}");
        }
        assert_eq!(not_after(b"not a certificate"), None);
    }
}
