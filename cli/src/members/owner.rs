//! Whose files a member's are: an installed daemon runs as a user of its own, and root, who enrols the host, writes for that
//! user.
//!
//! Invariant: secrets stay 0600; only who owns them changes, to the owner of the state directory that they are in, or to the
//! user that the package made where it has not made the directory yet.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tailway_metadata::Role;

use crate::output::quoted;

/// A service's user and group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    user: u32,
    group: u32,
}

/// Where users are.
const PASSWD: &str = "/etc/passwd";

impl Owner {
    /// Who is to have what is written into this state directory, if that is not who runs this.
    pub(super) fn of(role: Role, state: &Path) -> Option<Owner> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let found = fs::symlink_metadata(state).ok().filter(fs::Metadata::is_dir);
        if let Some(found) = found.filter(|found| found.uid() != 0) {
            return Some(Owner { user: found.uid(), group: found.gid() });
        }
        let is_installed = state == Path::new("/var/lib/tailway").join(role.name());
        let users = is_installed.then(|| fs::read_to_string(PASSWD).ok()).flatten()?;
        Owner::named(&format!("tailway-{role}"), &users)
    }

    /// From passwd(5).
    fn named(name: &str, users: &str) -> Option<Owner> {
        let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let number = |text: &str| text.parse().ok();
        let found = { fields }.find(|fields| fields.first() == Some(&name))?;
        Some(Owner { user: number(found.get(2)?)?, group: number(found.get(3)?)? })
    }

    /// Gives it what was written into its state directory, and that itself if nobody had made it yet.
    pub(super) fn take(self, state: &Path, parts: &[&Path]) -> Result<()> {
        parts.iter().try_for_each(|part| self.take_all(part))?;
        let failed = || format!("cannot give {} to user {}", state.display(), self.user);
        lchown(state, Some(self.user), Some(self.group)).with_context(failed)
    }

    /// A directory with all that is in it. Links are given, not followed.
    fn take_all(self, dir: &Path) -> Result<()> {
        let failed = || format!("cannot give {} to user {}", dir.display(), self.user);
        let (mut dirs, mut found): (Vec<PathBuf>, Vec<PathBuf>) = (vec![dir.into()], Vec::new());
        while let Some(next) = dirs.pop() {
            for entry in fs::read_dir(&next).with_context(failed)? {
                let entry = entry.with_context(failed)?;
                let is_dir = entry.file_type().with_context(failed)?.is_dir();
                if is_dir { &mut dirs } else { &mut found }.push(entry.path());
            }
            found.push(next);
        }
        // The directory last: nobody but root moves things in it before.
        for path in found {
            lchown(&path, Some(self.user), Some(self.group)).with_context(failed)?;
        }
        Ok(())
    }

    /// Lets it read a file of root's that only root may change: a configuration.
    pub(super) fn may_read(self, file: &Path) -> Result<()> {
        let shared = |file: &Path| -> io::Result<()> {
            lchown(file, None, Some(self.group))?;
            fs::set_permissions(file, fs::Permissions::from_mode(0o640))
        };
        shared(file).with_context(|| format!("cannot let the service read {}", file.display()))
    }
}

/// What starts a daemon with this configuration: where one is installed, its unit.
pub(super) fn start_command(role: Role, config: &Path, owner: Option<Owner>) -> String {
    if owner.is_some() && config == Path::new("/etc/tailway").join(format!("{role}.yaml")) {
        return format!("systemctl enable --now tailway-{role}");
    }
    format!("tailway-{role} --config {}", quoted(&config.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_package_is_found_by_its_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\ntailway-agent:x:997:996:Tailway agent:/:/no\n\
                     tailway-broken:x:y\n";
        let agent = Owner { user: 997, group: 996 };
        assert_eq!(Owner::named("tailway-agent", users), Some(agent));
        assert_eq!(Owner::named("tailway-broken", users), None);
        assert_eq!(Owner::named("tailway", users), None);
        let installed = Path::new("/etc/tailway/agent.yaml");
        let unit = "systemctl enable --now tailway-agent";
        assert_eq!(start_command(Role::Agent, installed, Some(agent)), unit);
        let by_hand = "tailway-agent --config /etc/tailway/agent.yaml";
        assert_eq!(start_command(Role::Agent, installed, None), by_hand);
    }

    #[test]
    fn files_follow_their_directory() {
        let dir = tempfile::tempdir().unwrap();
        let own = fs::metadata(dir.path()).unwrap();
        assert_eq!(Owner::of(Role::Agent, &dir.path().join("gone")), None);
        if !rustix::process::geteuid().is_root() {
            assert_eq!(Owner::of(Role::Agent, dir.path()), None, "what is ours stays ours");
            return;
        }
        assert_eq!(Owner::of(Role::Agent, dir.path()), None, "root's own");
        let state = dir.path().join("state");
        fs::create_dir_all(state.join("tls/deep")).unwrap();
        fs::write(state.join("tls/deep/key"), "k").unwrap();
        let config = dir.path().join("agent.yaml");
        fs::write(&config, "").unwrap();
        std::os::unix::fs::symlink(&config, state.join("tls/link")).unwrap();
        lchown(&state, Some(4_711), Some(4_712)).unwrap();
        let owner = Owner::of(Role::Agent, &state).unwrap();
        owner.take(&state, &[&state.join("tls")]).unwrap();
        owner.may_read(&config).unwrap();
        for part in ["tls", "tls/deep", "tls/deep/key", "tls/link"] {
            let found = fs::symlink_metadata(state.join(part)).unwrap();
            assert_eq!((found.uid(), found.gid()), (4_711, 4_712), "{part}");
        }
        let found = fs::metadata(&config).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (own.uid(), 4_712, 0o640));
    }
}
