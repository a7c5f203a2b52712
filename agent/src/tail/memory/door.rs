//! What a follower sees of the files in memory. Each question is counted, and recorded if asked for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::state::{Inode, Listener, failed, index, lock};
use super::{MemoryFiles, Watching};
use crate::machine::identity::{Kind, Stat};
use crate::tail::files::{DirEntry, OpenFile, TailFiles, Watcher};
use crate::tail::watch::{Ear, Hears};

/// Names of file systems, as `statfs` has them.
const EXT4: u64 = 0xef53;
const NFS: u64 = 0x6969;

impl TailFiles for MemoryFiles {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.ask("stat", &path);
        Ok(self.state().named(path)?.stat())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.ask("open", &path);
        let inode = self.state().named(path)?;
        Ok(Box::new(MemoryFile { files: self.clone(), inode }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.ask("list", &dir);
        let state = self.state();
        if state.named(dir)?.kind != Kind::Directory {
            return Err(failed(io::ErrorKind::NotADirectory));
        }
        let below = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entries = below.map(|(path, inode)| DirEntry {
            name: path.file_name().map(OsString::from).unwrap_or_default(),
            ino: inode.ino,
            is_dir: inode.kind == Kind::Directory,
            is_link: false,
        });
        Ok(entries.collect())
    }

    fn filesystem(&self, dir: &Path) -> io::Result<u64> {
        self.ask("filesystem", &dir);
        Ok(if self.state().watching == Watching::Foreign { NFS } else { EXT4 })
    }

    fn descriptors_max(&self) -> Option<u64> {
        Some(self.state().descriptors_max)
    }

    fn watcher(&self, hears: Hears, ear: Ear) -> Result<Box<dyn Watcher>, String> {
        self.ask("watcher", &hears);
        let mut state = self.state();
        let id = state.watcher_next;
        state.watcher_next += 1;
        state.watchers.insert(id, Listener { hears, ear, dirs: BTreeMap::new() });
        Ok(Box::new(MemoryWatcher { files: self.clone(), id }))
    }
}

#[derive(Debug)]
struct MemoryFile {
    files: MemoryFiles,
    inode: Arc<Inode>,
}

impl OpenFile for MemoryFile {
    fn stat(&self) -> io::Result<Stat> {
        self.files.ask("stat inode", &self.inode.ino);
        Ok(self.inode.stat())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.files.ask("read", &(self.inode.ino, offset, buffer.len()));
        let body = lock(&self.inode.body);
        let rest = body.bytes.get(index(offset)..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

#[derive(Debug)]
struct MemoryWatcher {
    files: MemoryFiles,
    id: u64,
}

impl Watcher for MemoryWatcher {
    fn watch(&mut self, dir: &Path) -> Result<(), String> {
        self.files.ask("watch", &dir);
        let mut state = self.files.state();
        if state.watching == Watching::Refused {
            return Err("the limit of watches is reached".to_owned());
        }
        let inode = state.named(dir).map_err(|error| error.to_string())?;
        if let Some(listener) = state.watchers.get_mut(&self.id) {
            listener.dirs.insert(inode.ino, dir.to_path_buf());
        }
        Ok(())
    }

    fn unwatch(&mut self, dir: &Path) {
        self.files.ask("unwatch", &dir);
        if let Some(listener) = self.files.state().watchers.get_mut(&self.id) {
            listener.dirs.retain(|_, spoken| spoken != dir);
        }
    }
}

impl Drop for MemoryWatcher {
    fn drop(&mut self) {
        self.files.state().watchers.remove(&self.id);
    }
}
