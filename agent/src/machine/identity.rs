//! Which file is this? An inode and its birth, and what its bytes were.
//!
//! Inode numbers are used again and paths are renamed, so neither says that a file is the one of
//! which a position was saved. A position is taken up only if device, inode and birth time are the
//! same *and* the file still starts with the bytes it started with *and* the bytes just before the
//! position are those that were read there. Each decision comes with its reason in words.

use std::fmt;
use std::io;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::tail_file::Look;

/// Bytes at the start of a file that tell it from others.
pub const HEAD_BYTES: usize = 1024;
/// Bytes before a position that tell whether the file was rewritten.
pub const MARKER_BYTES: usize = 64;

/// One generation of a file's bytes: an inode from its birth or from a truncation on. No host has
/// the same one twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u128);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Generation {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// What the kernel calls the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    pub dev: u64,
    pub ino: u64,
    /// Birth time in nanoseconds since 1970; not every filesystem has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birth_ns: Option<i64>,
}

/// What `statx` says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub id: FileId,
    pub size: u64,
    pub links: u64,
    /// Last write, in nanoseconds since 1970.
    pub written_ns: i64,
    pub kind: Kind,
}

impl Stat {
    /// What the file's machine wants to know.
    pub fn look(&self) -> Look {
        Look { size: self.size, links: self.links, written_ns: self.written_ns }
    }
}

/// The kinds of file that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Regular,
    Directory,
    /// A device, pipe or socket: never opened.
    Other,
}

/// A hash of the first bytes of a file, which grows with it up to `HEAD_BYTES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub len: u32,
    pub hash: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self { len: 0, hash: FNV_OFFSET }
    }
}

impl Head {
    /// The head of a file that starts with `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut head = Self::default();
        head.extend(0, bytes);
        head
    }

    /// Takes in `bytes`, which stand at `offset`; true if the head grew.
    pub fn extend(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let known = u64::from(self.len);
        let Some(skip) = known.checked_sub(offset).and_then(|skip| usize::try_from(skip).ok())
        else {
            return false;
        };
        let room = HEAD_BYTES - self.len as usize;
        let news = bytes.get(skip..).unwrap_or_default();
        let news = &news[..news.len().min(room)];
        self.hash = fnv(self.hash, news);
        self.len += u32::try_from(news.len()).unwrap_or_default();
        !news.is_empty()
    }
}

/// A hash of the bytes just before an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub len: u32,
    pub hash: u64,
}

impl Default for Marker {
    fn default() -> Self {
        Self { len: 0, hash: FNV_OFFSET }
    }
}

impl Marker {
    /// The marker at the end of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let bytes = &bytes[bytes.len().saturating_sub(MARKER_BYTES)..];
        Self { len: u32::try_from(bytes.len()).unwrap_or_default(), hash: fnv(FNV_OFFSET, bytes) }
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: each step is a bijection, so bytes that differ in one place never collide.
fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// A hash of anything that has bytes, for configurations.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    fnv(FNV_OFFSET, bytes)
}

/// A position that was read up to, and the marker there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    pub offset: u64,
    pub marker: Marker,
}

/// Most rungs of a ladder.
pub const RUNGS_MAX: usize = 6;

/// Positions that a file was acknowledged up to, ascending: dense at its end, rarer before it. When a
/// host loses its power a file may come back with less in it than was read, and these tell how much
/// of that is there still.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ladder(Vec<Rung>);

impl Ladder {
    /// An empty one, to become one of so many rungs.
    pub fn with_capacity(rungs: usize) -> Self {
        Self(Vec::with_capacity(rungs.min(RUNGS_MAX)))
    }

    /// Of rungs that were saved; what is not ascending is left out.
    pub fn of(rungs: impl IntoIterator<Item = Rung>) -> Self {
        let mut ladder = Self::default();
        rungs.into_iter().for_each(|rung| ladder.push(rung));
        ladder
    }

