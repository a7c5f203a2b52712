//! File and directory names of Kafka's layout.

use std::path::{Path, PathBuf};

/// One kind of file that belongs to a base offset.
pub(super) const LOG: &str = "log";
pub(super) const SNAPSHOT: &str = "snapshot";

/// `<20 digits>.<suffix>`.
pub(super) fn file(dir: &Path, offset: i64, suffix: &str) -> PathBuf {
    dir.join(format!("{offset:020}.{suffix}"))
}

/// The offset and the suffix (which may have several parts, like `log.swap`) of such a name.
pub(super) fn parse(name: &str) -> Option<(i64, &str)> {
    let (digits, suffix) = name.split_once('.')?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, suffix))
}

/// Topic and partition of a directory named `<topic>-<partition>`.
pub fn parse_dir(name: &str) -> Option<(&str, i32)> {
    let (topic, partition) = name.rsplit_once('-')?;
    let canonical = !topic.is_empty()
        && partition.bytes().all(|byte| byte.is_ascii_digit())
        && (partition == "0" || !partition.starts_with('0'));
    if canonical { Some((topic, partition.parse().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafkas() {
        let path = file(Path::new("logs-0"), 1_234, LOG);
        assert_eq!(path, Path::new("logs-0/00000000000000001234.log"));
        assert_eq!(parse("00000000000000001234.log"), Some((1_234, "log")));
        assert_eq!(parse("09223372036854775807.snapshot"), Some((i64::MAX, "snapshot")));
        assert_eq!(parse("00000000000000001234.log.swap"), Some((1_234, "log.swap")));
        for foreign in ["99999999999999999999.log", "1234.log", "leader-epoch-checkpoint", "x.log"]
        {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn directories_are_kafkas() {
        assert_eq!(parse_dir("logs-0"), Some(("logs", 0)));
        assert_eq!(parse_dir("a-b-12"), Some(("a-b", 12)));
        for foreign in
            ["logs", "logs-", "-1", "logs-01", "logs-x", "logs-0.abc-delete", "logs-4294967296"]
        {
            assert_eq!(parse_dir(foreign), None, "{foreign}");
        }
    }
}
