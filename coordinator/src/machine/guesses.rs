//! How often somebody may be wrong about a token: a little per address, and a little more in total.
//!
//! An attempt takes a credit of its address and one of the total; an attempt that succeeds gives both back. Without a credit
//! the token is not looked at. Credits come back with time. Bounded: of the addresses that are remembered, the one that has
//! been quiet longest makes room.

use std::collections::BTreeMap;
use std::time::Duration;

use tailway_metadata::time::Mono;

/// Wrong attempts that one address may make at once, and how long one more takes.
const PER_ADDRESS: Allowance = Allowance { burst: 10, refill: Duration::from_secs(6) };
/// The same for everybody together.
const TOTAL: Allowance = Allowance { burst: 200, refill: Duration::from_millis(200) };
/// Addresses that are remembered.
pub const ADDRESSES_MAX: usize = 4_096;

/// An IPv6 address, or an IPv4 address mapped into one (RFC 4291, section 2.5.5.2).
pub type Address = [u8; 16];

#[derive(Clone, Copy, Debug)]
struct Allowance {
    burst: u32,
    refill: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    credits: u32,
    /// When the last credit came back, or the first was taken.
    since: Mono,
}

/// Who has guessed how often.
#[derive(Debug)]
pub struct Guesses {
    addresses: BTreeMap<Address, Bucket>,
    total: Bucket,
}

impl Default for Guesses {
    fn default() -> Guesses {
        Guesses { addresses: BTreeMap::new(), total: TOTAL.full(Mono::ZERO) }
    }
}

impl Guesses {
    /// Takes a credit, or says how long to wait for one.
    pub fn admit(&mut self, address: Address, now: Mono) -> Result<(), Duration> {
        let address = site(address);
        if !self.addresses.contains_key(&address) && self.addresses.len() >= ADDRESSES_MAX {
            let quietest = self.addresses.iter().min_by_key(|(_, bucket)| bucket.since);
            let quietest = quietest.map(|(address, _)| *address);
            quietest.and_then(|quietest| self.addresses.remove(&quietest));
        }
        let bucket = self.addresses.entry(address).or_insert_with(|| PER_ADDRESS.full(now));
        PER_ADDRESS.refill(bucket, now);
        TOTAL.refill(&mut self.total, now);
        for (bucket, allowance) in [(&*bucket, PER_ADDRESS), (&self.total, TOTAL)] {
            if bucket.credits == 0 {
                return Err((bucket.since + allowance.refill).since(now));
            }
        }
        bucket.credits -= 1;
        self.total.credits -= 1;
        Ok(())
    }

    /// The attempt was no guess.
    pub fn forgive(&mut self, address: Address) {
        if let Some(bucket) = self.addresses.get_mut(&site(address)) {
            bucket.credits = PER_ADDRESS.burst.min(bucket.credits + 1);
        }
        self.total.credits = TOTAL.burst.min(self.total.credits + 1);
    }
}

impl Allowance {
    fn full(self, now: Mono) -> Bucket {
        Bucket { credits: self.burst, since: now }
    }

    fn refill(self, bucket: &mut Bucket, now: Mono) {
        let periods = now.since(bucket.since).as_micros() / self.refill.as_micros();
        let back = u32::try_from(periods).unwrap_or(u32::MAX);
        if bucket.credits.saturating_add(back) >= self.burst {
            *bucket = self.full(now);
        } else {
            bucket.credits += back;
            bucket.since = bucket.since + self.refill * back;
        }
    }
}

/// Whoever has one IPv6 address has the /64 around it.
fn site(mut address: Address) -> Address {
    const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    if !address.starts_with(&MAPPED) {
        address[8..].fill(0);
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u16) -> Address {
        let [high, low] = last.to_be_bytes();
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, high, low]
    }

    fn admitted(guesses: &mut Guesses, address: Address, times: u32, now: Mono) -> u32 {
        (0..times).map(|_| u32::from(guesses.admit(address, now).is_ok())).sum()
    }

    #[test]
    fn ten_thousand_guesses_of_one_address_are_ten_and_it_waits_for_more() {
        let mut guesses = Guesses::default();
        let mut now = Mono::ZERO;
        assert_eq!(admitted(&mut guesses, v4(1), 10_000, now), 10);
        assert_eq!(guesses.admit(v4(1), now), Err(Duration::from_secs(6)));
        assert_eq!(admitted(&mut guesses, v4(2), 3, now), 3, "another address may");
        now = now + Duration::from_secs(5);
        assert_eq!(guesses.admit(v4(1), now), Err(Duration::from_secs(1)));
        now = now + Duration::from_secs(14);
        assert_eq!(admitted(&mut guesses, v4(1), 100, now), 3);
        now = now + Duration::from_hours(1);
        assert_eq!(admitted(&mut guesses, v4(1), 100, now), 10, "never more than at first");
    }

    #[test]
    fn success_costs_nothing() {
        let mut guesses = Guesses::default();
        for _ in 0..1_000 {
            assert_eq!(guesses.admit(v4(1), Mono::ZERO), Ok(()));
            guesses.forgive(v4(1));
        }
        guesses.forgive(v4(1));
        assert_eq!(admitted(&mut guesses, v4(1), 100, Mono::ZERO), 10);
    }

    #[test]
    fn many_addresses_share_the_total_and_little_memory() {
        let mut guesses = Guesses::default();
        let now = Mono::from_millis(10);
        let sum: u32 = (0..10_000).map(|n| admitted(&mut guesses, v4(n), 1, now)).sum();
        assert_eq!(sum, 200);
        assert!(guesses.addresses.len() <= ADDRESSES_MAX);
        let later = now + Duration::from_secs(1);
        let sum: u32 = (0..100).map(|n| admitted(&mut guesses, v4(n), 1, later)).sum();
        assert_eq!(sum, 5);
    }

    #[test]
    fn one_site_is_one_guesser() {
        let mut guesses = Guesses::default();
        let v6 = |host: u8| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, host];
        let sum: u32 = (0..100).map(|h| admitted(&mut guesses, v6(h), 1, Mono::ZERO)).sum();
        assert_eq!(sum, 10);
    }
}
