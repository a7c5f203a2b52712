//! Inodes, names and listeners: what the file system in memory consists of.
//!
//! Invariant: an inode's number is free again exactly when its last name and descriptor are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{MemoryFiles, Watching};
use crate::machine::identity::{FileId, Kind, Stat};
use crate::tail::watch::{Ear, Hears, Sound};

const DEVICE: u64 = 1;
const INO_FIRST: u64 = 11;
const DESCRIPTORS: u64 = 1_024;

pub(super) type Act = Box<dyn FnOnce(&MemoryFiles) + Send>;

pub(super) struct State {
    /// Names by path, directories too.
    pub(super) names: BTreeMap<PathBuf, Arc<Inode>>,
    inos: Arc<Mutex<Inos>>,
    pub(super) births: Option<i64>,
    pub(super) watching: Watching,
    pub(super) watchers: BTreeMap<u64, Listener>,
    pub(super) watcher_next: u64,
    pub(super) descriptors_max: u64,
    pub(super) asked: u64,
    pub(super) record: Option<Vec<String>>,
    pub(super) planned: BTreeMap<u64, Vec<Act>>,
}

/// Inode numbers.
#[derive(Debug)]
struct Inos {
    next: u64,
    free: BTreeSet<u64>,
}

pub(super) struct Listener {
    pub(super) hears: Hears,
    pub(super) ear: Ear,
    /// Inodes of directories, and the path under which each is spoken of.
    pub(super) dirs: BTreeMap<u64, PathBuf>,
}

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) ino: u64,
    pub(super) birth_ns: Option<i64>,
    pub(super) kind: Kind,
    pub(super) body: Mutex<Body>,
    inos: Arc<Mutex<Inos>>,
}

#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// This much of it survives a power cut.
    pub(super) synced: usize,
    pub(super) was_synced: bool,
    pub(super) links: u64,
    pub(super) written_ns: i64,
}

impl Drop for Inode {
    /// The last name or descriptor is gone.
    fn drop(&mut self) {
        lock(&self.inos).free.insert(self.ino);
    }
}

impl Inode {
    pub(super) fn stat(&self) -> Stat {
        let body = lock(&self.body);
        Stat {
            id: FileId { dev: DEVICE, ino: self.ino, birth_ns: self.birth_ns },
            size: body.bytes.len() as u64,
            links: body.links,
            written_ns: body.written_ns,
            kind: self.kind,
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn failed(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

/// More than memory is as good as all of it.
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Default for State {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            inos: Arc::new(Mutex::new(Inos { next: INO_FIRST, free: BTreeSet::new() })),
            births: Some(1),
            watching: Watching::Told,
            watchers: BTreeMap::new(),
            watcher_next: 0,
            descriptors_max: DESCRIPTORS,
            asked: 0,
            record: None,
            planned: BTreeMap::new(),
        }
    }
}

impl State {
    /// A new inode with the lowest free number.
    pub(super) fn inode(&mut self, kind: Kind, now_ns: i64) -> Arc<Inode> {
        let ino = {
            let mut inos = lock(&self.inos);
            inos.free.pop_first().unwrap_or_else(|| {
                inos.next += 1;
                inos.next - 1
            })
        };
        let birth_ns = self.births;
        if let Some(births) = &mut self.births {
            *births += 1;
        }
        let body =
            Body { bytes: Vec::new(), synced: 0, was_synced: false, links: 1, written_ns: now_ns };
        Arc::new(Inode {
            ino,
            birth_ns,
            kind,
            body: Mutex::new(body),
            inos: Arc::clone(&self.inos),
        })
    }

    pub(super) fn named(&self, path: &Path) -> io::Result<Arc<Inode>> {
        self.names.get(path).cloned().ok_or_else(|| failed(io::ErrorKind::NotFound))
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<Arc<Inode>> {
        let inode = self.named(path)?;
        if inode.kind == Kind::Directory {
            return Err(failed(io::ErrorKind::IsADirectory));
        }
        Ok(inode)
    }

    /// What holds `path` must be a directory.
    pub(super) fn require_dir(&self, path: &Path) -> io::Result<Arc<Inode>> {
        let dir = self.named(path.parent().unwrap_or(path))?;
        if dir.kind != Kind::Directory {
            return Err(failed(io::ErrorKind::NotADirectory));
        }
        Ok(dir)
    }

    /// Takes a name away.
    pub(super) fn unlinked(&mut self, path: &Path) {
        if let Some(inode) = self.names.remove(path) {
            let mut body = lock(&inode.body);
            body.links = body.links.saturating_sub(1);
        }
    }

    /// How a listener speaks of `path`, if it listens in its directory.
    fn spoken(&self, listener: &Listener, path: &Path) -> Option<PathBuf> {
        let dir = self.names.get(path.parent()?)?;
        Some(listener.dirs.get(&dir.ino)?.join(path.file_name()?))
    }

    fn listeners(&self, hears: Hears) -> impl Iterator<Item = &Listener> {
        self.watchers.values().filter(move |listener| listener.hears == hears)
    }

    /// A name appeared or disappeared.
    pub(super) fn tell_name(&self, path: &Path) {
        for listener in self.listeners(Hears::Names) {
            if let Some(spoken) = self.spoken(listener, path) {
                listener.ear.hear(Sound::Names(vec![spoken]));
            }
        }
    }

    pub(super) fn tell_rename(&self, from: &Path, to: &Path, ino: u64) {
        for listener in self.listeners(Hears::Names) {
            match (self.spoken(listener, from), self.spoken(listener, to)) {
                (Some(from), Some(to)) => listener.ear.hear(Sound::Renamed(from, to)),
                (Some(path), None) | (None, Some(path)) => {
                    listener.ear.hear(Sound::Names(vec![path]));
                }
                (None, None) => {}
            }
            // A watched directory says itself that it moved, and goes on under its old name.
            if let Some(itself) = listener.dirs.get(&ino) {
                listener.ear.hear(Sound::Names(vec![itself.clone()]));
            }
        }
    }

    /// A watched directory is removed: it says so itself, and is watched no more.
    pub(super) fn tell_gone(&mut self, ino: u64) {
        for listener in self.watchers.values_mut() {
            if let (Some(itself), Hears::Names) = (listener.dirs.remove(&ino), listener.hears) {
                listener.ear.hear(Sound::Names(vec![itself]));
            }
        }
    }

    /// A file was written to: told for each of its names.
    pub(super) fn tell_written(&self, inode: &Arc<Inode>) {
        if self.listeners(Hears::Writes).next().is_none() {
            return;
        }
        let paths = self.names.iter().filter(|(_, named)| Arc::ptr_eq(named, inode));
        for (path, _) in paths {
            for listener in self.listeners(Hears::Writes) {
                if let Some(spoken) = self.spoken(listener, path) {
                    listener.ear.hear(Sound::Written(vec![spoken]));
                }
            }
        }
    }
}
