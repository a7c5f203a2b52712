//! Files in memory to be followed, and whoever writes, rotates and loses them: for simulations.
//!
//! It does what Linux does, as far as a follower of files can see: an inode lives as long as a name
//! or a descriptor of it, and its number is then used again (the lowest free one first, with a later
//! birth); a rename keeps the inode; inotify speaks of the directory that was watched. The rest is
//! decided by whoever holds it: time is the given clock's, numbers and births are counted, and what
//! was asked can be recorded, so that two runs can be compared.
//! Not here: symbolic links, rights.

mod door;
mod state;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tailway_daemon::Clock;

use super::watch::Sound;
use crate::machine::identity::Kind;
use state::{Act, Inode, State, failed, index, lock};

/// What the file system tells of changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Watching {
    /// Everything, at once.
    #[default]
    Told,
    /// Nothing: the host has no watches left.
    Refused,
    /// Nothing: others write to it over a network.
    Foreign,
}

/// What a power cut leaves of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivor {
    /// All that was written.
    Whole,
    /// The first bytes; never less than what was synced.
    Short(u64),
    /// Its length, but zeros from here on; never of what was synced.
    Zeros(u64),
    /// Nothing, not even a name. Of a file that was never synced.
    Nothing,
}

/// A file system in memory. Clones are the same one.
#[derive(Clone)]
pub struct MemoryFiles {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

impl MemoryFiles {
    /// An empty file system. The clock says when files are written.
    pub fn new(clock: Clock) -> Self {
        let files = Self { clock, state: Arc::default() };
        let root = files.state().inode(Kind::Directory, 0);
        files.state().names.insert(PathBuf::from("/"), root);
        files
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn now_ns(&self) -> i64 {
        self.clock.wall().0.saturating_mul(1_000_000)
    }

    // What it is like.

    /// From the next watch on.
    pub fn set_watching(&self, watching: Watching) {
        self.state().watching = watching;
    }

    /// Files made from now on have no birth time, as on older file systems.
    pub fn without_births(&self) {
        self.state().births = None;
    }

    pub fn set_descriptors_max(&self, descriptors_max: u64) {
        self.state().descriptors_max = descriptors_max;
    }

    // What the follower does.

    /// Keeps what is asked from now on.
    pub fn record(&self) {
        self.state().record = Some(Vec::new());
    }

    /// What was asked since `record`.
    pub fn recorded(&self) -> Vec<String> {
        self.state().record.clone().unwrap_or_default()
    }

    /// Does something right before the question after `questions` others: what a writer may do while
    /// a follower is in the middle of something.
    pub fn interleave(&self, questions: u64, act: impl FnOnce(&Self) + Send + 'static) {
        let mut state = self.state();
        let at = state.asked.saturating_add(questions);
        state.planned.entry(at).or_default().push(Box::new(act));
    }

    fn ask(&self, what: &str, subject: &dyn fmt::Debug) {
        let due: Vec<Act> = {
            let mut state = self.state();
            let question = state.asked;
            state.asked += 1;
            let later = state.planned.split_off(&(question + 1));
            if let Some(record) = &mut state.record {
                record.push(format!("{what} {subject:?}"));
            }
            std::mem::replace(&mut state.planned, later).into_values().flatten().collect()
        };
        for act in due {
            act(self);
        }
    }

    // What a writer does.

    pub fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let now = self.now_ns();
        let mut state = self.state();
        let mut parts: Vec<&Path> = path.ancestors().collect();
        parts.reverse();
        for part in parts {
            match state.names.get(part) {
                Some(inode) if inode.kind == Kind::Directory => {}
                Some(_) => return Err(failed(io::ErrorKind::NotADirectory)),
                None => {
                    state.require_dir(part)?;
                    let inode = state.inode(Kind::Directory, now);
                    state.names.insert(part.to_path_buf(), inode);
                    state.tell_name(part);
                }
            }
        }
        Ok(())
    }

    /// Opens a file for appending; makes it if it is not there.
    pub fn open_to_append(&self, path: &Path) -> io::Result<MemoryWriter> {
        let now = self.now_ns();
        let mut state = self.state();
        let inode = match state.names.get(path) {
            Some(inode) if inode.kind == Kind::Directory => {
                return Err(failed(io::ErrorKind::IsADirectory));
            }
            Some(inode) => Arc::clone(inode),
            None => {
                state.require_dir(path)?;
                let inode = state.inode(Kind::Regular, now);
                state.names.insert(path.to_path_buf(), Arc::clone(&inode));
                state.tell_name(path);
                inode
            }
        };
        Ok(MemoryWriter { files: self.clone(), inode })
    }

    /// Opens (makes), appends, closes.
    pub fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.open_to_append(path)?.append(bytes);
        Ok(())
    }

