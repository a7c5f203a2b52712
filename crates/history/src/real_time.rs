//! Order between processes: one operation is before another only if it ended before the other began.

/// One observation: its begin and end, what was observed, and who and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<W> {
    pub(crate) t0: u64,
    pub(crate) t1: u64,
    pub(crate) value: u64,
    pub(crate) witness: W,
}

/// The observations smaller than one that had ended before they began, each with the largest such.
pub(crate) fn falls<W: Copy>(seen: &[Seen<W>]) -> Vec<(Seen<W>, Seen<W>)> {
    let mut by_begin: Vec<&Seen<W>> = seen.iter().collect();
    by_begin.sort_by_key(|one| one.t0);
    let mut by_end: Vec<&Seen<W>> = seen.iter().collect();
    by_end.sort_by_key(|one| one.t1);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&Seen<W>> = None;
    let mut out = Vec::new();
    for one in by_begin {
        while let Some(before) = ended.next_if(|before| before.t1 < one.t0) {
            if highest.is_none_or(|highest| highest.value < before.value) {
                highest = Some(before);
            }
        }
        if let Some(highest) = highest.filter(|highest| highest.value > one.value) {
            out.push((*one, *highest));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ended_before_counts() {
        let seen = |t0, t1, value| Seen { t0, t1, value, witness: () };
        let cases = [
            (vec![seen(0, 1, 5), seen(2, 3, 5), seen(4, 5, 6)], vec![]),
            (vec![seen(0, 1, 5), seen(2, 3, 4)], vec![(4, 5)]),
            // Concurrent: either may have been first.
            (vec![seen(0, 2, 5), seen(2, 3, 4)], vec![]),
            // Given in another order than they happened.
            (vec![seen(4, 5, 1), seen(0, 1, 7), seen(2, 3, 8)], vec![(1, 8)]),
        ];
        for (events, expected) in cases {
            let found: Vec<(u64, u64)> =
                falls(&events).iter().map(|(low, high)| (low.value, high.value)).collect();
            assert_eq!(found, expected, "{events:?}");
        }
    }
}
