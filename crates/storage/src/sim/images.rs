//! One file: what programs see (the page cache), what is on the platter, and the writes between the two.
//!
//! `live` is always `durable` with every pending change replayed, except where a write was lost on its way (a failed sync,
//! a phantom or misdirected write): there the cache still shows what the platter does not have, until `drop_cache`.
//! A power cut works on 512-byte sectors: of each, the platter gets one of the versions that it had in the cache since
//! the last sync, or none. A length grows and shrinks apart from the bytes, as i_size does: zeros where the bytes are
//! lost, or the bytes lost with the length. Invariant: nothing is ever read that was not written, but zeros.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::seed::Seed;

/// What a disk writes as a whole.
pub(super) const SECTOR: u64 = 512;

/// `Odds(n)`: n of 8.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odds(u64);

impl Odds {
    /// None, some or all.
    pub(super) fn draw(seed: &mut Seed) -> Odds {
        Odds(seed.below(9))
    }

    pub(super) fn survive(self, seed: &mut Seed) -> bool {
        seed.below(8) < self.0
    }
}

/// Names, handles and the registry share it.
pub(super) type FileNode = Arc<Mutex<Images>>;

/// Where the disk puts a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Right,
    /// A phantom write: said to be done.
    Nowhere,
    /// A misdirected write: over durable bytes of this file, at this offset.
    Elsewhere {
        file: u64,
        offset: u64,
    },
}

/// Bytes that land where they do not belong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stray {
    pub(super) file: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Pending {
    /// `at..at + len` of `Images::bytes`.
    Write {
        offset: u64,
        at: usize,
        len: usize,
        place: Place,
    },
    SetLen(u64),
}

#[derive(Debug, Clone)]
pub(super) struct Images {
    /// Never given twice on one disk.
    pub(super) number: u64,
    /// Whether a live name leads here: only then it counts as used space.
    pub(super) linked: bool,
    /// A failed syncfs lost something of it, which only a sync of this file still tells.
    pub(super) unreported: bool,
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, oldest first.
    pending: Vec<Pending>,
    /// What the pending writes wrote, one after another.
    bytes: Vec<u8>,
}

impl Images {
    pub(super) fn new(number: u64) -> Images {
        let (live, durable, pending, bytes) = Default::default();
        Images { number, linked: false, unreported: false, live, durable, pending, bytes }
    }

    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    pub(super) fn len(&self) -> u64 {
        self.live.len() as u64
    }

