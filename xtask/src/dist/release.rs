//! Which release this is: its version and its time, both from the commit.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::output;

pub(super) struct Release {
    /// As dpkg and rpm both order it.
    pub(super) version: String,
    /// Seconds since 1970, for `SOURCE_DATE_EPOCH` and every file's time.
    pub(super) epoch: String,
    pub(super) commit: String,
}

impl Release {
    pub(super) fn of(root: &Path, version: Option<&str>) -> Result<Self> {
        let git = |args: &[&str]| {
            output(Command::new("git").args(args).env("TZ", "UTC").current_dir(root))
                .map(|text| text.trim().to_owned())
                .context("the version is the commit's, so packages are made in a clone of the repository")
        };
        let epoch = git(&["log", "-1", "--format=%ct"])?;
        let commit = git(&["log", "-1", "--format=%h", "--abbrev=8"])?;
        let version = if let Some(version) = version {
            version.to_owned()
        } else {
            let base = env!("CARGO_PKG_VERSION");
            let time = git(&["log", "-1", "--date=format-local:%Y%m%d%H%M%S", "--format=%cd"])?;
            let tagged =
                git(&["tag", "--points-at", "HEAD"])?.lines().any(|tag| tag == format!("v{base}"));
            let dirty = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
            version_of(base, &time, &commit, tagged, dirty)
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".+~".contains(&byte);
        ensure!(
            version.starts_with(|c: char| c.is_ascii_digit()) && version.bytes().all(allowed),
            "the version {version} is none for dpkg and rpm: write digits, letters and . + ~"
        );
        Ok(Self { version, epoch, commit })
    }

    /// The commit's time in a form of date(1).
    pub(super) fn date(&self, form: &str) -> Result<String> {
        let mut date = Command::new("date");
        date.args(["--utc", "--date", &format!("@{}", self.epoch), form]).env("LC_ALL", "C");
        Ok(output(&mut date)?.trim().to_owned())
    }
}

/// Between releases a commit's time comes before its hash, so that a later commit is a newer version.
fn version_of(base: &str, time: &str, commit: &str, tagged: bool, dirty: bool) -> String {
    match (tagged, dirty) {
        (true, false) => base.to_owned(),
        (_, false) => format!("{base}+git{time}.{commit}"),
        (_, true) => format!("{base}+git{time}.{commit}.dirty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_say_where_they_are_from() {
        assert_eq!(version_of("0.1.0", "20261128035000", "5fd4d54ac4da", true, false), "0.1.0");
        let between = version_of("0.1.0", "20261128035000", "5fd4d54ac4da", false, false);
        assert_eq!(between, "0.1.0+git20261128035000.5fd4d54ac4da");
        assert_eq!(version_of("0.1.0", "1", "2", true, true), "0.1.0+git1.2.dirty");
    }
}
