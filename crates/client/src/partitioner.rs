//! Which partition a record goes to, as Kafka's default partitioner chooses.
//!
//! With a key: murmur2 of the key, so that every Kafka client puts a key where we put it. Without:
//! one partition until a batch's worth of bytes went there, then the next.

/// Kafka's murmur2 (seed 0x9747b28c).
pub(crate) fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut h = 0x9747_b28c ^ length;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * index);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of a key among `partitions` of them; `None` if there are none.
pub(crate) fn for_key(key: &[u8], partitions: usize) -> Option<i32> {
    let positive = murmur2(key) & 0x7fff_ffff;
    let count = u32::try_from(partitions).ok().filter(|count| *count > 0)?;
    i32::try_from(positive % count).ok()
}

/// The partition of records without key, of one topic.
#[derive(Debug, Default)]
pub(crate) struct Sticky {
    turn: usize,
    bytes: usize,
}

impl Sticky {
    /// Where `size` more bytes go; moves on after `stick_for` bytes.
    pub(crate) fn next(&mut self, size: usize, stick_for: usize, partitions: usize) -> Option<i32> {
        if self.bytes >= stick_for {
            self.turn = self.turn.wrapping_add(1);
            self.bytes = 0;
        }
        self.bytes += size;
        i32::try_from(self.turn.checked_rem(partitions)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_that_of_the_java_client() {
        // From Kafka's own UtilsTest.
        for (text, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn keys_land_inside_and_stay() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..100 {
            let key = format!("key-{n}");
            let first = for_key(key.as_bytes(), 3).unwrap();
            assert_eq!(for_key(key.as_bytes(), 3), Some(first));
            seen.insert(first);
        }
        assert_eq!(seen.len(), 3);
        assert_eq!(for_key(b"x", 0), None);
    }

    #[test]
    fn no_key_sticks_for_a_batch() {
        let mut sticky = Sticky::default();
        let turns: Vec<_> = (0..6).filter_map(|_| sticky.next(50, 100, 2)).collect();
        assert_eq!(turns, [0, 0, 1, 1, 0, 0]);
        assert_eq!(sticky.next(1, 100, 0), None);
    }
}
