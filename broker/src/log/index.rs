//! Offset index and time index of one segment, in Kafka's format: big-endian entries relative to the base offset.
//!
//! An index is a hint. Entries gather in memory and are written behind the log; every use of an entry is checked against the
//! batch it points to, and a recovery after a crash rebuilds the file from the log.
//! Invariants: both columns of an index rise; the entries of the file are older than those in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tailway_storage::{Disk, DiskFile, OpenMode, StorageError};

/// Kafka's `segment.index.bytes`: a full index ends its segment.
const INDEX_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Entries held in memory at most before they are written.
const PENDING_MAX: usize = 512;

/// The batch with last offset `base + relative_offset` begins at `position`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetEntry {
    pub relative_offset: u32,
    pub position: u32,
}

/// No record up to `base + relative_offset` is newer than `timestamp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeEntry {
    pub timestamp: i64,
    pub relative_offset: u32,
}

/// One fixed-size entry.
pub trait Entry: Copy {
    const BYTES: usize;
    const SUFFIX: &'static str;
    /// What lookups compare.
    type Key: PartialOrd + Copy;

    fn key(&self) -> Self::Key;
    fn encode(&self, out: &mut Vec<u8>);
    /// `bytes` has exactly `BYTES`.
    fn decode(bytes: &[u8]) -> Self;
}

impl Entry for OffsetEntry {
    const BYTES: usize = 8;
    const SUFFIX: &'static str = "index";
    type Key = u32;

    fn key(&self) -> u32 {
        self.relative_offset
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.relative_offset.to_be_bytes());
        out.extend(self.position.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        Self { relative_offset: u32_at(bytes, 0), position: u32_at(bytes, 4) }
    }
}

impl Entry for TimeEntry {
    const BYTES: usize = 12;
    const SUFFIX: &'static str = "timeindex";
    type Key = i64;

    fn key(&self) -> i64 {
        self.timestamp
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.timestamp.to_be_bytes());
        out.extend(self.relative_offset.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let timestamp =
            i64::from(u32_at(bytes, 0).cast_signed()) << 32 | i64::from(u32_at(bytes, 4));
        Self { timestamp, relative_offset: u32_at(bytes, 8) }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |raw| u32::from_be_bytes([raw[0], raw[1], raw[2], raw[3]]))
}

/// One index file and its entries that are not written yet.
#[derive(Debug)]
pub struct Index<E> {
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    on_disk: u32,
    pending: Vec<E>,
    last: Option<E>,
}

impl<E: Entry> Index<E> {
    /// An index without entries. What a file of that name holds is dropped when the first entries are written, or by
    /// `clear`.
    pub fn empty(path: PathBuf) -> Self {
        Self { path, file: None, on_disk: 0, pending: Vec::new(), last: None }
    }

    /// An empty index that writes to `file`, which will be renamed to `path`.
    pub fn in_file(path: PathBuf, file: Arc<dyn DiskFile>) -> Self {
        Self { file: Some(file), ..Self::empty(path) }
    }

    /// Reads how many entries the file has, and the last. `Err(reason)` inside if the file is missing or cannot be one.
    pub fn open(disk: &dyn Disk, path: PathBuf) -> Result<Result<Self, String>, StorageError> {
        let file = match disk.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(Err("it is missing".to_owned())),
            Err(error) => return Err(error),
        };
        let len = file.len()?;
        let entry = E::BYTES as u64;
        if len % entry != 0 || len > INDEX_BYTES_MAX {
            return Ok(Err(format!("its length is {len}")));
        }
        let on_disk = u32::try_from(len / entry).unwrap_or(u32::MAX);
        let mut index = Self { on_disk, ..Self::empty(path) };
        if on_disk > 0 {
            index.last = Some(read_entry(file.as_ref(), on_disk - 1)?);
        }
        Ok(Ok(index))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn last(&self) -> Option<E> {
        self.last
    }

    pub fn len(&self) -> usize {
        self.on_disk as usize + self.pending.len()
    }

    pub fn is_full(&self) -> bool {
        self.len() as u64 >= INDEX_BYTES_MAX / E::BYTES as u64
    }

    /// Adds an entry in memory.
    pub fn push(&mut self, entry: E) {
        self.pending.push(entry);
        self.last = Some(entry);
    }

    pub fn wants_write(&self) -> bool {
        self.pending.len() >= PENDING_MAX
    }

    /// The file handle, if one is held.
    pub fn file(&self) -> Option<Arc<dyn DiskFile>> {
        self.file.clone()
    }

    /// Writes the entries that are only in memory, making the file if there is none.
    pub fn write_pending(&mut self, disk: &dyn Disk) -> Result<(), StorageError> {
        if self.pending.is_empty() && self.file.is_some() {
            return Ok(());
        }
        let file = if let Some(file) = &self.file {
            Arc::clone(file)
        } else {
            let file = disk.open(&self.path, OpenMode::Create)?;
            let len = u64::from(self.on_disk) * E::BYTES as u64;
            if file.len()? != len {
                file.set_len(len)?;
            }
            self.file = Some(Arc::clone(&file));
            file
        };
        let mut bytes = Vec::with_capacity(self.pending.len() * E::BYTES);
        for entry in &self.pending {
            entry.encode(&mut bytes);
        }
        file.write_at(&bytes, u64::from(self.on_disk) * E::BYTES as u64)?;
        self.on_disk += u32::try_from(self.pending.len()).unwrap_or(u32::MAX);
        self.pending.clear();
        Ok(())
    }

    /// Lets the file handle go: a sealed segment keeps none.
    pub fn release(&mut self) {
        self.file = None;
        self.pending.shrink_to_fit();
    }