    pub fn rungs(&self) -> &[Rung] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the position that is acknowledged now. Of too many rungs the one goes that stands
    /// closest between its neighbours for its distance from the end.
    pub fn push(&mut self, rung: Rung) {
        if rung.marker.len == 0 || self.0.last().is_some_and(|last| last.offset >= rung.offset) {
            return;
        }
        self.0.push(rung);
        if self.0.len() <= RUNGS_MAX {
            return;
        }
        // Small integers: of the gap that the rung would leave, how much is it of the distance?
        let share = |at: usize| {
            let gap = self.0[at + 1].offset - self.0[at - 1].offset;
            let distance = rung.offset - self.0[at].offset;
            (u128::from(gap) << 32) / u128::from(distance.max(1))
        };
        let closest = (1..self.0.len() - 1).min_by_key(|at| share(*at));
        if let Some(at) = closest {
            self.0.remove(at);
        }
    }

    /// The highest rung that the file still reaches with the bytes that were there, and the next
    /// above it, which it does not. `read` reads exactly that much of the file, or up to its end.
    pub fn verify(
        &self,
        size: u64,
        mut read: impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
    ) -> io::Result<Option<Rung>> {
        for rung in self.0.iter().rev().filter(|rung| rung.offset <= size) {
            let at = rung.offset.saturating_sub(u64::from(rung.marker.len));
            if Marker::of(&read(at, rung.marker.len as usize)?) == rung.marker {
                return Ok(Some(*rung));
            }
        }
        Ok(None)
    }

    /// Without what is above the offset.
    #[must_use]
    pub fn below(&self, offset: u64) -> Self {
        Self(self.0.iter().copied().filter(|rung| rung.offset <= offset).collect())
    }
}

/// A position as it was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    pub id: FileId,
    pub offset: u64,
    pub head: Head,
    pub marker: Marker,
}

/// Whether a saved position is that of the file at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// Another file has the inode's number now.
    OtherBirth,
    /// The same inode, with less in it than was read.
    Shorter {
        size: u64,
    },
    /// The same inode starts with other bytes.
    OtherHead,
    /// The same inode has other bytes before the position.
    OtherMarker,
}

impl Verdict {
    /// The reason in words, for the one line that says what was decided.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Same => "inode, birth, first bytes and the bytes before the position match",
            Self::OtherBirth => "the inode number belongs to another file now",
            Self::Shorter { .. } => "the file is shorter than what was read of it",
            Self::OtherHead => "the file starts with other bytes",
            Self::OtherMarker => "other bytes stand before the position",
        }
    }
}

