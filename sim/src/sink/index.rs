//! What a simulated sink has: documents by backing index, and by the record that each was made from.
//!
//! It is also the oracle. A document's `_id` says of which record it is, so whether a record is there, how often and in
//! which index is known at any moment. Rules are OpenSearch's: within one index a second `create` of an id is a conflict; a
//! data stream takes it again after a rollover. Invariant (judged as it happens): no record is in two indices.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Topic id, partition, leader epoch and offset: what an id is made of.
const ID_BYTES: usize = 32;

/// A record of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// One index.
#[derive(Debug)]
struct Backing {
    name: String,
    ids: BTreeSet<String>,
}

/// Everything that the sink has.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Of each name that is written to: the oldest first, the last one takes what comes.
    targets: BTreeMap<String, Vec<Backing>>,
    /// In which index each record is.
    places: BTreeMap<Place, String>,
}

/// What came of a `create`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Created {
    New { index: String },
    Conflict { index: String },
    NoTarget,
}

impl Index {
    /// False: it is there already.
    pub(super) fn create_stream(&mut self, name: &str) -> bool {
        if self.targets.contains_key(name) {
            return false;
        }
        self.targets.insert(name.to_owned(), Vec::new());
        self.roll_over(name);
        true
    }

    /// The stream's next index takes what comes from now on.
    pub(super) fn roll_over(&mut self, stream: &str) {
        if let Some(indices) = self.targets.get_mut(stream) {
            let name = format!(".ds-{stream}-{:06}", indices.len() + 1);
            indices.push(Backing { name, ids: BTreeSet::new() });
        }
    }

    pub(super) fn streams(&self) -> Vec<String> {
        self.targets.keys().cloned().collect()
    }

    /// The indices of a stream; `None` if it is not there.
    pub(super) fn indices_of(&self, stream: &str) -> Option<Vec<&str>> {
        let indices = self.targets.get(stream)?;
        Some(indices.iter().map(|index| index.name.as_str()).collect())
    }

    /// Of each id whether it is in the index; `None` if there is no such index.
    pub(super) fn look_up(&self, index: &str, ids: &[&str]) -> Option<Vec<bool>> {
        let found = self.targets.values().flatten().find(|backing| backing.name == index)?;
        Some(ids.iter().map(|id| found.ids.contains(*id)).collect())
    }

    /// Writes a document, or finds that its id is there. `makes_indices`: a name that is not there yet becomes an index.
    /// The error says what must not be.
    pub(super) fn create(
        &mut self,
        target: &str,
        id: &str,
        place: Place,
        makes_indices: bool,
    ) -> Result<Created, String> {
        if makes_indices && !self.targets.contains_key(target) {
            let index = Backing { name: target.to_owned(), ids: BTreeSet::new() };
            self.targets.insert(target.to_owned(), vec![index]);
        }
        let Some(newest) = self.targets.get_mut(target).and_then(|indices| indices.last_mut())
        else {
            return Ok(Created::NoTarget);
        };
        let index = newest.name.clone();
        if !newest.ids.insert(id.to_owned()) {
            return Ok(Created::Conflict { index });
        }
        match self.places.insert(place.clone(), index.clone()) {
            None => Ok(Created::New { index }),
            Some(other) => Err(format!(
                "{} partition {} offset {} is in {index} and in {other}",
                place.topic, place.partition, place.offset
            )),
        }
    }

    pub(super) fn has(&self, place: &Place) -> bool {
        self.places.contains_key(place)
    }
}

/// Which record an id is of, if no agent gave it one of its own.
pub(super) fn place_of(topic: &str, id: &str) -> Option<Place> {
    let bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
    let bytes: [u8; ID_BYTES] = bytes.try_into().ok()?;
    let partition = i32::from_be_bytes(bytes[16..20].try_into().ok()?);
    let offset = i64::from_be_bytes(bytes[24..].try_into().ok()?);
    Some(Place { topic: topic.to_owned(), partition, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: i64) -> Place {
        Place { topic: "t".into(), partition: 3, offset }
    }

    #[test]
    fn an_id_is_taken_once_by_an_index_and_again_after_a_rollover() {
        let mut index = Index::default();
        assert_eq!(index.create("s", "a", place(1), false), Ok(Created::NoTarget));
        assert!(index.create_stream("s") && !index.create_stream("s"));
        let first = || ".ds-s-000001".to_owned();
        assert_eq!(index.create("s", "a", place(1), false), Ok(Created::New { index: first() }));
        assert_eq!(
            index.create("s", "a", place(1), false),
            Ok(Created::Conflict { index: first() })
        );
        index.roll_over("s");
        assert_eq!(index.indices_of("s"), Some(vec![".ds-s-000001", ".ds-s-000002"]));
        assert_eq!(index.look_up(".ds-s-000001", &["a", "b"]), Some(vec![true, false]));
        assert_eq!(index.look_up(".ds-s-000002", &["a"]), Some(vec![false]));
        assert!(index.create("s", "a", place(1), false).is_err());
        assert!(index.has(&place(1)) && !index.has(&place(2)));
    }

    #[test]
    fn an_id_says_which_record_it_is_of() {
        let mut bytes = [7; ID_BYTES];
        bytes[16..20].copy_from_slice(&3_i32.to_be_bytes());
        bytes[24..].copy_from_slice(&42_i64.to_be_bytes());
        assert_eq!(place_of("t", &URL_SAFE_NO_PAD.encode(bytes)), Some(place(42)));
        assert_eq!(place_of("t", "short"), None);
    }
}