    /// What a lookup needs outside of any lock: the answer, or how much of the file to search.
    pub fn prepare(&self, key: E::Key) -> Lookup<E> {
        let after = self.pending.partition_point(|entry| entry.key() <= key);
        if after > 0 {
            return Lookup::Found(self.pending[after - 1]);
        }
        Lookup::Search { path: self.path.clone(), file: self.file.clone(), entries: self.on_disk }
    }
}

/// A lookup that may have to read the file.
#[derive(Debug)]
pub enum Lookup<E> {
    Found(E),
    Search { path: PathBuf, file: Option<Arc<dyn DiskFile>>, entries: u32 },
}

impl<E: Entry> Lookup<E> {
    /// The last entry whose key is at most `key`. A missing file has no entries: an index is a hint.
    pub fn finish(self, disk: &dyn Disk, key: E::Key) -> Result<Option<E>, StorageError> {
        let (path, file, entries) = match self {
            Self::Found(entry) => return Ok(Some(entry)),
            Self::Search { entries: 0, .. } => return Ok(None),
            Self::Search { path, file, entries } => (path, file, entries),
        };
        let file = match file {
            Some(file) => file,
            None => match disk.open(&path, OpenMode::Read) {
                Ok(file) => file,
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        search(file.as_ref(), entries, key)
    }
}

/// Halves the range by single entries until what is left is one read.
fn search<E: Entry>(
    file: &dyn DiskFile,
    entries: u32,
    key: E::Key,
) -> Result<Option<E>, StorageError> {
    const READ_AT_ONCE: u32 = 256;
    let (mut low, mut high) = (0, entries);
    while high - low > READ_AT_ONCE {
        let middle = low + (high - low) / 2;
        if read_entry::<E>(file, middle)?.key() <= key {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut bytes = vec![0; (high - low) as usize * E::BYTES];
    let len = file.read_at(&mut bytes, u64::from(low) * E::BYTES as u64)?;
    let found = bytes[..len].chunks_exact(E::BYTES).map(E::decode);
    Ok(found.take_while(|entry| entry.key() <= key).last())
}

fn read_entry<E: Entry>(file: &dyn DiskFile, number: u32) -> Result<E, StorageError> {
    let mut bytes = vec![0; E::BYTES];
    file.read_exact_at(&mut bytes, u64::from(number) * E::BYTES as u64)?;
    Ok(E::decode(&bytes))
}

#[cfg(test)]
mod tests {
    use tailway_storage::SimDisk;

    use super::*;

    #[test]
    fn entries_by_hand() {
        let mut bytes = Vec::new();
        OffsetEntry { relative_offset: 0x0102, position: 0x0304_0506 }.encode(&mut bytes);
        assert_eq!(bytes, [0, 0, 1, 2, 3, 4, 5, 6]);
        bytes.clear();
        let entry = TimeEntry { timestamp: 0x0102_0304_f506_0708, relative_offset: 9 };
        entry.encode(&mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 0xf5, 6, 7, 8, 0, 0, 0, 9]);
        assert_eq!(TimeEntry::decode(&bytes), entry);
        let negative = TimeEntry { timestamp: -2, relative_offset: 0 };
        bytes.clear();
        negative.encode(&mut bytes);
        assert_eq!(TimeEntry::decode(&bytes), negative);
    }

    #[test]
    fn lookups_agree_wherever_the_entries_are() {
        let disk = SimDisk::new();
        let path = PathBuf::from("00000000000000000000.index");
        let mut index = Index::<OffsetEntry>::empty(path.clone());
        for i in 1..=2_000 {
            index.push(OffsetEntry { relative_offset: i * 10, position: i * 100 });
            if i == 700 || i == 1_500 {
                index.write_pending(&disk).unwrap();
            }
        }
        let check = |index: &Index<OffsetEntry>| {
            for key in
                [0, 9, 10, 11, 5_000, 6_999, 7_000, 7_001, 15_004, 15_011, 19_999, 20_000, u32::MAX]
            {
                let expected = (key / 10).min(2_000);
                let found = index.prepare(key).finish(&disk, key).unwrap();
                let expected = (expected > 0).then_some(OffsetEntry {
                    relative_offset: expected * 10,
                    position: expected * 100,
                });
                assert_eq!(found, expected, "{key}");
            }
        };
        check(&index);
        index.write_pending(&disk).unwrap();
        index.release();
        check(&index);
        let opened = Index::<OffsetEntry>::open(&disk, path).unwrap().unwrap();
        assert_eq!(opened.last(), Some(OffsetEntry { relative_offset: 20_000, position: 200_000 }));
        check(&opened);
    }

    #[test]
    fn files_that_cannot_be_an_index_are_named() {
        let disk = SimDisk::new();
        let path = PathBuf::from("x.timeindex");
        let open = || Index::<TimeEntry>::open(&disk, path.clone()).unwrap();
        assert_eq!(open().unwrap_err(), "it is missing");
        disk.open(&path, OpenMode::Create).unwrap().write_at(&[1; 13], 0).unwrap();
        assert_eq!(open().unwrap_err(), "its length is 13");
        let mut index = Index::<TimeEntry>::empty(path.clone());
        index.push(TimeEntry { timestamp: 5, relative_offset: 1 });
        index.write_pending(&disk).unwrap();
        assert_eq!(open().unwrap().len(), 1, "what was there is gone");
    }

    #[test]
    fn an_index_is_full_at_kafkas_size() {
        let mut index = Index::<TimeEntry>::empty(PathBuf::from("x"));
        index.on_disk = 10 * 1024 * 1024 / 12 - 1;
        assert!(!index.is_full());
        index.push(TimeEntry { timestamp: 5, relative_offset: 1 });
        assert!(index.is_full());
    }
}