/// Compares the saved position with the file at hand; `read` reads exactly that much of it.
pub fn judge(
    saved: &Saved,
    stat: &Stat,
    mut read: impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
) -> io::Result<Verdict> {
    if saved.id != stat.id {
        return Ok(Verdict::OtherBirth);
    }
    if stat.size < saved.offset || stat.size < u64::from(saved.head.len) {
        return Ok(Verdict::Shorter { size: stat.size });
    }
    if saved.head.len > 0 && Head::of(&read(0, saved.head.len as usize)?) != saved.head {
        return Ok(Verdict::OtherHead);
    }
    let marker_at = saved.offset.saturating_sub(u64::from(saved.marker.len));
    if saved.marker.len > 0
        && Marker::of(&read(marker_at, saved.marker.len as usize)?) != saved.marker
    {
        return Ok(Verdict::OtherMarker);
    }
    Ok(Verdict::Same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(birth: i64) -> FileId {
        FileId { dev: 1, ino: 2, birth_ns: Some(birth) }
    }

    fn saved(file: &[u8], offset: usize) -> Saved {
        Saved {
            id: id(7),
            offset: offset as u64,
            head: Head::of(file),
            marker: Marker::of(&file[..offset]),
        }
    }

    fn verdict(saved: &Saved, birth: i64, file: &[u8]) -> Verdict {
        let size = file.len() as u64;
        let stat = Stat { id: id(birth), size, links: 1, written_ns: 0, kind: Kind::Regular };
        judge(saved, &stat, |offset, len| {
            let offset = usize::try_from(offset).unwrap();
            Ok(file[offset..(offset + len).min(file.len())].to_vec())
        })
        .unwrap()
    }

    #[test]
    fn a_position_is_taken_up_only_in_the_same_bytes() {
        let file = b"head of the file\nsecond line\n";
        let saved = saved(file, 17);
        let mut grown = file.to_vec();
        grown.extend(b"third\n");
        let mut other_head = grown.clone();
        other_head[0] = b'H';
        for (what, birth, bytes, expected) in [
            ("unchanged", 7, &file[..], Verdict::Same),
            ("grown", 7, &grown, Verdict::Same),
            ("another birth", 8, &grown, Verdict::OtherBirth),
            ("shorter than the position", 7, &file[..5], Verdict::Shorter { size: 5 }),
            ("other head", 7, &other_head, Verdict::OtherHead),
        ] {
            assert_eq!(verdict(&saved, birth, bytes), expected, "{what}");
        }
    }

    #[test]
    fn a_refilled_file_with_the_same_head_is_seen_by_its_marker() {
        let mut file = vec![b'#'; HEAD_BYTES];
        file.extend(b"\nold line\n");
        let saved = saved(&file, file.len());
        let mut refilled = vec![b'#'; HEAD_BYTES];
        refilled.extend(b"\nnew line\nand more\n");
        assert_eq!(verdict(&saved, 7, &refilled), Verdict::OtherMarker);
    }

    #[test]
    fn a_ladder_is_dense_at_its_end_and_reaches_far_back() {
        let of = |offset: u64| Rung { offset, marker: Marker::of(&offset.to_be_bytes()) };
        let offsets = |ladder: &Ladder| ladder.0.iter().map(|r| r.offset).collect::<Vec<_>>();
        let ladder = Ladder::of((1..=1_000).map(|n| of(n * 100)));
        assert_eq!(offsets(&ladder).len(), RUNGS_MAX);
        assert_eq!((ladder.0[0].offset, ladder.0[RUNGS_MAX - 1].offset), (100, 100_000));
        assert!(ladder.0[RUNGS_MAX - 2].offset >= 99_000, "{:?}", offsets(&ladder));
        let middle = ladder.0[RUNGS_MAX / 2].offset;
        assert!((1_000..99_900).contains(&middle), "{:?}", offsets(&ladder));
        // Nothing that is not further on.
        assert_eq!(Ladder::of([of(5), of(5), of(3), of(9)]), Ladder(vec![of(5), of(9)]));
        assert_eq!(ladder.below(50_000).0.last(), ladder.0.iter().rfind(|r| r.offset <= 50_000));
    }

    #[test]
    fn the_highest_rung_is_found_that_is_there_still() {
        let file: Vec<u8> = (0..2_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let at =
            |offset: usize| Rung { offset: offset as u64, marker: Marker::of(&file[..offset]) };
        let ladder = Ladder::of([at(500), at(1_000), at(1_900)]);
        let mut torn = file.clone();
        torn[950..].fill(0);
        for (what, bytes, expected) in [
            ("whole", &file[..], Some(at(1_900))),
            ("shorter", &file[..1_899], Some(at(1_000))),
            ("NUL bytes at its end", &torn[..], Some(at(500))),
            ("shorter than all", &file[..499], None),
        ] {
            let found = ladder.verify(bytes.len() as u64, |offset, len| {
                let offset = usize::try_from(offset).unwrap();
                Ok(bytes[offset..(offset + len).min(bytes.len())].to_vec())
            });
            assert_eq!(found.unwrap(), expected, "{what}");
        }
    }

    #[test]
    fn the_head_grows_with_what_is_read() {
        let file: Vec<u8> = (0..3_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut head = Head::default();
        assert!(head.extend(0, &file[..10]));
        assert!(!head.extend(500, &file[500..600]), "a gap must not be jumped");
        assert!(head.extend(5, &file[5..900]));
        assert!(head.extend(900, &file[900..2_000]));
        assert!(!head.extend(2_000, &file[2_000..]));
        assert_eq!(head, Head::of(&file));
    }
}
