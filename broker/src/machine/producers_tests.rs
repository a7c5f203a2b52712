//! Tables for Kafka's rules, and a random run against a model that remembers everything.

use super::*;

const NOW: WallMs = WallMs(1_000);

fn batch(epoch: i16, first: i32, count: i32) -> ProducerBatch {
    ProducerBatch {
        producer_id: 7,
        producer_epoch: epoch,
        base_sequence: first,
        last_offset_delta: count - 1,
    }
}

/// Ten batches of ten records, epoch 3, sequences 0..100, offsets 1000..1100.
fn ten_batches() -> Producers {
    let mut producers = Producers::default();
    for i in 0..10 {
        let next = batch(3, i * 10, 10);
        assert_eq!(producers.judge(&next), Verdict::Append);
        producers.remember(&next, 1_000 + i64::from(i) * 10, NOW);
        producers.check();
    }
    producers
}

#[test]
fn rules_of_a_known_producer() {
    let producers = ten_batches();
    let duplicate = |base_offset, last_offset| Verdict::Duplicate { base_offset, last_offset };
    let out_of_order = |expected| Verdict::OutOfOrder { expected };
    let table = [
        ("the next", batch(3, 100, 1), Verdict::Append),
        ("the newest again", batch(3, 90, 10), duplicate(1_090, 1_099)),
        ("the fifth newest again", batch(3, 50, 10), duplicate(1_050, 1_059)),
        ("the sixth newest is forgotten", batch(3, 40, 10), out_of_order(100)),
        ("a duplicate's first half", batch(3, 90, 5), out_of_order(100)),
        ("a duplicate's second half", batch(3, 95, 5), out_of_order(100)),
        ("a gap of one", batch(3, 101, 1), out_of_order(100)),
        ("an old epoch", batch(2, 100, 1), Verdict::StaleEpoch { current: 3 }),
        ("an old epoch with a known range", batch(2, 90, 10), Verdict::StaleEpoch { current: 3 }),
        ("a new epoch from 0", batch(4, 0, 10), Verdict::Append),
        ("a new epoch, a known range", batch(4, 90, 10), out_of_order(0)),
        ("a new epoch not from 0", batch(4, 1, 1), out_of_order(0)),
        (
            "another producer may start anywhere",
            ProducerBatch { producer_id: 8, ..batch(0, 500, 1) },
            Verdict::Append,
        ),
    ];
    for (what, batch, verdict) in table {
        assert_eq!(producers.judge(&batch), verdict, "{what}");
    }
}

#[test]
fn a_new_epoch_forgets_the_old_ones_batches() {
    let mut producers = ten_batches();
    producers.remember(&batch(4, 0, 10), 1_100, NOW);
    producers.check();
    assert_eq!(producers.judge(&batch(3, 100, 1)), Verdict::StaleEpoch { current: 4 });
    assert_eq!(
        producers.judge(&batch(4, 0, 10)),
        Verdict::Duplicate { base_offset: 1_100, last_offset: 1_109 }
    );
    assert_eq!(producers.judge(&batch(4, 10, 1)), Verdict::Append);
    assert_eq!(producers.last_offsets(), [1_109]);
}

#[test]
fn sequences_wrap_to_zero() {
    let max = i32::MAX;
    let mut producers = Producers::default();
    let across = batch(0, max - 1, 4);
    assert_eq!(across.last_sequence(), 1);
    producers.remember(&across, 10, NOW);
    assert_eq!(producers.judge(&across), Verdict::Duplicate { base_offset: 10, last_offset: 13 });
    assert_eq!(producers.judge(&batch(0, 2, 1)), Verdict::Append);
    assert_eq!(producers.judge(&batch(0, 3, 1)), Verdict::OutOfOrder { expected: 2 });

    let mut producers = Producers::default();
    producers.remember(&batch(0, max, 1), 0, NOW);
    assert_eq!(producers.judge(&batch(0, 0, 1)), Verdict::Append);
}

#[test]
fn expiry_is_by_when_the_broker_heard() {
    let mut producers = ten_batches();
    producers.expire(WallMs(1_000 + 50), 50);
    assert_eq!(producers.len(), 1, "exactly the limit stays");
    producers.expire(WallMs(0), 50);
    assert_eq!(producers.len(), 1, "a clock that jumped back");
    producers.expire(WallMs(1_000 + 51), 50);
    assert!(producers.is_empty());
    assert_eq!(producers.judge(&batch(3, 500, 1)), Verdict::Append);
}

