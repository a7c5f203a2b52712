//! Torn or damaged: by hand, sector by sector.

use std::path::Path;
use std::sync::Arc;

use tailway_storage::{Disk, OpenMode, SimDisk};
use tailway_wire::record::{BatchBuilder, Compression, patch_base_offset};

use super::Damage::{Corrupt, Torn};
use super::*;

/// A batch of one record at `offset`, `len` bytes in all.
fn batch(offset: i64, len: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None);
    let mut value = vec![b'v'; len.saturating_sub(80)];
    loop {
        builder.append(1, None, Some(&value), &[]).unwrap();
        let mut bytes = builder.finish().unwrap().to_vec();
        if bytes.len() == len {
            patch_base_offset(&mut bytes, offset).unwrap();
            return bytes;
        }
        assert!(bytes.len() < len, "{len} cannot be had");
        value.push(b'v');
    }
}

fn file(bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = SimDisk::new().open(Path::new("/log"), OpenMode::Create).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

/// Offsets found, and where and why the walk ended.
fn walk(bytes: &[u8], due: Due) -> (Vec<i64>, Option<u64>) {
    let file = file(bytes);
    let mut scanner = Scanner::new(file.as_ref(), 0, bytes.len() as u64, due);
    let mut offsets = Vec::new();
    loop {
        match scanner.step(true).unwrap() {
            Step::Batch { header, .. } => offsets.push(header.base_offset),
            Step::End => return (offsets, None),
            Step::Bad { position, .. } => return (offsets, Some(position)),
        }
    }
}

#[test]
fn batches_larger_and_smaller_than_the_window_are_walked() {
    let sizes = [100, 300_000, 62 + 10, 600_000, 5_000];
    let bytes: Vec<u8> = (0..).zip(sizes).flat_map(|(offset, len)| batch(offset, len)).collect();
    assert_eq!(walk(&bytes, Due::following(0, 100)), (vec![0, 1, 2, 3, 4], None));
    let mut bad = bytes.clone();
    let last_of_fourth = bytes.len() - 5_001;
    bad[last_of_fourth] ^= 1;
    let fourth = (100 + 300_000 + 72) as u64;
    assert_eq!(walk(&bad, Due::following(0, 100)), (vec![0, 1, 2], Some(fourth)));
}

#[test]
fn offsets_must_be_where_they_are_due() {
    let row = |offsets: &[i64]| -> Vec<u8> {
        offsets.iter().flat_map(|offset| batch(*offset, 100)).collect()
    };
    let table = [
        (row(&[5, 6, 7]), Due::following(5, 8), vec![5, 6, 7], None),
        (row(&[5, 6, 7]), Due::following(4, 8), vec![], Some(0)),
        (row(&[5, 7]), Due::following(5, 8), vec![5], Some(100)),
        (row(&[5, 7]), Due::rising(0, 8), vec![5, 7], None),
        (row(&[5, 4]), Due::rising(0, 8), vec![5], Some(100)),
        (row(&[5, 8]), Due::rising(0, 8), vec![5], Some(100)),
    ];
    for (bytes, due, offsets, bad) in table {
        assert_eq!(walk(&bytes, due), (offsets, bad), "{due:?}");
    }
}

#[test]
fn torn_or_corrupt() {
    // Durable until 1000; then two batches, 1000..1600 and 1600..2000, that were not synced.
    let good: Vec<u8> = [batch(0, 1000), batch(1, 600), batch(2, 400)].concat();
    let zero = |from: usize, until: usize| {
        let mut bytes = good.clone();
        bytes[from..until].fill(0);
        bytes
    };
    let flip = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        bytes
    };
    let cut = |len: usize| good[..len].to_vec();
    // (what, bytes, where it is bad, later segments, verdict)
    let table = [
        ("a flipped bit before a whole batch", flip(1300), 1000, false, Corrupt),
        ("a flipped bit in the last batch", flip(1700), 1600, false, Torn),
        ("a flipped bit in the last batch, others follow", flip(1700), 1600, true, Corrupt),
        ("a lost sector before a whole batch", zero(1024, 1536), 1000, false, Torn),
        ("the rest of the durable sector is lost", zero(1000, 1024), 1000, false, Torn),
        ("zeros that are no sector", zero(1100, 1500), 1000, false, Corrupt),
        ("zeros to the end of the file", zero(1600, 2000), 1600, true, Torn),
        ("cut in a header", cut(1030), 1000, true, Torn),
        ("cut in a batch", cut(1599), 1000, true, Torn),
        ("all zeros", zero(1000, 2000), 1000, true, Torn),
    ];
    for (what, bytes, bad, followed, verdict) in table {
        let due = Due::following(0, 100);
        assert_eq!(walk(&bytes, due).1, Some(bad), "{what}");
        let file = file(&bytes);
        let next = if bad == 1000 { 1 } else { 2 };
        let due = Due::following(next, 100);
        let found = classify(file.as_ref(), bad, bytes.len() as u64, due, followed).unwrap();
        assert_eq!(found, verdict, "{what}");
    }
}
