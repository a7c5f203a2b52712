//! The door to the files that are followed: everything that the agent asks a file system about them.
//!
//! `OsFiles` is the kernel's answer, and the only one in a shipped binary. `MemoryFiles` is a file
//! system in memory for simulations and tests. What is decided from the answers - which directory
//! may be trusted to a watch, what a heard name means, how many descriptors to use - is decided
//! outside, so that both are judged by the same code.
//! Invariant: nothing else in the agent opens, lists, asks about or watches a file that is followed.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::Path;

use super::watch::{Ear, Hears};
use crate::machine::identity::Stat;

/// A file system with files to follow. All calls may block for as long as a disk does.
pub trait TailFiles: Debug + Send + Sync {
    /// What a path leads to, through symbolic links.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// Opens for reading; never blocks on a pipe or device.
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;

    /// The files, directories and links in a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// The type of the file system that a directory is on, as `statfs` numbers them.
    fn filesystem(&self, dir: &Path) -> io::Result<u64>;

    /// How many descriptors the process may have; `None`: no limit.
    fn descriptors_max(&self) -> Option<u64>;

    /// Something that listens in directories and tells `ear`. An error says what to do about it.
    fn watcher(&self, hears: Hears, ear: Ear) -> Result<Box<dyn Watcher>, String>;
}

/// An open file.
pub trait OpenFile: Debug + Send + Sync {
    fn stat(&self) -> io::Result<Stat>;

    /// Reads at `offset` into `buffer`; 0 is the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: OsString,
    /// 0: it is a symbolic link, and only `stat` tells.
    pub ino: u64,
    /// It is a directory, or a link to one.
    pub is_dir: bool,
    pub is_link: bool,
}

/// Listens in directories until it is dropped.
pub trait Watcher: Debug + Send {
    /// Hears of a directory from now on. An error says why not, and what to do about it.
    fn watch(&mut self, dir: &Path) -> Result<(), String>;

    /// Hears no more of a directory, which may be gone.
    fn unwatch(&mut self, dir: &Path);
}

/// Reads `buffer.len()` bytes at `offset`, or up to the end of the file.
pub fn read_full(file: &dyn OpenFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
