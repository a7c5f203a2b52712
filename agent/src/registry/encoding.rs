//! Records as bytes. Files are many, so they have a form that is read fast; the rest is JSON, as all
//! of it was before version 3 of the journal.
//!
//! A record that begins with `{` is JSON, one that begins with 1 is a file: its fields in order,
//! integers little-endian, texts and lists after their length. Fields are only ever added behind the
//! last one. What is read is checked: bytes that end too early are an error, never a guess.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use tailway_metadata::time::WallMs;

use crate::machine::identity::{FileId, Generation, Head, Ladder, Marker, RUNGS_MAX, Rung};
use crate::machine::ledger::{FileEntry, Record, Target};

const FILE: u8 = 1;
const JSON: u8 = b'{';

const HAS_BIRTH: u8 = 1;
const HAS_TARGET: u8 = 2;
/// The path is where it was first found.
const AT_ORIGIN: u8 = 4;
const REBOOTED: u8 = 8;

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it is of kind {0}, which this version does not know")]
    Kind(u8),
    #[error("it ends in the middle of a file's {0}")]
    Short(&'static str),
    #[error("the {0} of a file is no text")]
    NoText(&'static str),
}

pub(super) fn encode(record: &Record) -> Result<Vec<u8>, serde_json::Error> {
    match record {
        Record::File(entry) => Ok(encode_file(entry)),
        other => serde_json::to_vec(other),
    }
}

/// What many files have alike, by its bytes: it is decoded and kept once.
#[derive(Debug, Default)]
pub(super) struct Shared {
    inputs: HashMap<Box<[u8]>, Arc<str>>,
    targets: HashMap<Box<[u8]>, Arc<Target>>,
}

/// A record of the journal, for whoever looks on.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    decode_into(bytes, &mut Shared::default())
}

pub(super) fn decode_into(bytes: &[u8], shared: &mut Shared) -> Result<Record, DecodeError> {
    match bytes.first() {
        Some(&FILE) => Ok(Record::File(Box::new(decode_file(Fields(&bytes[1..]), shared)?))),
        Some(&JSON) => Ok(serde_json::from_slice(bytes)?),
        kind => Err(DecodeError::Kind(kind.copied().unwrap_or_default())),
    }
}

fn encode_file(entry: &FileEntry) -> Vec<u8> {
    let FileEntry { id, marker, head, target, .. } = entry;
    let at_origin = entry.path == entry.origin;
    let flag = |flag: u8, is: bool| if is { flag } else { 0 };
    let flags = flag(HAS_BIRTH, id.birth_ns.is_some())
        | flag(HAS_TARGET, target.is_some())
        | flag(AT_ORIGIN, at_origin)
        | flag(REBOOTED, entry.rebooted);
    let mut out = Vec::with_capacity(192 + entry.path.as_os_str().len());
    out.extend([FILE, flags]);
    out.extend(entry.generation.0.to_le_bytes());
    for number in [entry.ordinal, id.dev, id.ino, entry.offset, marker.hash, head.hash] {
        out.extend(number.to_le_bytes());
    }
    out.extend(marker.len.to_le_bytes());
    out.extend(head.len.to_le_bytes());
    out.extend(entry.seen.0.to_le_bytes());
    out.extend(id.birth_ns.map(i64::to_le_bytes).into_iter().flatten());
    put_text(&mut out, entry.path.as_os_str().as_bytes());
    if !at_origin {
        put_text(&mut out, entry.origin.as_os_str().as_bytes());
    }
    put_text(&mut out, entry.input.as_bytes());
    if let Some(target) = target {
        for text in [&target.cluster, &target.topic, &target.topic_id] {
            put_text(&mut out, text.as_bytes());
        }
        out.extend(target.partition.to_le_bytes());
    }
    let rungs = entry.ladder.rungs();
    out.push(u8::try_from(rungs.len().min(RUNGS_MAX)).unwrap_or_default());
    for Rung { offset, marker } in rungs.iter().take(RUNGS_MAX) {
        out.extend(offset.to_le_bytes());
        out.extend(marker.len.to_le_bytes());
        out.extend(marker.hash.to_le_bytes());
    }
    out
}

/// Nothing of a file is as long as a record may be.
fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(text);
}

fn decode_file(mut fields: Fields<'_>, shared: &mut Shared) -> Result<FileEntry, DecodeError> {
    let [flags] = fields.array("flags")?;
    let generation = Generation(u128::from_le_bytes(fields.array("generation")?));
    let ordinal = fields.u64("ordinal")?;
    let (dev, ino) = (fields.u64("device")?, fields.u64("inode")?);
    let offset = fields.u64("offset")?;
    let (marker_hash, head_hash) = (fields.u64("marker")?, fields.u64("head")?);
    let marker = Marker { len: fields.u32("marker")?, hash: marker_hash };
    let head = Head { len: fields.u32("head")?, hash: head_hash };
    let seen = WallMs(fields.i64("time")?);
    let birth_ns = if flags & HAS_BIRTH == 0 { None } else { Some(fields.i64("birth")?) };
    let path = path_of(fields.text("path")?);
    let origin =
        if flags & AT_ORIGIN == 0 { path_of(fields.text("origin")?) } else { Arc::clone(&path) };
    let input = shared.input(&mut fields)?;
    let target = if flags & HAS_TARGET == 0 { None } else { Some(shared.target(&mut fields)?) };
    let [rungs] = fields.array("ladder")?;
    let mut ladder = Ladder::with_capacity(usize::from(rungs));
    for _ in 0..rungs {
        let offset = fields.u64("ladder")?;
        let marker = Marker { len: fields.u32("ladder")?, hash: fields.u64("ladder")? };
        ladder.push(Rung { offset, marker });
    }
    Ok(FileEntry {
        generation,
        ordinal,
        id: FileId { dev, ino, birth_ns },
        path,
        origin,
        input,
        offset,
        marker,
        head,
        target,
        seen,
        ladder,
        rebooted: flags & REBOOTED != 0,
    })
}

