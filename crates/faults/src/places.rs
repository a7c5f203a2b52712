//! Visits of the named places, counted per thread: a simulated run is one thread.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::PLACES;

thread_local! {
    static VISITS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts a visit of this thread.
///
/// # Panics
/// If there is no such place.
pub fn reached(place: &'static str) {
    assert!(PLACES.contains(&place), "there is no place `{place}`; there are {PLACES:?}");
    VISITS.with_borrow_mut(|visits| *visits.entry(place).or_default() += 1);
}

/// The visits of this thread since this was asked last, of all places that had any.
pub fn take_visits() -> BTreeMap<&'static str, u64> {
    VISITS.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_counted_until_they_are_taken() {
        reached("broker.duplicate_recognised");
        reached("broker.duplicate_recognised");
        assert_eq!(take_visits(), BTreeMap::from([("broker.duplicate_recognised", 2)]));
        assert_eq!(take_visits(), BTreeMap::new());
    }

    #[test]
    #[should_panic(expected = "there is no place")]
    fn an_unknown_place_cannot_be_reached() {
        reached("broker.gone");
    }
}
