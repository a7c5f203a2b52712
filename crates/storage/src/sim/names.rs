//! The directories: the names that programs see, those on the platter, and the changes between the two.
//!
//! POSIX promises of a change of a name nothing but that `fsync` of its directory makes it durable. ext4 and XFS log all
//! changes of all directories in order, so that a power cut leaves a prefix, and an fsync of any file may commit them all.
//! A power cut here is as hostile as both: the seed picks for each directory either a prefix of its changes or any subset
//! of them (a later rename may survive an earlier create, one directory be ahead of another), and syncing a file commits no
//! name. What no file system does is left out: a rename is whole or not at all, and no node ends up under two names.
//! While a rename between two directories is pending, the order is the journal's over the whole disk: neither directory
//! may be ahead of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::images::{FileNode, Odds};
use super::lock;
use crate::seed::Seed;

const ROOT: u64 = 0;

#[derive(Debug, Clone)]
pub(super) enum Node {
    /// By its number.
    Dir(u64),
    File(FileNode),
}

impl Node {
    fn number(&self) -> u64 {
        match self {
            Node::Dir(number) => *number,
            Node::File(file) => lock(file).number,
        }
    }
}

type Entries = BTreeMap<String, Node>;

#[derive(Debug, Clone)]
pub(super) struct Names {
    dirs: BTreeMap<u64, Dir>,
    next_number: u64,
    /// Changes ever made: their order over all directories.
    changes: u64,
    /// Pending renames between two directories.
    crossings: usize,
}

#[derive(Debug, Clone, Default)]
struct Dir {
    live: Entries,
    durable: Entries,
    /// Changes since the last sync, oldest first.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
struct Change {
    order: u64,
    name: String,
    node: Node,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Link,
    Unlink,
    /// From this name in this directory.
    RenameFrom(u64, String),
}

/// One entry's place: the directory and the name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dir: u64,
    pub(super) name: String,
}

impl Names {
    pub(super) fn new() -> Names {
        let dirs = BTreeMap::from([(ROOT, Dir::default())]);
        Names { dirs, next_number: ROOT + 1, changes: 0, crossings: 0 }
    }

