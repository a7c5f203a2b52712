//! The kernel's files: system calls, and inotify by way of the `notify` crate.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirEntryExt, FileExt};
use std::path::{Path, PathBuf};

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{
    Config, ErrorKind, Event, EventKindMask, INotifyWatcher, RecursiveMode, Watcher as _,
};
use rustix::fs::{Mode, OFlags};

use super::files::{DirEntry, OpenFile, TailFiles, Watcher};
use super::stat::{stat_fd, stat_path};
use super::watch::{Ear, Hears, Sound};
use crate::machine::identity::Stat;

/// The files of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFiles;

impl TailFiles for OsFiles {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        stat_path(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(Box::new(File::from(rustix::fs::open(path, flags, Mode::empty())?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let is_link = kind.is_symlink();
            let is_dir = if is_link {
                std::fs::metadata(entry.path()).is_ok_and(|found| found.is_dir())
            } else {
                kind.is_dir()
            };
            if is_dir || is_link || kind.is_file() {
                // The inode number of a link is its own.
                let ino = if is_link { 0 } else { entry.ino() };
                entries.push(DirEntry { name: entry.file_name(), ino, is_dir, is_link });
            }
        }
        Ok(entries)
    }

    fn filesystem(&self, dir: &Path) -> io::Result<u64> {
        Ok(u64::try_from(rustix::fs::statfs(dir)?.f_type).unwrap_or_default())
    }

    fn descriptors_max(&self) -> Option<u64> {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }

    fn watcher(&self, hears: Hears, ear: Ear) -> Result<Box<dyn Watcher>, String> {
        let mask = match hears {
            Hears::Names => {
                EventKindMask::CREATE | EventKindMask::REMOVE | EventKindMask::MODIFY_NAME
            }
            Hears::Writes => EventKindMask::MODIFY_DATA,
        };
        let config = Config::default().with_event_kinds(mask);
        let watcher = INotifyWatcher::new(move |event| ear.hear(sound_of(event)), config);
        Ok(Box::new(Inotify(watcher.map_err(explain)?)))
    }
}

impl OpenFile for File {
    fn stat(&self) -> io::Result<Stat> {
        stat_fd(self)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

#[derive(Debug)]
struct Inotify(INotifyWatcher);

impl Watcher for Inotify {
    fn watch(&mut self, dir: &Path) -> Result<(), String> {
        self.0.watch(dir, RecursiveMode::NonRecursive).map_err(explain)
    }

    fn unwatch(&mut self, dir: &Path) {
        // A directory that is gone has lost its watch already.
        drop(self.0.unwatch(dir));
    }
}

fn sound_of(event: notify::Result<Event>) -> Sound {
    match event {
        Ok(event) if event.need_rescan() => Sound::Missed,
        Ok(Event { kind: EventKind::Modify(ModifyKind::Data(_)), paths, .. }) => {
            Sound::Written(paths)
        }
        Ok(Event {
            kind: EventKind::Modify(ModifyKind::Name(RenameMode::Both)), paths, ..
        }) => match <[PathBuf; 2]>::try_from(paths) {
            Ok([from, to]) => Sound::Renamed(from, to),
            Err(paths) => Sound::Names(paths),
        },
        Ok(event) => Sound::Names(event.paths),
        Err(error) => {
            tracing::warn!(%error, "a watch failed; all directories are listed again");
            Sound::Missed
        }
    }
}

fn explain(error: notify::Error) -> String {
    match error.kind {
        ErrorKind::MaxFilesWatch => {
            "the limit of watches is reached; raise it: sysctl fs.inotify.max_user_watches=524288"
                .to_owned()
        }
        ErrorKind::Io(error)
            if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) =>
        {
            "the limit of watchers is reached; raise it: sysctl fs.inotify.max_user_instances=1024"
                .to_owned()
        }
        kind => notify::Error::new(kind).to_string(),
    }
}
