//! Buffers for large reads, used again and again.
//!
//! Memory that is fresh from the system costs a page fault for each 4 KiB, and zeroing; for what a fetch reads that is as much
//! as the read itself. So large buffers go back to a shelf when the last holder of their bytes is done.
//! Invariants: the shelf holds `SHELF_BYTES_MAX` at most; nobody sees more of a buffer than was read into it.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::{DiskFile, StorageError};

/// Smaller ones are the allocator's, which keeps them at hand by itself.
const SHELVED_MIN: usize = 64 << 10;
/// Larger ones are rare and go back to the system.
const SHELVED_MAX: usize = 4 << 20;
/// What is kept for the next reads.
const SHELF_BYTES_MAX: usize = 8 << 20;

static SHELF: Mutex<Shelf> = Mutex::new(Shelf { buffers: Vec::new(), bytes: 0 });

/// Buffers that nobody uses.
struct Shelf {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Shelf {
    /// The smallest that is large enough.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let fitting = self.buffers.iter().enumerate().filter(|(_, buffer)| buffer.len() >= len);
        let (at, _) = fitting.min_by_key(|(_, buffer)| buffer.len())?;
        let buffer = self.buffers.swap_remove(at);
        self.bytes -= buffer.len();
        Some(buffer)
    }

    /// Gives back what finds no room.
    fn put(&mut self, buffer: Vec<u8>) -> Option<Vec<u8>> {
        let is_of_size = (SHELVED_MIN..=SHELVED_MAX).contains(&buffer.len());
        if !is_of_size || self.bytes + buffer.len() > SHELF_BYTES_MAX {
            return Some(buffer);
        }
        self.bytes += buffer.len();
        self.buffers.push(buffer);
        None
    }
}

/// What was read from a file.
#[derive(Debug)]
pub struct ReadBuffer {
    /// Initialised to its end, whoever used it before.
    buffer: Vec<u8>,
    len: usize,
}

impl ReadBuffer {
    /// Reads up to `len` bytes at `position`; fewer at the end of the file.
    pub fn read(file: &dyn DiskFile, position: u64, len: usize) -> Result<Self, StorageError> {
        let shelved = (len >= SHELVED_MIN).then(|| lock().take(len)).flatten();
        let size = if len >= SHELVED_MIN { len.next_power_of_two() } else { len };
        let buffer = shelved.unwrap_or_else(|| vec![0; size]);
        let mut read = Self { buffer, len };
        read.len = file.read_at(&mut read.buffer[..len], position)?;
        Ok(read)
    }

    /// Forgets all behind `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// To be shared; the buffer is used again once the last of these bytes is dropped.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl std::ops::Deref for ReadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.len() >= SHELVED_MIN {
            // What is given back is freed after the lock.
            let _too_much = lock().put(buffer);
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, Shelf> {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shelf_gives_the_smallest_that_fits_and_holds_no_more_than_it_may() {
        let mut shelf = Shelf { buffers: Vec::new(), bytes: 0 };
        assert!(shelf.take(1).is_none());
        for size in [1 << 20, 64 << 10, 4 << 20] {
            assert!(shelf.put(vec![0; size]).is_none(), "{size}");
        }
        for size in [0, 10, SHELVED_MIN - 1, SHELVED_MAX + 1, 4 << 20] {
            assert!(
                shelf.put(vec![0; size]).is_some(),
                "{size} is too small, too large, or too much"
            );
        }
        let sizes = [70_000, 70_000, 70_000, 1].map(|len| shelf.take(len).map(|it| it.len()));
        assert_eq!(sizes, [Some(1 << 20), Some(4 << 20), None, Some(64 << 10)]);
        assert_eq!(shelf.bytes, 0);
    }

    #[test]
    fn a_used_buffer_shows_nothing_of_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        let disk = crate::FsDisk;
        let file = |name: &str, byte: u8, len: usize| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![byte; len]).unwrap();
            crate::Disk::open(&disk, &path, crate::OpenMode::Read).unwrap()
        };
        let (long, short) = (file("long", 1, 200_000), file("short", 2, 100));
        drop(ReadBuffer::read(&*long, 0, 150_000).unwrap().into_bytes());
        let mut read = ReadBuffer::read(&*short, 90, 150_000).unwrap();
        assert_eq!(&*read, [2; 10]);
        read.truncate(4);
        assert_eq!(read.into_bytes(), [2; 4][..]);
    }
}
