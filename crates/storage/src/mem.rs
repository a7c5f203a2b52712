//! A file system in memory that remembers what is durable, so that a test can cut the power.
//!
//! Each file has a live and a durable image and the set of sectors written since its last sync; each change of a name is
//! pending until the directory is synced. `crash` keeps or drops each of them by the seed.
//! It is as harsh as POSIX allows, not as kind as ext4: syncing a new file does not make its name durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fs::parent_of;
use crate::seed::Seed;
use crate::{DirEntry, Disk, DiskFile, OpenMode, StorageError};

const SECTOR: u64 = 512;

/// Clones share the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    live: Names,
    durable: Names,
    /// Changes of names since the sync of their directory, oldest first.
    pending: Vec<NameChange>,
    bytes_max: Option<u64>,
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Debug, Clone)]
enum Node {
    Dir,
    File(Arc<Mutex<Images>>),
}

/// Carries the node itself, so that it can survive a crash that an older change of the same name did not.
#[derive(Debug, Clone)]
enum NameChange {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

#[derive(Debug, Default)]
struct Images {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that may differ between the two.
    dirty: BTreeSet<u64>,
}

impl MemDisk {
    /// An empty disk without a size limit.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// An empty disk on which writes fail with "no space left" beyond `bytes_max`.
    pub fn with_capacity(bytes_max: u64) -> MemDisk {
        let disk = MemDisk::default();
        lock(&disk.state).bytes_max = Some(bytes_max);
        disk
    }

    /// Changes the limit, as when somebody frees or takes space.
    pub fn set_capacity(&self, bytes_max: Option<u64>) {
        lock(&self.state).bytes_max = bytes_max;
    }

    /// What a power cut at this moment may leave: each un-synced 512-byte sector, length change, creation, rename and
    /// removal survives or not, as the seed says. The result is a disk of its own; this one is unchanged.
    #[must_use]
    pub fn crash(&self, seed: u64) -> MemDisk {
        let state = lock(&self.state);
        let mut seed = Seed::new(seed);
        let mut names = state.durable.clone();
        for change in &state.pending {
            if seed.coin() {
                change.apply(&mut names);
            }
        }
        remove_orphans(&mut names);
        for node in names.values_mut() {
            if let Node::File(images) = node {
                let survived = lock(images).crash(&mut seed);
                *node = Node::File(Arc::new(Mutex::new(survived)));
            }
        }
        let bytes_max = state.bytes_max;
        let survivor =
            State { live: names.clone(), durable: names, pending: Vec::new(), bytes_max };
        MemDisk { state: Arc::new(Mutex::new(survivor)) }
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Link(path, node) => {
                names.insert(path.clone(), node.clone());
            }
            NameChange::Unlink(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), node.clone());
                move_children(names, from, to);
            }
        }
    }

    /// The directory whose sync makes it durable. A rename between directories becomes durable as a whole with its
    /// target.
    fn dir(&self) -> PathBuf {
        match self {
            NameChange::Link(path, _)
            | NameChange::Unlink(path)
            | NameChange::Rename(_, path, _) => key(parent_of(path)),
        }
    }

    /// Follows a rename of a directory above.
    fn moved(&mut self, from: &Path, to: &Path) {
        let follow = |path: &mut PathBuf| {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = to.join(rest);
            }
        };
        match self {
            NameChange::Link(path, _) | NameChange::Unlink(path) => follow(path),
            NameChange::Rename(old, new, _) => {
                follow(old);
                follow(new);
            }
        }
    }
}

impl Images {
    fn crash(&self, seed: &mut Seed) -> Images {
        let (short, long) = {
            let (live, durable) = (self.live.len() as u64, self.durable.len() as u64);
            (live.min(durable), live.max(durable))
        };
        let len = match seed.below(3) {
            0 => short,
            1 => long,
            _ => short + seed.below(long - short + 1),
        };
        let mut image = self.durable.clone();
        image.resize(index(len), 0);
        for sector in &self.dirty {
            if seed.coin() {
                copy_sector(&self.live, &mut image, *sector);
            }
        }
        Images { live: image.clone(), durable: image, dirty: BTreeSet::new() }
    }

    fn mark_dirty(&mut self, from: u64, until: u64) {
        if from < until {
            self.dirty.extend(from / SECTOR..=(until - 1) / SECTOR);
        }
    }

