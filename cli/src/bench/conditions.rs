//! What a reader must know of the machine to believe a number.

use std::path::Path;

use serde::Serialize;
use tailway_daemon::Clock;
use time::OffsetDateTime;

use super::servers::Transport;

/// A machine with more than this to do besides is no place for measurements.
const QUIET_LOAD: f64 = 0.5;

/// Taken before and completed after a run.
#[derive(Debug, Serialize)]
pub(super) struct Conditions {
    version: &'static str,
    build: &'static str,
    /// UTC.
    date: String,
    kernel: String,
    cores: usize,
    /// Type and device of the measured directory's file system.
    file_system: String,
    transport: Transport,
    /// One-minute load average before and after.
    load: [f64; 2],
    /// Others had something to do here before the run began.
    busy: bool,
}

impl Conditions {
    pub(super) fn before(dir: &Path, transport: Transport, clock: &Clock) -> Conditions {
        let wall = i128::from(clock.wall().0) * 1_000_000;
        let date = OffsetDateTime::from_unix_timestamp_nanos(wall)
            .map_or_else(|_| "?".to_owned(), |date| date.date().to_string());
        let load = load();
        Conditions {
            version: tailway_daemon::VERSION,
            build: if cfg!(debug_assertions) { "debug: not to be measured" } else { "release" },
            date,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            file_system: file_system(dir).unwrap_or_else(|| "?".to_owned()),
            transport,
            load: [load, load],
            busy: load > QUIET_LOAD,
        }
    }

    pub(super) fn after(&mut self) {
        self.load[1] = load();
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let Conditions { version, build, date, kernel, cores, file_system, .. } = self;
        let busy = if self.busy { "; others were busy here: not a measurement" } else { "" };
        vec![
            format!(
                "Tailway {version} ({build} build), {date} (UTC), Linux {kernel}, {cores} cores"
            ),
            format!(
                "file system: {file_system}; each daemon is a process of its own, clients are in this one"
            ),
            format!(
                "transport: {}; load average {:.2} before, {:.2} after{busy}",
                self.transport.name(),
                self.load[0],
                self.load[1]
            ),
        ]
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// `ext4 on /dev/vda`, of the mount that is nearest above `dir`.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    nearest(&mounts, &dir)
}

fn nearest(mounts: &str, dir: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        dir.starts_with(at).then(|| (at.len(), format!("{kind} on {device}")))
    });
    // Of two on one place the later hides the earlier.
    mounts.max_by_key(|(len, _)| *len).map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /var tmpfs rw 0 0\n/dev/vdb /var xfs rw 0 0\n\
                      proc /proc proc rw 0 0\n/dev/vdc /va ext4 rw 0 0\nbad\n";
        for (dir, expected) in [
            ("/", Some("ext4 on /dev/vda")),
            ("/var/lib", Some("xfs on /dev/vdb")),
            ("/variable", Some("ext4 on /dev/vda")),
        ] {
            assert_eq!(nearest(mounts, Path::new(dir)).as_deref(), expected, "{dir}");
        }
        assert_eq!(nearest("", Path::new("/")), None);
    }
}