    /// For a new file or directory.
    pub(super) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// What a path leads to, if anything.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<Node>> {
        let mut node = Node::Dir(ROOT);
        for part in parts(path)? {
            let Node::Dir(dir) = node else { return Err(io::ErrorKind::NotADirectory.into()) };
            match self.live(dir).and_then(|entries| entries.get(part)) {
                Some(child) => node = child.clone(),
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// The number of the directory at a path.
    pub(super) fn find_dir(&self, path: &Path) -> io::Result<u64> {
        match self.find(path)? {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Where the last name of a path stands or would stand. The root has no such place.
    pub(super) fn entry(&self, path: &Path) -> io::Result<Entry> {
        let name = parts(path)?.pop().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        Ok(Entry { dir: self.find_dir(path.parent().unwrap_or(Path::new("")))?, name })
    }

    pub(super) fn at(&self, entry: &Entry) -> Option<&Node> {
        self.live(entry.dir)?.get(&entry.name)
    }

    pub(super) fn live(&self, dir: u64) -> Option<&Entries> {
        self.dirs.get(&dir).map(|dir| &dir.live)
    }

    fn is_empty(&self, dir: u64) -> bool {
        self.live(dir).is_none_or(BTreeMap::is_empty)
    }

    /// Makes a directory and its missing parents; the directories in which something was made, outermost first.
    pub(super) fn make_dirs(&mut self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut at = PathBuf::from("/");
        let mut changed = Vec::new();
        for part in parts(path)? {
            let parent = at.clone();
            at.push(part);
            match self.find(&at)? {
                Some(Node::Dir(_)) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    let number = self.take_number();
                    self.dirs.insert(number, Dir::default());
                    self.link(self.entry(&at)?, Node::Dir(number));
                    changed.push(parent);
                }
            }
        }
        Ok(changed)
    }

    pub(super) fn link(&mut self, entry: Entry, node: Node) {
        self.change(entry, node, Kind::Link);
    }

    /// Removes an entry; what it led to.
    pub(super) fn unlink_file(&mut self, entry: Entry) -> io::Result<Node> {
        match self.at(&entry).cloned() {
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            Some(node) => {
                self.change(entry, node.clone(), Kind::Unlink);
                Ok(node)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn unlink_dir(&mut self, entry: Entry) -> io::Result<()> {
        match self.at(&entry).cloned() {
            Some(Node::Dir(dir)) if !self.is_empty(dir) => {
                Err(io::ErrorKind::DirectoryNotEmpty.into())
            }
            Some(node @ Node::Dir(_)) => {
                self.change(entry, node, Kind::Unlink);
                Ok(())
            }
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Renames; what was at the new name before.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<Option<Node>> {
        let (old, new) = (self.entry(from)?, self.entry(to)?);
        let node = self.at(&old).cloned().ok_or(io::ErrorKind::NotFound)?;
        if old == new {
            return Ok(None);
        }
        let replaced = self.at(&new).cloned();
        match (&node, &replaced) {
            (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir(_), Some(Node::File(_))) => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            (Node::Dir(_), Some(Node::Dir(dir))) if !self.is_empty(*dir) => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            (Node::Dir(_), _) if parts(to)?.starts_with(&parts(from)?) => {
                // Into itself.
                return Err(io::ErrorKind::InvalidInput.into());
            }
            _ => {}
        }
        if old.dir != new.dir {
            self.crossings += 1;
        }
        self.change(new, node, Kind::RenameFrom(old.dir, old.name));
        Ok(replaced)
    }

    fn change(&mut self, entry: Entry, node: Node, kind: Kind) {
        let Entry { dir, name } = entry;
        let change = Change { order: self.changes, name, node, kind };
        self.changes += 1;
        apply(&mut self.dirs, |dir| &mut dir.live, dir, &change);
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.pending.push(change);
        }
    }

    /// Makes the changes of one directory durable.
    pub(super) fn sync(&mut self, dir: u64) {
        let changes = if self.crossings > 0 { self.take_all() } else { self.take_of(dir) };
        for (dir, change) in &changes {
            apply(&mut self.dirs, |dir| &mut dir.durable, *dir, change);
        }
    }

    /// Makes all changes of all directories durable.
    pub(super) fn sync_all(&mut self) {
        for (dir, change) in &self.take_all() {
            apply(&mut self.dirs, |dir| &mut dir.durable, *dir, change);
        }
    }

    fn take_of(&mut self, dir: u64) -> Vec<(u64, Change)> {
        let Some(entries) = self.dirs.get_mut(&dir) else { return Vec::new() };
        std::mem::take(&mut entries.pending).into_iter().map(|change| (dir, change)).collect()
    }

    /// All pending changes in the order in which they were made.
    fn take_all(&mut self) -> Vec<(u64, Change)> {
        let dirs: Vec<u64> = self.dirs.keys().copied().collect();
        let mut changes: Vec<(u64, Change)> =
            dirs.into_iter().flat_map(|dir| self.take_of(dir)).collect();
        changes.sort_by_key(|(_, change)| change.order);
        self.crossings = 0;
        changes
    }

    /// Cuts the power: what the seed lets through is durable, and nothing else is left.
    pub(super) fn crash(&mut self, seed: &mut Seed, odds: Odds) {
        let in_order = self.crossings > 0;
        let mut survivors = Vec::new();
        if in_order {
            survivors = self.take_all();
            let keep = seed.below(survivors.len() as u64 + 1);
            survivors.truncate(usize::try_from(keep).unwrap_or(0));
        }
        let dirs: Vec<u64> = self.dirs.keys().copied().collect();
        for dir in dirs {
            let mut changes = self.take_of(dir);
            if changes.is_empty() {
                continue;
            }
            if seed.coin() {
                let keep = seed.below(changes.len() as u64 + 1);
                changes.truncate(usize::try_from(keep).unwrap_or(0));
            } else {
                changes.retain(|_| odds.survive(seed));
            }
            survivors.append(&mut changes);
        }
        survivors.sort_by_key(|(_, change)| change.order);
        self.apply_survivors(&survivors);
        self.forget_live();
    }

    /// Applies changes of which some are missing, so that a node's last surviving place is its only one.
    fn apply_survivors(&mut self, survivors: &[(u64, Change)]) {
        let mut places: BTreeMap<u64, Entry> = BTreeMap::new();
        for (number, dir) in &self.dirs {
            for (name, node) in &dir.durable {
                places.insert(node.number(), Entry { dir: *number, name: name.clone() });
            }
        }
        for (dir, change) in survivors {
            let number = change.node.number();
            if let Some(Entry { dir, name }) = places.remove(&number)
                && let Some(dir) = self.dirs.get_mut(&dir)
                && dir.durable.get(&name).is_some_and(|node| node.number() == number)
            {
                dir.durable.remove(&name);
            }
            if matches!(change.kind, Kind::Unlink) {
                continue;
            }
            let entry = Entry { dir: *dir, name: change.name.clone() };
            if let Some(dir) = self.dirs.get_mut(dir) {
                dir.durable.insert(entry.name.clone(), change.node.clone());
            }
            places.insert(number, entry);
        }
    }

    /// Only what is reachable on the platter is there.
    fn forget_live(&mut self) {
        let mut reachable = BTreeMap::new();
        let mut queue = vec![ROOT];
        while let Some(number) = queue.pop() {
            let Some(mut dir) = self.dirs.remove(&number) else { continue };
            dir.live.clone_from(&dir.durable);
            queue.extend(dir.live.values().filter_map(|node| match node {
                Node::Dir(number) => Some(*number),
                Node::File(_) => None,
            }));
            reachable.insert(number, dir);
        }
        self.dirs = reachable;
    }

    /// The entries of a directory, by what programs see or by what is on the platter.
    fn entries(&self, path: &Path, durable: bool) -> Option<&Entries> {
        let mut entries = Self::side(self.dirs.get(&ROOT)?, durable);
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let Node::Dir(number) = entries.get(name.to_str()?)? else { return None };
            entries = Self::side(self.dirs.get(number)?, durable);
        }
        Some(entries)
    }

    fn side(dir: &Dir, durable: bool) -> &Entries {
        if durable { &dir.durable } else { &dir.live }
    }

    /// The file at a path, by what programs see or by what is on the platter.
    pub(super) fn file(&self, path: &Path, durable: bool) -> Option<FileNode> {
        let name = path.file_name()?.to_str()?;
        match self.entries(path.parent()?, durable)?.get(name)? {
            Node::File(file) => Some(FileNode::clone(file)),
            Node::Dir(_) => None,
        }
    }

    /// The names in a directory, sorted; none if it is not there.
    pub(super) fn names_in(&self, dir: &Path, durable: bool) -> Vec<String> {
        self.entries(dir, durable).into_iter().flat_map(|entries| entries.keys().cloned()).collect()
    }

    /// All files by path: those that programs see, or those on the platter.
    pub(super) fn files(&self, durable: bool) -> BTreeMap<PathBuf, FileNode> {
        let mut files = BTreeMap::new();
        let mut queue = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, number)) = queue.pop() {
            let Some(dir) = self.dirs.get(&number) else { continue };
            for (name, node) in if durable { &dir.durable } else { &dir.live } {
                match node {
                    Node::Dir(number) => queue.push((path.join(name), *number)),
                    Node::File(file) => {
                        files.insert(path.join(name), FileNode::clone(file));
                    }
                }
            }
        }
        files
    }

    /// Puts other files in the place of those that are there, by number.
    pub(super) fn replace_files(&mut self, replacement: &mut dyn FnMut(&FileNode) -> FileNode) {
        for dir in self.dirs.values_mut() {
            let entries = dir.live.values_mut().chain(dir.durable.values_mut());
            for node in entries.chain(dir.pending.iter_mut().map(|change| &mut change.node)) {
                if let Node::File(file) = node {
                    *file = replacement(file);
                }
            }
        }
    }
}

/// Applies a change of `dir` to one side of the directories.
fn apply(
    dirs: &mut BTreeMap<u64, Dir>,
    side: impl Fn(&mut Dir) -> &mut Entries,
    dir: u64,
    change: &Change,
) {
    if let Kind::RenameFrom(from, name) = &change.kind
        && let Some(from) = dirs.get_mut(from)
    {
        side(from).remove(name);
    }
    let Some(dir) = dirs.get_mut(&dir) else { return };
    match change.kind {
        Kind::Link | Kind::RenameFrom(..) => {
            side(dir).insert(change.name.clone(), change.node.clone());
        }
        Kind::Unlink => {
            side(dir).remove(&change.name);
        }
    }
}

/// The names of a path. Absolute and relative paths are the same: the current directory is the root.
fn parts(path: &Path) -> io::Result<Vec<&str>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                parts.push(name.to_str().ok_or(io::ErrorKind::InvalidFilename)?);
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
    }
    Ok(parts)
}
