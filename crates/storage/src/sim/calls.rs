//! The calls of programs: each is counted, may meet a fault, and is noted in the trace.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::faults::{Failure, Strike, power_is_off};
use super::images::{FileNode, Images, Odds, Place, SECTOR};
use super::names::Node;
use super::trace::{Act, DiskEvent, Operation, Outcome};
use super::{SimDisk, State, lock, number_of};
use crate::lock::LOCK_FILE;
use crate::{DirEntry, DirLock, Disk, DiskFile, Filesystem, OpenMode, StorageError};

/// What a call is, for faults and trace.
struct Call<'a> {
    operation: Operation,
    /// For the error.
    name: &'static str,
    path: &'a Arc<Path>,
    to: Option<&'a Path>,
    offset: u64,
    bytes: u64,
    /// Checksum of what is written; that of what is read is known later.
    contents: u32,
}

impl<'a> Call<'a> {
    fn new(operation: Operation, path: &'a Arc<Path>) -> Call<'a> {
        let name = operation.name();
        Call { operation, name, path, to: None, offset: 0, bytes: 0, contents: 0 }
    }

    fn at(self, offset: u64, bytes: u64) -> Call<'a> {
        Call { offset, bytes, ..self }
    }
}

impl SimDisk {
    /// Performs a call; `perform` is told what it meets.
    fn call<T>(
        &self,
        mut call: Call<'_>,
        perform: impl FnOnce(&mut State, Strike, &mut Call<'_>) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        let (name, path) = (call.name, Arc::clone(call.path));
        let failed = |source| StorageError::io(name, &path, source);
        let mut state = self.state();
        state.must_live(self.life).map_err(failed)?;
        let strike = state.faults.strike(call.operation, &path);
        let result = perform(&mut state, strike, &mut call);
        let outcome = match (&result, strike) {
            (Err(error), _) => Outcome::Failed(error.kind()),
            (Ok(_), Strike::Phantom) => Outcome::Phantom,
            (Ok(_), Strike::Misdirected) => Outcome::Misdirected,
            (Ok(_), _) => Outcome::Done,
        };
        let event = DiskEvent {
            number: 0,
            act: Act::Call(call.operation),
            path: Arc::clone(&path),
            to: call.to.map(Path::to_path_buf),
            offset: call.offset,
            bytes: call.bytes,
            outcome,
        };
        let event = state.trace.note(event, call.contents);
        drop(state);
        self.tell(&event);
        result.map_err(failed)
    }

    /// A call that is done or not. It may be done although the power went.
    fn all_or_nothing<T>(
        &self,
        call: Call<'_>,
        perform: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        self.call(call, |state, strike, _| {
            if let Strike::Error(failure) = strike {
                if failure == Failure::PowerCut && state.faults.seed.coin() {
                    // Nobody hears of it.
                    let _under_way = perform(state);
                }
                return Err(failure.error());
            }
            perform(state)
        })
    }

    /// A look that is neither counted nor noted: what it says follows from what is.
    fn look<T>(
        &self,
        name: &'static str,
        path: &Path,
        look: impl FnOnce(&State) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        let state = self.state();
        let looked = state.must_live(self.life).and_then(|()| look(&state));
        looked.map_err(|source| StorageError::io(name, path, source))
    }

    /// The end of a lock's value.
    fn unlock(&self, dir: u64, number: u64) {
        let mut state = self.state();
        if state.locks.get(&dir) == Some(&number) {
            state.locks.remove(&dir);
        }
    }
}

impl State {
    /// Refuses the calls of a program that is dead, and all while the power is off.
    fn must_live(&self, life: u64) -> io::Result<()> {
        if life + 1 < self.life {
            return Err(io::Error::other("the program that opened it has long ended"));
        }
        if life != self.life {
            return Err(io::Error::other(format!("{} since it was opened", self.ended_by)));
        }
        if self.faults.is_off() {
            return Err(power_is_off());
        }
        Ok(())
    }

    fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<FileNode> {
        match (self.names.find(path)?, mode) {
            (Some(Node::Dir(_)), _) => Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(_)), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(file)), _) => Ok(file),
            (None, OpenMode::Read | OpenMode::Write) => Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                let entry = self.names.entry(path)?;
                let number = self.names.take_number();
                let mut images = Images::new(number);
                images.linked = true;
                let file = Arc::new(Mutex::new(images));
                self.files.insert(number, Arc::downgrade(&file));
                self.names.link(entry, Node::File(FileNode::clone(&file)));
                Ok(file)
            }
        }
    }

    /// A name no longer leads to this.
    fn unlinked(&mut self, node: Node) {
        if let Node::File(file) = node {
            let mut images = lock(&file);
            if images.linked {
                images.linked = false;
                self.used -= images.len();
            }
            // Whoever has it open may go on, and a power cut may bring the name back; only misdirected writes forget it.
            self.files.remove(&images.number);
        }
    }

    /// Changes a file and keeps account of its size.
    fn change(&mut self, images: &mut Images, change: impl FnOnce(&mut Images)) {
        let before = images.len();
        change(images);
        if images.linked {
            self.used = self.used + images.len() - before;
        }
    }

    /// Bytes by which files may still grow.
    fn room(&self) -> u64 {
        self.bytes_max.map_or(u64::MAX, |bytes_max| bytes_max.saturating_sub(self.used))
    }

    /// Writes as much as there is room and as the strike allows.
    fn write(
        &mut self,
        file: &FileNode,
        bytes: &[u8],
        offset: u64,
        strike: Strike,
    ) -> io::Result<()> {
        let len = bytes.len() as u64;
        let place = match strike {
            Strike::Misdirected => self.elsewhere(file, offset, len),
            Strike::Phantom => Place::Nowhere,
            Strike::None | Strike::Error(_) => Place::Right,
        };
        let mut images = lock(file);
        let mut writable = len;
        let mut failure = None;
        if let Strike::Error(why) = strike {
            writable = self.faults.seed.below(len.max(1));
            failure = Some(why.error());
        } else {
            let growth = (offset + len).saturating_sub(images.len());
            let room = self.room();
            if growth > room {
                // Up to the end of the file is no growth; nothing of it fits if it begins behind that.
                writable = (images.len() + room).saturating_sub(offset);
                failure = Some(io::ErrorKind::StorageFull.into());
            }
        }
        let part = &bytes[..usize::try_from(writable).unwrap_or(usize::MAX).min(bytes.len())];
        self.change(&mut images, |images| images.write(part, offset, place));
        failure.map_or(Ok(()), Err)
    }

    /// Where a misdirected write lands: as far into a sector as it should, in this file or another.
    fn elsewhere(&mut self, file: &FileNode, offset: u64, len: u64) -> Place {
        let (own, own_bytes) = {
            let images = lock(file);
            (images.number, images.durable().len() as u64)
        };
        let others: Vec<(u64, u64)> = self
            .names
            .files(false)
            .into_iter()
            .filter(|(path, other)| {
                path.starts_with(&self.faults.plan.under) && !Arc::ptr_eq(other, file)
            })
            .map(|(_, other)| (number_of(&other), lock(&other).durable().len() as u64))
            .filter(|(_, bytes)| *bytes > 0)
            .collect();
        let seed = &mut self.faults.seed;
        let own_is_fit = own_bytes > 0 && !(own_bytes <= SECTOR && offset < SECTOR);
        let (victim, bytes) = match seed.pick(&others) {
            Some(other) if !own_is_fit || seed.coin() => *other,
            _ => (own, own_bytes),
        };
        let mut sector = seed.below(bytes.div_ceil(SECTOR).max(1));
        if victim == own && sector == offset / SECTOR {
            // Not where it belongs.
            sector = if sector > 0 { sector - 1 } else { len.div_ceil(SECTOR) };
        }
        Place::Elsewhere { file: victim, offset: sector * SECTOR + offset % SECTOR }
    }

    fn sync(&mut self, file: &FileNode, strike: Strike) -> io::Result<()> {
        let Strike::Error(failure) = strike else {
            let mut images = lock(file);
            let strays = images.sync();
            let untold = std::mem::take(&mut images.unreported);
            drop(images);
            self.land(strays);
            return if untold { Err(rustix::io::Errno::IO.into()) } else { Ok(()) };
        };
        // Of a sync that the power cut, everything stays pending: the cut decides.
        if failure != Failure::PowerCut {
            let seed = &mut self.faults.seed;
            let odds = Odds::draw(seed);
            let strays = lock(file).settle(seed, odds);
            self.land(strays);
        }
        Err(failure.error())
    }

    fn sync_filesystem(&mut self, strike: Strike) -> io::Result<()> {
        let dirty: Vec<FileNode> =
            self.names.files(false).into_values().filter(|file| lock(file).is_dirty()).collect();
        let Strike::Error(failure) = strike else {
            for file in &dirty {
                let strays = lock(file).sync();
                self.land(strays);
            }
            self.names.sync_all();
            return Ok(());
        };
        if failure != Failure::PowerCut {
            // Each file is written or damaged, and the names are not: one error for all of it.
            for file in &dirty {
                if self.faults.seed.coin() {
                    let strays = lock(file).sync();
                    self.land(strays);
                } else {
                    let odds = Odds::draw(&mut self.faults.seed);
                    let mut images = lock(file);
                    let strays = images.settle(&mut self.faults.seed, odds);
                    images.unreported = true;
                    drop(images);
                    self.land(strays);
                }
            }
        }
        Err(failure.error())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, StorageError> {
        let operation = match mode {
            OpenMode::Read | OpenMode::Write => Operation::Open,
            OpenMode::Create | OpenMode::CreateNew => Operation::Create,
        };
        let path = Arc::from(path);
        let file =
            self.all_or_nothing(Call::new(operation, &path), |state| state.open(&path, mode))?;
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { disk: self.clone(), path, file, writable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let path = Arc::from(from);
        let call = Call { to: Some(to), ..Call::new(Operation::Rename, &path) };
        self.all_or_nothing(call, |state| {
            if let Some(replaced) = state.names.rename(from, to)? {
                state.unlinked(replaced);
            }
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.all_or_nothing(Call::new(Operation::Remove, &Arc::from(path)), |state| {
            let entry = state.names.entry(path)?;
            let node = state.names.unlink_file(entry)?;
            state.unlinked(node);
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        let path: Arc<Path> = Arc::from(path);
        let call = Call { name: "remove directory", ..Call::new(Operation::Remove, &path) };
        self.all_or_nothing(call, |state| {
            let entry = state.names.entry(&path)?;
            state.names.unlink_dir(entry)
        })
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), StorageError> {
        let arc = Arc::from(path);
        let call = Call { name: "create directory", ..Call::new(Operation::Create, &arc) };
        let changed = self.all_or_nothing(call, |state| state.names.make_dirs(path))?;
        for parent in changed {
            self.sync_dir(&parent)?;
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError> {
        self.look("list", path, |state| {
            let dir = state.names.find_dir(path)?;
            let entries = state.names.live(dir).into_iter().flatten();
            Ok(entries
                .map(|(name, node)| {
                    let is_dir = matches!(node, Node::Dir(_));
                    DirEntry { name: name.clone(), is_dir }
                })
                .collect())
        })
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        let path: Arc<Path> = Arc::from(path);
        self.call(Call::new(Operation::SyncDir, &path), |state, strike, _| {
            let dir = state.names.find_dir(&path)?;
            if let Strike::Error(failure) = strike {
                return Err(failure.error());
            }
            state.names.sync(dir);
            Ok(())
        })
    }

    fn exists(&self, path: &Path) -> Result<bool, StorageError> {
        self.look("look for", path, |state| Ok(state.names.find(path)?.is_some()))
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, StorageError> {
        self.look("statvfs", path, |state| Ok(state.room()))
    }

    fn total_bytes(&self, path: &Path) -> Result<u64, StorageError> {
        self.look("statvfs", path, |state| Ok(state.bytes_max.unwrap_or(u64::MAX)))
    }

    fn filesystem(&self, dir: &Path) -> Result<Option<Arc<dyn Filesystem>>, StorageError> {
        Ok(Some(Arc::new(SimFilesystem { disk: self.clone(), dir: Arc::from(dir) })))
    }

    fn lock_dir(&self, dir: &Path) -> Result<DirLock, StorageError> {
        let path: Arc<Path> = Arc::from(dir.join(LOCK_FILE));
        let taken = self.all_or_nothing(Call::new(Operation::Lock, &path), |state| {
            let number = state.names.find_dir(dir)?;
            state.open(&path, OpenMode::Create)?;
            if state.locks.contains_key(&number) {
                return Ok(None);
            }
            state.locks_taken += 1;
            let lock = state.locks_taken;
            state.locks.insert(number, lock);
            Ok(Some((number, lock)))
        })?;
        match taken {
            Some((dir, number)) => {
                let held = SimLock { disk: self.clone(), dir, number };
                Ok(DirLock::simulated(&path, held))
            }
            None => Err(StorageError::Locked {
                path: dir.to_path_buf(),
                holder: "another user of this simulated disk".to_owned(),
            }),
        }
    }
}

/// All of a simulated disk.
#[derive(Debug)]
struct SimFilesystem {
    disk: SimDisk,
    dir: Arc<Path>,
}

impl Filesystem for SimFilesystem {
    fn sync(&self) -> Result<(), StorageError> {
        let call = Call::new(Operation::SyncFilesystem, &self.dir);
        self.disk.call(call, |state, strike, _| state.sync_filesystem(strike))
    }

    fn holds(&self, path: &Path) -> Result<bool, StorageError> {
        self.disk.exists(path)
    }
}

/// Unlocks when it goes, unless its life has ended before.
#[derive(Debug)]
pub(crate) struct SimLock {
    disk: SimDisk,
    dir: u64,
    number: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.unlock(self.dir, self.number);
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: Arc<Path>,
    file: FileNode,
    writable: bool,
}

impl SimFile {
    fn must_be_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(rustix::io::Errno::BADF.into()) }
    }
}

impl DiskFile for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.disk.look("stat", &self.path, |_| Ok(lock(&self.file).len()))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let call = Call::new(Operation::Read, &self.path).at(offset, buf.len() as u64);
        self.disk.call(call, |_, strike, call| {
            if let Strike::Error(failure) = strike {
                return Err(failure.error());
            }
            let n = lock(&self.file).read(buf, offset);
            call.bytes = n as u64;
            call.contents = crc32c::crc32c(&buf[..n]);
            Ok(n)
        })
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        let joined;
        let bytes: &[u8] = match slices {
            [one] => one,
            many => {
                joined = many.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>();
                &joined
            }
        };
        let call = Call::new(Operation::Write, &self.path).at(offset, bytes.len() as u64);
        let call = Call { contents: crc32c::crc32c(bytes), ..call };
        self.disk.call(call, |state, strike, _| {
            self.must_be_writable()?;
            state.write(&self.file, bytes, offset, strike)
        })
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        let call = Call::new(Operation::SetLen, &self.path).at(0, len);
        self.disk.all_or_nothing(call, |state| {
            self.must_be_writable()?;
            let mut images = lock(&self.file);
            if len.saturating_sub(images.len()) > state.room() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.change(&mut images, |images| images.set_len(len));
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> Result<(), StorageError> {
        // A file's holes take room here.
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        let call = Call::new(Operation::SyncData, &self.path);
        self.disk.call(call, |state, strike, _| state.sync(&self.file, strike))
    }

    fn drop_cached(&self) -> Result<(), StorageError> {
        self.disk.look("fadvise", &self.path, |_| {
            lock(&self.file).drop_cache();
            Ok(())
        })
    }
}