    fn resize(&mut self, len: u64) {
        let old = self.live.len() as u64;
        self.mark_dirty(old.min(len), old.max(len));
        self.live.resize(index(len), 0);
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset + bytes.len() as u64;
        if end > self.live.len() as u64 {
            self.resize(end);
        }
        self.mark_dirty(offset, end);
        self.live[index(offset)..index(end)].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&self.live, &mut self.durable, sector);
        }
    }
}

/// Copies what both images have of one sector.
fn copy_sector(from: &[u8], to: &mut [u8], sector: u64) {
    let start = index(sector * SECTOR);
    let end = (start + index(SECTOR)).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

/// Offsets of files that fit in memory fit in `usize`.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a directory is called in the maps: the current directory and the root are always there, under their own names.
fn key(path: &Path) -> PathBuf {
    path.components().collect()
}

fn is_top(path: &Path) -> bool {
    path == Path::new("/") || path == Path::new(".") || path.as_os_str().is_empty()
}

fn move_children(names: &mut Names, from: &Path, to: &Path) {
    let below: Vec<PathBuf> =
        names.keys().filter(|path| path.starts_with(from) && *path != from).cloned().collect();
    for path in below {
        if let (Some(node), Ok(rest)) = (names.remove(&path), path.strip_prefix(from)) {
            names.insert(to.join(rest), node);
        }
    }
}

/// A name whose directory did not survive is not reachable.
fn remove_orphans(names: &mut Names) {
    // Parents sort before their children, so one pass in order is enough.
    let mut kept = Names::new();
    for (path, node) in std::mem::take(names) {
        let parent = key(parent_of(&path));
        if is_top(&parent) || matches!(kept.get(&parent), Some(Node::Dir)) {
            kept.insert(path, node);
        }
    }
    *names = kept;
}

impl State {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    fn require_dir(&self, operation: &'static str, path: &Path) -> Result<(), StorageError> {
        if is_top(path) || matches!(self.live.get(path), Some(Node::Dir)) {
            return Ok(());
        }
        Err(StorageError::io(operation, path, io::ErrorKind::NotFound.into()))
    }

    fn has_children(&self, path: &Path) -> bool {
        self.live.keys().any(|other| other != path && other.starts_with(path))
    }

    fn used_bytes(&self) -> u64 {
        self.live
            .values()
            .map(|node| match node {
                Node::Dir => 0,
                Node::File(images) => lock(images).live.len() as u64,
            })
            .sum()
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, StorageError> {
        let name = key(path);
        let failed = |kind: io::ErrorKind| StorageError::io("open", path, kind.into());
        let mut state = lock(&self.state);
        let images = match (state.live.get(&name), mode) {
            (Some(Node::Dir), _) => return Err(failed(io::ErrorKind::IsADirectory)),
            (Some(Node::File(_)), OpenMode::CreateNew) => {
                return Err(failed(io::ErrorKind::AlreadyExists));
            }
            (Some(Node::File(images)), _) => images.clone(),
            (None, OpenMode::Read | OpenMode::Write) => {
                return Err(failed(io::ErrorKind::NotFound));
            }
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                state.require_dir("open", &key(parent_of(&name)))?;
                let images = Arc::default();
                state.change(NameChange::Link(name, Node::File(Arc::clone(&images))));
                images
            }
        };
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(MemFile { disk: self.clone(), path: path.to_path_buf(), images, writable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let (old, new) = (key(from), key(to));
        let failed = |kind: io::ErrorKind| StorageError::io("rename", from, kind.into());
        let mut state = lock(&self.state);
        let node = state.live.get(&old).cloned().ok_or(failed(io::ErrorKind::NotFound))?;
        state.require_dir("rename", &key(parent_of(&new)))?;
        let refusal = match (&node, state.live.get(&new)) {
            (Node::File(_), Some(Node::Dir)) => Some(io::ErrorKind::IsADirectory),
            (Node::Dir, Some(Node::File(_))) => Some(io::ErrorKind::NotADirectory),
            (Node::Dir, Some(Node::Dir)) if state.has_children(&new) => {
                Some(io::ErrorKind::DirectoryNotEmpty)
            }
            _ => None,
        };
        if let Some(kind) = refusal {
            return Err(failed(kind));
        }
        let is_dir = matches!(node, Node::Dir);
        let rename = NameChange::Rename(old.clone(), new.clone(), node);
        rename.apply(&mut state.live);
        if is_dir {
            // What is pending inside is reached by its new name, and only if the rename survives.
            for change in &mut state.pending {
                change.moved(&old, &new);
            }
            let first_inside =
                state.pending.iter().position(|change| change.dir().starts_with(&new));
            let at = first_inside.unwrap_or(state.pending.len());
            state.pending.insert(at, rename);
        } else {
            state.pending.push(rename);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        let name = key(path);
        let mut state = lock(&self.state);
        match state.live.get(&name) {
            Some(Node::File(_)) => {
                state.change(NameChange::Unlink(name));
                Ok(())
            }
            Some(Node::Dir) => {
                Err(StorageError::io("remove", path, io::ErrorKind::IsADirectory.into()))
            }
            None => Err(StorageError::io("remove", path, io::ErrorKind::NotFound.into())),
        }
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        let name = key(path);
        let failed = |kind: io::ErrorKind| StorageError::io("remove directory", path, kind.into());
        let mut state = lock(&self.state);
        match state.live.get(&name) {
            Some(Node::Dir) if state.has_children(&name) => {
                Err(failed(io::ErrorKind::DirectoryNotEmpty))
            }
            Some(Node::Dir) => {
                state.change(NameChange::Unlink(name));
                Ok(())
            }
            Some(Node::File(_)) => Err(failed(io::ErrorKind::NotADirectory)),
            None => Err(failed(io::ErrorKind::NotFound)),
        }
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), StorageError> {
        let name = key(path);
        let mut state = lock(&self.state);
        for part in name.ancestors().filter(|part| !is_top(part)) {
            match state.live.get(part) {
                Some(Node::File(_)) => {
                    let source = io::ErrorKind::NotADirectory.into();
                    return Err(StorageError::io("create directory", path, source));
                }
                Some(Node::Dir) => {}
                None => {
                    state.live.insert(part.to_path_buf(), Node::Dir);
                    state.durable.insert(part.to_path_buf(), Node::Dir);
                }
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError> {
        let dir = key(path);
        let state = lock(&self.state);
        state.require_dir("list", &dir)?;
        let mut entries: Vec<DirEntry> = state
            .live
            .iter()
            .filter(|(path, _)| key(parent_of(path)) == dir)
            .filter_map(|(path, node)| {
                let name = path.file_name()?.to_str()?.to_owned();
                Some(DirEntry { name, is_dir: matches!(node, Node::Dir) })
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        let dir = key(path);
        let mut state = lock(&self.state);
        state.require_dir("sync directory", &dir)?;
        for change in std::mem::take(&mut state.pending) {
            if change.dir() == dir {
                change.apply(&mut state.durable);
            } else {
                state.pending.push(change);
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> Result<bool, StorageError> {
        let name = key(path);
        Ok(is_top(&name) || lock(&self.state).live.contains_key(&name))
    }

    fn free_bytes(&self, _path: &Path) -> Result<u64, StorageError> {
        let state = lock(&self.state);
        Ok(state
            .bytes_max
            .map_or(u64::MAX, |bytes_max| bytes_max.saturating_sub(state.used_bytes())))
    }
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    path: PathBuf,
    images: Arc<Mutex<Images>>,
    writable: bool,
}

impl MemFile {
    /// Refuses a change of a read-only handle, and growth beyond the disk's size.
    fn require_room(&self, operation: &'static str, end: u64) -> Result<(), StorageError> {
        if !self.writable {
            let source = io::ErrorKind::PermissionDenied.into();
            return Err(StorageError::io(operation, &self.path, source));
        }
        let state = lock(&self.disk.state);
        let Some(bytes_max) = state.bytes_max else { return Ok(()) };
        let growth = end.saturating_sub(lock(&self.images).live.len() as u64);
        if growth > 0 && state.used_bytes() + growth > bytes_max {
            let source = io::ErrorKind::StorageFull.into();
            return Err(StorageError::io(operation, &self.path, source));
        }
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64, StorageError> {
        Ok(lock(&self.images).live.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let images = lock(&self.images);
        let start = index(offset).min(images.live.len());
        let n = buf.len().min(images.live.len() - start);
        buf[..n].copy_from_slice(&images.live[start..start + n]);
        Ok(n)
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        self.require_room("write", offset + bytes)?;
        let mut images = lock(&self.images);
        let mut offset = offset;
        for slice in slices {
            images.write(slice, offset);
            offset += slice.len() as u64;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.require_room("set length of", len)?;
        lock(&self.images).resize(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        lock(&self.images).sync();
        Ok(())
    }
}

#[cfg(test)]
#[path = "mem_tests.rs"]
mod tests;