    /// Whether something waits to be written.
    pub(super) fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let start = index(offset).min(self.live.len());
        let n = buf.len().min(self.live.len() - start);
        buf[..n].copy_from_slice(&self.live[start..start + n]);
        n
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, place: Place) {
        if bytes.is_empty() {
            return;
        }
        put(&mut self.live, bytes, offset);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.pending.push(Pending::Write { offset, at, len: bytes.len(), place });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.live.resize(index(len), 0);
        self.pending.push(Pending::SetLen(len));
    }

    /// Makes everything pending durable, but for what goes astray.
    pub(super) fn sync(&mut self) -> Vec<Stray> {
        let mut strays = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            match change {
                Pending::SetLen(len) => self.durable.resize(index(len), 0),
                Pending::Write { offset, at, len, place } => {
                    let bytes = &self.bytes[at..at + len];
                    if place == Place::Right {
                        put(&mut self.durable, bytes, offset);
                        continue;
                    }
                    // The length is the file system's to write, and is right.
                    let end = index(offset) + len;
                    self.durable.resize(self.durable.len().max(end), 0);
                    strays.extend(stray(place, bytes));
                }
            }
        }
        self.bytes.clear();
        strays
    }

    /// Makes durable what the seed lets through, and forgets the rest. The cache stays as it is.
    pub(super) fn settle(&mut self, seed: &mut Seed, odds: Odds) -> Vec<Stray> {
        let pending = std::mem::take(&mut self.pending);
        let bytes = std::mem::take(&mut self.bytes);
        let (lengths, touched) = self.history(&pending);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        self.durable.resize(index(longest), 0);
        for (sector, changes) in touched {
            // The newest version that got through wins: the disk may take them in any order, but the cache only ever
            // gave it whole sectors, each with all the changes before.
            let newest = (0..changes.len()).rev().find(|_| odds.survive(seed));
            let Some(newest) = newest else { continue };
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(longest);
            let window = &mut self.durable[index(range.start)..index(range.end)];
            for change in &changes[..=newest] {
                replay(&pending[*change], &bytes, window, range.start, Seen::ByThePlatter);
            }
        }
        let mut strays = Vec::new();
        for change in &pending {
            if let Pending::Write { at, len, place, .. } = change
                && odds.survive(seed)
            {
                strays.extend(stray(*place, &bytes[*at..*at + *len]));
            }
        }
        let len = match seed.below(4) {
            0 => lengths.first().copied(),
            1 => lengths.last().copied(),
            2 => seed.pick(&lengths).copied(),
            _ => {
                let shortest = lengths.iter().copied().min().unwrap_or(0);
                Some(shortest + seed.below(longest - shortest + 1))
            }
        };
        self.durable.truncate(index(len.unwrap_or(longest)));
        strays
    }

    /// The lengths that the file had since the last sync, and which pending changes touch which sector.
    fn history(&self, pending: &[Pending]) -> (Vec<u64>, BTreeMap<u64, Vec<usize>>) {
        let mut len = self.durable.len() as u64;
        let mut lengths = vec![len];
        let mut touched: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (n, change) in pending.iter().enumerate() {
            let (from, until) = match change {
                Pending::Write { offset, len: bytes, .. } => {
                    let end = offset + *bytes as u64;
                    len = len.max(end);
                    (*offset, end)
                }
                Pending::SetLen(to) => {
                    let from = std::mem::replace(&mut len, *to);
                    // Growth changes no bytes; a cut takes away those behind it.
                    (*to, from.max(*to))
                }
            };
            lengths.push(len);
            if from < until {
                for sector in from / SECTOR..=(until - 1) / SECTOR {
                    touched.entry(sector).or_default().push(n);
                }
            }
        }
        (lengths, touched)
    }

    /// Reads everything that is not waiting to be written from the platter again. The length is the kernel's and stays.
    pub(super) fn drop_cache(&mut self) {
        self.reload(0..self.len());
    }

    /// After a power cut there is nothing but the platter.
    pub(super) fn forget_cache(&mut self) {
        self.pending.clear();
        self.bytes.clear();
        self.unreported = false;
        self.live.clone_from(&self.durable);
    }

    /// Overwrites durable bytes from outside, as far as there are any.
    pub(super) fn overwrite_durable(&mut self, bytes: &[u8], offset: u64) {
        let start = index(offset).min(self.durable.len());
        let n = bytes.len().min(self.durable.len() - start);
        self.durable[start..start + n].copy_from_slice(&bytes[..n]);
        self.reload(offset..offset + n as u64);
    }

    /// Flips one durable bit and says where.
    pub(super) fn rot(&mut self, seed: &mut Seed) -> Option<u64> {
        let len = self.durable.len() as u64;
        if len == 0 {
            return None;
        }
        let at = seed.below(len);
        let rotten = self.durable[index(at)] ^ (1 << seed.below(8));
        self.overwrite_durable(&[rotten], at);
        Some(at)
    }

    /// Fills a range of the cache from the platter and the pending changes.
    fn reload(&mut self, range: Range<u64>) {
        let end = index(range.end).min(self.live.len());
        let start = index(range.start).min(end);
        let window = &mut self.live[start..end];
        let durable = &self.durable[start.min(self.durable.len())..end.min(self.durable.len())];
        window[..durable.len()].copy_from_slice(durable);
        window[durable.len()..].fill(0);
        for change in &self.pending {
            replay(change, &self.bytes, window, start as u64, Seen::ByPrograms);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    ByPrograms,
    ByThePlatter,
}

/// Does to the bytes of a window, which starts at `start` of its file, what a pending change does to them.
fn replay(change: &Pending, bytes: &[u8], window: &mut [u8], start: u64, seen: Seen) {
    let end = start + window.len() as u64;
    match change {
        Pending::SetLen(len) if *len < end => window[index(len.saturating_sub(start))..].fill(0),
        Pending::SetLen(_) => {}
        Pending::Write { offset, at, len, place } => {
            let (from, until) = ((*offset).max(start), (offset + *len as u64).min(end));
            if from < until && (seen == Seen::ByPrograms || *place == Place::Right) {
                let first = at + index(from - offset);
                let part = &bytes[first..first + index(until - from)];
                window[index(from - start)..index(until - start)].copy_from_slice(part);
            }
        }
    }
}

fn stray(place: Place, bytes: &[u8]) -> Option<Stray> {
    match place {
        Place::Elsewhere { file, offset } => Some(Stray { file, offset, bytes: bytes.to_vec() }),
        Place::Right | Place::Nowhere => None,
    }
}

fn put(image: &mut Vec<u8>, bytes: &[u8], offset: u64) {
    let (start, end) = (index(offset), index(offset) + bytes.len());
    if end > image.len() {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(bytes);
}

/// Offsets of files that fit in memory fit in `usize`.
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
