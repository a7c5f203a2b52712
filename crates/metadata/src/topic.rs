//! Topic names: Kafka's charset and length, and the one collision rule that metrics impose.

pub use crate::topic_config::{ConfigError, TopicConfig};

/// Longest topic name, in bytes: with `-` and a partition it still is a file name.
pub const NAME_LEN_MAX: usize = 249;

/// Where committed offsets live. Created by the first group that needs it, compacted.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Why a topic name is refused. The texts follow Kafka's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("topic name is invalid: the empty string is not allowed")]
    Empty,
    #[error("topic name is invalid: '.' or '..' is not allowed")]
    Dots,
    #[error("topic name is invalid: it has {len} characters, more than {NAME_LEN_MAX}")]
    TooLong { len: usize },
    #[error(
        "topic name {name:?} is invalid: it contains {found:?}; allowed are ASCII letters, digits, '.', '_' and '-'"
    )]
    Character { name: String, found: char },
}

/// Whether a topic may have this name.
pub fn validate_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong { len: name.len() });
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots);
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        Some(found) => Err(NameError::Character { name: name.to_owned(), found }),
        None => Ok(()),
    }
}

/// Two different names that metrics cannot tell apart, because `.` becomes `_` there.
pub fn collides(a: &str, b: &str) -> bool {
    a != b && a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| unified(a) == unified(b))
}

/// Topics that Tailway keeps for itself: clients may read them but not create or delete them by accident.
pub fn is_internal(name: &str) -> bool {
    name == OFFSETS_TOPIC
}

const fn unified(byte: u8) -> u8 {
    if byte == b'.' { b'_' } else { byte }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "x".repeat(249);
        for good in ["logs", "a.b_c-D9", "...", "_", &long, OFFSETS_TOPIC] {
            assert_eq!(validate_name(good), Ok(()), "{good}");
        }
        let cases = [
            ("", NameError::Empty),
            (".", NameError::Dots),
            ("..", NameError::Dots),
            (&*"x".repeat(250), NameError::TooLong { len: 250 }),
            ("a b", NameError::Character { name: "a b".into(), found: ' ' }),
            ("a/b", NameError::Character { name: "a/b".into(), found: '/' }),
            ("gr\u{fc}n", NameError::Character { name: "gr\u{fc}n".into(), found: '\u{fc}' }),
            ("a\0", NameError::Character { name: "a\0".into(), found: '\0' }),
        ];
        for (name, expected) in cases {
            assert_eq!(validate_name(name), Err(expected), "{name}");
        }
    }

    #[test]
    fn collisions() {
        assert!(collides("a.b", "a_b"));
        assert!(collides("a.b_c", "a_b.c"));
        assert!(!collides("a.b", "a.b"), "the same name is the same topic, not a collision");
        assert!(!collides("a.b", "a-b"));
        assert!(!collides("a.b", "a_bc"));
    }
}
