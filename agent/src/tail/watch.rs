//! Watching directories, never files, and saying what the watches cannot see.
//!
//! One watcher hears of names (created, removed, renamed) in every directory that matters. A second
//! one hears of writes, and only in directories where nothing is being written: the first write
//! ends it, so that the writer pays for it once. What they hear is folded into sets until somebody
//! takes them; if there is too much, or the kernel lost some, the answer is a full scan.
//!
//! On network and other foreign filesystems the kernel does not hear what others write; such
//! directories are only polled. `trust` decides by the filesystem's type.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::{TailFiles, Watcher};
use crate::output::inbox::Inbox;

/// Names kept apart before a full scan is the cheaper answer.
const HEARD_MAX: usize = 4_096;

/// What was heard since it was last taken.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Names that appeared, disappeared or changed.
    pub names: BTreeSet<PathBuf>,
    /// Files that were written to.
    pub written: BTreeSet<PathBuf>,
    /// Renames, in order: from, to.
    pub renames: Vec<(PathBuf, PathBuf)>,
    /// Something was missed: look at everything.
    pub missed: bool,
}

/// Whether the kernel tells what happens in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Watched,
    /// The filesystem's name.
    Polled(&'static str),
}

/// Asks what kind of filesystem a directory is on.
pub fn trust(files: &dyn TailFiles, dir: &Path) -> Trust {
    files.filesystem(dir).map_or(Trust::Watched, trust_of)
}

fn trust_of(magic: u64) -> Trust {
    let name = match magic & 0xffff_ffff {
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "smb",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x5346_414f => "afs",
        0x00c3_6400 => "ceph",
        0x0bd0_0bd0 => "lustre",
        0x4750_4653 => "gpfs",
        0x7461_636f => "ocfs2",
        0x0116_1970 => "gfs2",
        // Files of the lower layer move when they are first written.
        0x794c_7630 => "overlayfs",
        _ => return Trust::Watched,
    };
    Trust::Polled(name)
}

/// What a watcher listens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// Names that are made, removed or changed.
    Names,
    /// Files that are written to.
    Writes,
}

/// What a watcher heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sound {
    /// These names appeared, disappeared or changed.
    Names(Vec<PathBuf>),
    /// From, to.
    Renamed(PathBuf, PathBuf),
    /// These files were written to.
    Written(Vec<PathBuf>),
    /// It heard less than there was.
    Missed,
}

/// Where watchers tell what they hear. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Ear {
    heard: Arc<Mutex<Heard>>,
    inbox: Inbox,
}

impl Ear {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Sets of paths: a panic in between leaves them usable.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note, and wakes whoever will want to know.
    pub fn hear(&self, sound: Sound) {
        let mut heard = self.lock();
        match sound {
            Sound::Missed => heard.missed = true,
            Sound::Written(paths) => heard.written.extend(paths),
            Sound::Renamed(from, to) => {
                heard.names.extend([from.clone(), to.clone()]);
                heard.renames.push((from, to));
            }
            Sound::Names(paths) => heard.names.extend(paths),
        }
        if heard.names.len() + heard.written.len() + heard.renames.len() > HEARD_MAX {
            *heard = Heard { missed: true, ..Heard::default() };
        }
        drop(heard);
        self.inbox.wake();
    }
}

/// A watcher for one kind of event, made when it is first needed.
#[derive(Debug)]
struct Kind {
    hears: Hears,
    watcher: Option<Box<dyn Watcher>>,
    dirs: BTreeSet<PathBuf>,
}

impl Kind {
    fn new(hears: Hears) -> Self {
        Self { hears, watcher: None, dirs: BTreeSet::new() }
    }

    fn add(&mut self, dir: &Path, files: &dyn TailFiles, ear: &Ear) -> Result<(), String> {
        if self.dirs.contains(dir) {
            return Ok(());
        }
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(files.watcher(self.hears, ear.clone())?),
        };
        watcher.watch(dir)?;
        self.dirs.insert(dir.to_path_buf());
        Ok(())
    }

    fn remove(&mut self, dir: &Path) {
        if let (true, Some(watcher)) = (self.dirs.remove(dir), &mut self.watcher) {
            watcher.unwatch(dir);
        }
    }
}

/// All watches of the agent.
#[derive(Debug)]
pub struct Watches {
    files: Arc<dyn TailFiles>,
    ear: Ear,
    names: Kind,
    writes: Kind,
}