    /// Cuts a file, or fills it with zeros up to `len`.
    pub fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let now = self.now_ns();
        let state = self.state();
        let inode = state.file(path)?;
        {
            let mut body = lock(&inode.body);
            body.bytes.resize(index(len), 0);
            body.synced = body.synced.min(index(len));
            body.written_ns = now;
        }
        state.tell_written(&inode);
        Ok(())
    }

    /// Rotation by `copytruncate`: copies the file and cuts the one that its writer has open.
    pub fn copy_truncate(&self, from: &Path, to: &Path) -> io::Result<()> {
        let bytes = lock(&self.state().file(from)?.body).bytes.clone();
        self.append(to, &bytes)?;
        self.truncate(from, 0)
    }

    /// A second name of a file.
    pub fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.file(from)?;
        if state.names.contains_key(to) {
            return Err(failed(io::ErrorKind::AlreadyExists));
        }
        state.require_dir(to)?;
        lock(&inode.body).links += 1;
        state.names.insert(to.to_path_buf(), inode);
        state.tell_name(to);
        Ok(())
    }

    /// Renames a file or directory; a file at `to` is replaced.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.named(from)?;
        state.require_dir(to)?;
        let is_dir = inode.kind == Kind::Directory;
        match state.names.get(to) {
            Some(old) if Arc::ptr_eq(old, &inode) => return Ok(()),
            Some(old) if is_dir || old.kind == Kind::Directory => {
                return Err(failed(io::ErrorKind::AlreadyExists));
            }
            _ => {}
        }
        state.names.remove(from);
        state.unlinked(to);
        state.names.insert(to.to_path_buf(), Arc::clone(&inode));
        if is_dir {
            let below: Vec<PathBuf> =
                state.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
            for path in below {
                if let (Some(inode), Ok(rest)) =
                    (state.names.remove(&path), path.strip_prefix(from))
                {
                    state.names.insert(to.join(rest), inode);
                }
            }
        }
        state.tell_rename(from, to, inode.ino);
        Ok(())
    }

    /// Removes a file, or an empty directory.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.named(path)?;
        if inode.kind == Kind::Directory {
            let is_below = |name: &PathBuf| name != path && name.starts_with(path);
            if state.names.keys().any(is_below) {
                return Err(failed(io::ErrorKind::DirectoryNotEmpty));
            }
        }
        state.unlinked(path);
        state.tell_name(path);
        state.tell_gone(inode.ino);
        Ok(())
    }

    /// Removes a file and makes another one under its name, which has the same inode number unless
    /// somebody has the old one open, or a lower number is free.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.remove(path)?;
        self.append(path, bytes)
    }

    /// Makes a file durable as it is.
    pub fn sync(&self, path: &Path) -> io::Result<()> {
        let inode = self.state().file(path)?;
        let mut body = lock(&inode.body);
        body.synced = body.bytes.len();
        body.was_synced = true;
        Ok(())
    }

    /// The host loses power, and has it again: of each file with bytes (or a name) that were not
    /// synced, `survivor` says what is left, given its length and how much of it is safe. Names,
    /// numbers and births stay.
    pub fn power_cut(&self, mut survivor: impl FnMut(&Path, u64, u64) -> Survivor) {
        let mut state = self.state();
        state.watchers.clear();
        let mut seen = BTreeSet::new();
        let mut gone = Vec::new();
        for (path, inode) in &state.names {
            if inode.kind != Kind::Regular || !seen.insert(inode.ino) {
                continue;
            }
            let mut body = lock(&inode.body);
            let (len, synced) = (body.bytes.len(), body.synced);
            if len == synced && body.was_synced {
                continue;
            }
            match survivor(path, len as u64, synced as u64) {
                Survivor::Nothing if !body.was_synced => gone.push(path.clone()),
                Survivor::Whole | Survivor::Nothing => {}
                Survivor::Short(left) => body.bytes.truncate(index(left).max(synced)),
                Survivor::Zeros(from) => {
                    let from = index(from).clamp(synced, len);
                    body.bytes[from..].fill(0);
                }
            }
            body.synced = body.bytes.len();
            body.was_synced = true;
        }
        for path in gone {
            state.unlinked(&path);
        }
    }

    /// The kernel's queue of events overflows: each watcher hears only that.
    pub fn overflow(&self) {
        for listener in self.state().watchers.values() {
            listener.ear.hear(Sound::Missed);
        }
    }

    /// What is in a file.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(lock(&self.state().file(path)?.body).bytes.clone())
    }
}

impl fmt::Debug for MemoryFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.state().names.keys()).finish()
    }
}

/// A writer's descriptor: it goes on with its file under whatever name.
#[derive(Debug)]
pub struct MemoryWriter {
    files: MemoryFiles,
    inode: Arc<Inode>,
}

impl MemoryWriter {
    pub fn append(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let now = self.files.now_ns();
        {
            let mut body = lock(&self.inode.body);
            body.bytes.extend_from_slice(bytes);
            body.written_ns = now;
        }
        self.files.state().tell_written(&self.inode);
    }
}

#[cfg(test)]
mod tests;