#[test]
fn the_number_of_producers_is_bounded() {
    let mut producers = Producers::default();
    let count = i64::try_from(PRODUCERS_MAX).unwrap() + 1;
    for id in 0..count {
        let one = ProducerBatch { producer_id: id, ..batch(0, 0, 1) };
        producers.remember(&one, id, WallMs(id));
    }
    producers.check();
    assert_eq!(producers.len(), PRODUCERS_MAX - PRODUCERS_MAX / 16 + 1);
    let gone = ProducerBatch { producer_id: 0, ..batch(0, 5, 1) };
    assert_eq!(producers.judge(&gone), Verdict::Append);
    let kept = ProducerBatch { producer_id: count - 1, ..batch(0, 5, 1) };
    assert_eq!(producers.judge(&kept), Verdict::OutOfOrder { expected: 1 });
}

#[test]
fn restoring_what_iter_gives_is_the_same_state() {
    let producers = ten_batches();
    let mut restored = Producers::default();
    for (id, entry) in producers.iter() {
        for batch in &entry.batches {
            restored.restore(id, entry.producer_epoch, *batch, entry.last_heard);
        }
    }
    assert_eq!(restored, producers);
}

/// A small generator, so that a failure is repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What was appended, all of it: (producer, epoch, first, count, base offset).
type Model = Vec<(i64, i16, i32, i32, i64)>;

fn expected(model: &Model, batch: &ProducerBatch) -> Verdict {
    let mine: Vec<_> = model.iter().filter(|m| m.0 == batch.producer_id).collect();
    let Some(newest) = mine.last() else { return Verdict::Append };
    let epoch = newest.1;
    if batch.producer_epoch < epoch {
        return Verdict::StaleEpoch { current: epoch };
    }
    let next = if batch.producer_epoch > epoch { 0 } else { newest.2 + newest.3 };
    let count = batch.last_offset_delta + 1;
    let window = mine.iter().rev().take(5).filter(|m| m.1 == batch.producer_epoch);
    if let Some(old) = window.into_iter().find(|m| (m.2, m.3) == (batch.base_sequence, count)) {
        let last_offset = old.4 + i64::from(count) - 1;
        return Verdict::Duplicate { base_offset: old.4, last_offset };
    }
    if batch.base_sequence == next {
        Verdict::Append
    } else {
        Verdict::OutOfOrder { expected: next }
    }
}

#[test]
fn random_batches_are_judged_as_the_model_says() {
    for seed in 1..=40_u64 {
        println!("seed {seed}");
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut producers, mut model, mut offset) = (Producers::default(), Model::new(), 0);
        for _ in 0..400 {
            let id = i64::try_from(random.below(3)).unwrap();
            let last = model.iter().rfind(|m| m.0 == id).copied();
            let (epoch, next) = last.map_or((0, 0), |m| (m.1, m.2 + m.3));
            let (producer_epoch, base_sequence, count) = match random.below(10) {
                0 => (epoch + 1, 0, 1 + random.below(5)),
                1 => ((epoch - 1).max(0), next, 1 + random.below(5)),
                2 => (epoch, next + i32::try_from(random.below(3)).unwrap(), 1),
                3..=5 => {
                    let mine: Vec<_> = model.iter().filter(|m| m.0 == id).collect();
                    let back = usize::try_from(random.below(8)).unwrap();
                    match mine.iter().rev().nth(back) {
                        Some(m) => (m.1, m.2, u64::try_from(m.3).unwrap()),
                        None => (epoch, next, 1),
                    }
                }
                _ => (epoch, next, 1 + random.below(5)),
            };
            let count = i32::try_from(count).unwrap();
            let batch = ProducerBatch {
                producer_id: id,
                producer_epoch,
                base_sequence,
                last_offset_delta: count - 1,
            };
            let verdict = producers.judge(&batch);
            assert_eq!(verdict, expected(&model, &batch), "seed {seed}: {batch:?}");
            if verdict == Verdict::Append {
                producers.remember(&batch, offset, NOW);
                producers.check();
                model.push((id, producer_epoch, base_sequence, count, offset));
                offset += i64::from(count);
            }
        }
        assert!(model.len() > 100, "seed {seed}: the run must append");
    }
}

/// Random batches of a few producers and epochs: taking the newest back, one after the other, leads back through every state.
#[test]
fn undo_is_the_reverse_of_remember() {
    let mut producers = Producers::default();
    let mut states = Vec::new();
    let mut random = 88_172_645_463_325_252_u64;
    for offset in 0..500 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let batch = ProducerBatch {
            producer_id: i64::try_from(random % 5).unwrap(),
            producer_epoch: i16::try_from(offset / 100).unwrap(),
            base_sequence: i32::try_from(offset).unwrap(),
            last_offset_delta: 0,
        };
        let before = producers.clone();
        let undo = producers.remember(&batch, offset, WallMs(offset));
        assert_ne!(producers, before);
        states.push((before, undo));
    }
    for (before, undo) in states.into_iter().rev() {
        let offset = undo.base_offset;
        producers.undo(undo);
        assert_eq!(producers, before, "{offset}");
    }
}