impl Watches {
    /// `inbox` is woken when something was heard.
    pub fn new(files: Arc<dyn TailFiles>, inbox: Inbox) -> Self {
        Self {
            files,
            ear: Ear { inbox, ..Ear::default() },
            names: Kind::new(Hears::Names),
            writes: Kind::new(Hears::Writes),
        }
    }

    /// Hears of names in a directory from now on. An error says why it is only polled.
    pub fn watch_names(&mut self, dir: &Path) -> Result<(), String> {
        self.names.add(dir, self.files.as_ref(), &self.ear)
    }

    /// Hears of writes in a directory from now on.
    pub fn watch_writes(&mut self, dir: &Path) -> Result<(), String> {
        self.writes.add(dir, self.files.as_ref(), &self.ear)
    }

    pub fn unwatch_writes(&mut self, dir: &Path) {
        self.writes.remove(dir);
    }

    /// Forgets a directory; it may be gone.
    pub fn forget(&mut self, dir: &Path) {
        self.names.remove(dir);
        self.writes.remove(dir);
    }

    pub fn watched(&self) -> usize {
        self.names.dirs.len() + self.writes.dirs.len()
    }

    /// What was heard since the last time.
    pub fn take(&mut self) -> Heard {
        let heard = std::mem::take(&mut *self.ear.lock());
        // A directory that was itself removed or renamed has lost its watch (or keeps one that
        // speaks of another place): it is watched anew when it is listed again.
        let dirs: Vec<PathBuf> =
            heard.names.iter().filter(|name| self.names.dirs.contains(*name)).cloned().collect();
        for dir in dirs {
            self.forget(&dir);
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::os::OsFiles;
    use std::time::Duration;

    /// Waits until what was heard satisfies `enough`.
    fn hear(watches: &mut Watches, inbox: &Inbox, enough: impl Fn(&Heard) -> bool) -> Heard {
        let mut all = Heard::default();
        for _ in 0..100 {
            let heard = watches.take();
            all.names.extend(heard.names);
            all.written.extend(heard.written);
            all.renames.extend(heard.renames);
            all.missed |= heard.missed;
            if enough(&all) {
                return all;
            }
            inbox.wait(Duration::from_millis(100));
            inbox.take();
        }
        panic!("only heard {all:?}");
    }

    #[test]
    fn names_are_heard_and_writes_only_where_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let inbox = Inbox::default();
        let mut watches = Watches::new(Arc::new(OsFiles), inbox.clone());
        watches.watch_names(dir.path()).unwrap();
        std::fs::write(&a, "1").unwrap();
        std::fs::rename(&a, &b).unwrap();
        let heard = hear(&mut watches, &inbox, |heard| !heard.renames.is_empty());
        assert_eq!(heard.names, BTreeSet::from([a.clone(), b.clone()]));
        assert_eq!(heard.renames, [(a, b.clone())]);
        watches.watch_writes(dir.path()).unwrap();
        std::fs::write(&b, "2").unwrap();
        hear(&mut watches, &inbox, |heard| heard.written.contains(&b));
        watches.unwatch_writes(dir.path());
        watches.take();
        std::fs::write(&b, "3").unwrap();
        let last = dir.path().join("last");
        std::fs::write(&last, "").unwrap();
        let heard = hear(&mut watches, &inbox, |heard| heard.names.contains(&last));
        assert_eq!(heard.written, BTreeSet::new());
    }

    #[test]
    fn a_directory_that_is_made_again_can_be_watched_again() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("logs");
        let inbox = Inbox::default();
        let mut watches = Watches::new(Arc::new(OsFiles), inbox.clone());
        for _ in 0..2 {
            std::fs::create_dir(&inner).unwrap();
            watches.watch_names(&inner).unwrap();
            assert_eq!(watches.watched(), 1);
            std::fs::write(inner.join("a"), "").unwrap();
            hear(&mut watches, &inbox, |heard| heard.names.contains(&inner.join("a")));
            std::fs::remove_dir_all(&inner).unwrap();
            hear(&mut watches, &inbox, |heard| heard.names.contains(&inner));
            assert_eq!(watches.watched(), 0);
        }
    }

    #[test]
    fn foreign_filesystems_are_only_polled() {
        assert_eq!(trust_of(0xef53), Trust::Watched);
        assert_eq!(trust_of(0x0102_1994), Trust::Watched);
        assert_eq!(trust_of(0x6969), Trust::Polled("nfs"));
        assert_eq!(trust_of(0x794c_7630), Trust::Polled("overlayfs"));
    }
}
