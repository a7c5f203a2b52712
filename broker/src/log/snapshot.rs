//! Producer state snapshots (`<offset>.snapshot`) in Kafka's format, so that a start need not read the whole log.
//!
//! Layout (big endian): version i16 = 1, CRC-32C u32 over everything behind it, count i32, then 46 bytes per entry. Kafka
//! keeps one batch per producer; here each of the remembered batches is an entry, oldest first, so that all five are
//! recognised after a restart. Kafka takes the last entry of a producer, which is the newest.

use tailway_metadata::time::WallMs;

use crate::machine::producers::{Producers, RememberedBatch};

const VERSION: i16 = 1;
const HEADER: usize = 10;
const ENTRY: usize = 46;

/// The state as of `end`: batches from there on are left out.
pub(super) fn encode(producers: &Producers, end: i64) -> Vec<u8> {
    let mut entries: Vec<(i64, i16, RememberedBatch, WallMs)> = Vec::new();
    for (id, entry) in producers.iter() {
        let known = entry.batches.iter().filter(|batch| batch.last_offset < end);
        entries.extend(known.map(|batch| (id, entry.producer_epoch, *batch, entry.last_heard)));
    }
    let mut bytes = Vec::with_capacity(HEADER + entries.len() * ENTRY);
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(i32::try_from(entries.len()).unwrap_or(i32::MAX).to_be_bytes());
    for (id, epoch, batch, heard) in entries {
        bytes.extend(id.to_be_bytes());
        bytes.extend(epoch.to_be_bytes());
        bytes.extend(batch.last_sequence.to_be_bytes());
        bytes.extend(batch.last_offset.to_be_bytes());
        bytes.extend(batch.last_offset_delta.to_be_bytes());
        bytes.extend(heard.0.to_be_bytes());
        // No transactions: no coordinator epoch, no open transaction.
        bytes.extend((-1_i32).to_be_bytes());
        bytes.extend((-1_i64).to_be_bytes());
    }
    let crc = crc32c::crc32c(&bytes[6..]);
    bytes[2..6].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Reads a snapshot, or says what is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<Producers, String> {
    let mut reader = Reader(bytes);
    let version = i16::from_be_bytes(reader.take()?);
    if version != VERSION {
        return Err(format!("version {version}, expected {VERSION}"));
    }
    let stored = u32::from_be_bytes(reader.take()?);
    let computed = crc32c::crc32c(reader.0);
    if stored != computed {
        return Err(format!("CRC {stored:#010x} stored, {computed:#010x} computed"));
    }
    let count = i32::from_be_bytes(reader.take()?);
    if usize::try_from(count).ok() != Some(reader.0.len() / ENTRY) || reader.0.len() % ENTRY != 0 {
        return Err(format!("{count} entries announced in {} bytes", reader.0.len()));
    }
    let mut producers = Producers::default();
    for _ in 0..count {
        let id = i64::from_be_bytes(reader.take()?);
        let epoch = i16::from_be_bytes(reader.take()?);
        let batch = RememberedBatch {
            last_sequence: i32::from_be_bytes(reader.take()?),
            last_offset: i64::from_be_bytes(reader.take()?),
            last_offset_delta: i32::from_be_bytes(reader.take()?),
        };
        let heard = WallMs(i64::from_be_bytes(reader.take()?));
        let _coordinator_epoch: [u8; 4] = reader.take()?;
        let _transaction_start: [u8; 8] = reader.take()?;
        // Kafka writes an entry without a batch for a producer of which only a transaction marker is known.
        if batch.last_sequence >= 0 && batch.last_offset_delta >= 0 && batch.last_offset >= 0 {
            producers.restore(id, epoch, batch, heard);
        }
    }
    Ok(producers)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or("it ends early")?;
        self.0 = rest;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::producers::ProducerBatch;

    fn producers() -> Producers {
        let mut producers = Producers::default();
        for i in 0..7 {
            let batch = ProducerBatch {
                producer_id: 9,
                producer_epoch: 2,
                base_sequence: i * 10,
                last_offset_delta: 9,
            };
            producers.remember(&batch, i64::from(i) * 10, WallMs(77));
        }
        producers
    }

    #[test]
    fn one_entry_by_hand() {
        let mut producers = Producers::default();
        let batch = ProducerBatch {
            producer_id: 0x0102,
            producer_epoch: 3,
            base_sequence: 4,
            last_offset_delta: 5,
        };
        producers.remember(&batch, 0x0600, WallMs(0x0708));
        let body = [
            0, 0, 0, 1, // count
            0, 0, 0, 0, 0, 0, 1, 2, // producer id
            0, 3, // epoch
            0, 0, 0, 9, // last sequence
            0, 0, 0, 0, 0, 0, 6, 5, // last offset
            0, 0, 0, 5, // offset delta
            0, 0, 0, 0, 0, 0, 7, 8, // timestamp
            255, 255, 255, 255, // coordinator epoch
            255, 255, 255, 255, 255, 255, 255, 255, // transaction's first offset
        ];
        let crc = crc32c::crc32c(&body).to_be_bytes();
        let expected = [&[0, 1][..], &crc, &body].concat();
        assert_eq!(encode(&producers, i64::MAX), expected);
    }

    #[test]
    fn round_trip_keeps_all_five_batches() {
        let producers = producers();
        let decoded = decode(&encode(&producers, 70)).unwrap();
        assert_eq!(decoded, producers);
        assert_eq!(decode(&encode(&Producers::default(), 0)), Ok(Producers::default()));
    }

    #[test]
    fn batches_from_the_end_on_are_left_out() {
        let decoded = decode(&encode(&producers(), 60)).unwrap();
        let (_, entry) = decoded.iter().next().unwrap();
        assert_eq!(entry.batches.last().unwrap().last_offset, 59);
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        let good = encode(&producers(), 70);
        for len in 0..good.len() {
            assert!(decode(&good[..len]).is_err(), "cut at {len}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }
}