fn path_of(bytes: &[u8]) -> Arc<Path> {
    Path::new(OsStr::from_bytes(bytes)).into()
}

impl Shared {
    fn input(&mut self, fields: &mut Fields<'_>) -> Result<Arc<str>, DecodeError> {
        let bytes = fields.clone().text("input")?;
        if let Some(known) = self.inputs.get(bytes) {
            fields.text("input")?;
            return Ok(Arc::clone(known));
        }
        let input: Arc<str> = fields.string("input")?.into();
        self.inputs.insert(bytes.into(), Arc::clone(&input));
        Ok(input)
    }

    fn target(&mut self, fields: &mut Fields<'_>) -> Result<Arc<Target>, DecodeError> {
        let mut after = fields.clone();
        for what in ["cluster", "topic", "topic id"] {
            after.text(what)?;
        }
        after.i32("partition")?;
        let bytes = &fields.0[..fields.0.len() - after.0.len()];
        if let Some(known) = self.targets.get(bytes) {
            *fields = after;
            return Ok(Arc::clone(known));
        }
        let (cluster, topic) = (fields.string("cluster")?, fields.string("topic")?);
        let (topic_id, partition) = (fields.string("topic id")?, fields.i32("partition")?);
        let target = Arc::new(Target { cluster, topic, topic_id, partition });
        self.targets.insert(bytes.into(), Arc::clone(&target));
        Ok(target)
    }
}

/// What is left to read.
#[derive(Clone)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(DecodeError::Short(what))?;
        self.0 = rest;
        Ok(*array)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, DecodeError> {
        Ok(i32::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.u32(what)?).unwrap_or(usize::MAX);
        let (text, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Short(what))?;
        self.0 = rest;
        Ok(text)
    }

    fn string(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let text = std::str::from_utf8(self.text(what)?);
        text.map(str::to_owned).map_err(|_| DecodeError::NoText(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> FileEntry {
        let marker = |text: &[u8]| Marker::of(text);
        let rung = |offset: u64| Rung { offset, marker: marker(&offset.to_le_bytes()) };
        FileEntry {
            generation: Generation(7 << 100),
            ordinal: 3,
            id: FileId { dev: 1, ino: 2, birth_ns: Some(-5) },
            path: Path::new("/var/log/a.log.1").into(),
            origin: Path::new("/var/log/a.log").into(),
            input: "i".into(),
            offset: 1 << 40,
            marker: marker(b"before"),
            head: Head::of(b"head"),
            target: Some(Arc::new(Target {
                cluster: "c".into(),
                topic: "logs".into(),
                topic_id: "t".into(),
                partition: 5,
            })),
            seen: WallMs(-9),
            ladder: Ladder::of([rung(10), rung(20)]),
            rebooted: true,
        }
    }

    #[test]
    fn files_come_back_as_they_were() {
        let plain = FileEntry {
            id: FileId { birth_ns: None, ..entry().id },
            path: path_of(b"/tmp/\xff"),
            origin: path_of(b"/tmp/\xff"),
            target: None,
            ladder: Ladder::default(),
            rebooted: false,
            ..entry()
        };
        for entry in [entry(), plain] {
            let record = Record::File(Box::new(entry));
            assert_eq!(decode(&encode(&record).unwrap()).unwrap(), record);
        }
    }

    #[test]
    fn what_files_have_alike_is_kept_once() {
        let mut shared = Shared::default();
        let mut decoded = |entry: FileEntry| {
            let bytes = encode(&Record::File(Box::new(entry))).unwrap();
            let Record::File(entry) = decode_into(&bytes, &mut shared).unwrap() else { panic!() };
            (entry.input.clone(), entry.target.clone().unwrap(), entry)
        };
        let (first, second) = (decoded(entry()), decoded(entry()));
        assert!(Arc::ptr_eq(&first.0, &second.0) && Arc::ptr_eq(&first.1, &second.1));
        let other = Target { partition: 6, ..Target::clone(&first.1) };
        let target = Some(Arc::new(other.clone()));
        let third = decoded(FileEntry { input: "j".into(), target, ..entry() });
        assert_eq!((&*third.0, &*third.1), ("j", &other));
    }

    #[test]
    fn what_is_cut_anywhere_or_of_no_kind_is_refused() {
        let bytes = encode(&Record::File(Box::new(entry()))).unwrap();
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(matches!(decode(&[9, 1, 2]), Err(DecodeError::Kind(9))));
        let mut longer = bytes;
        longer.extend(b"of a later version");
        assert_eq!(decode(&longer).unwrap(), Record::File(Box::new(entry())));
    }
}
