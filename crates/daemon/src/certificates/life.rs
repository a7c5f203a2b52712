//! From when to when a certificate is good, and what is due when: pure arithmetic on two moments.

use std::time::Duration;

use tailway_metadata::security::IssuedCertificate;
use tailway_metadata::time::WallMs;

/// Between two looks at the files; more often where a certificate lives shortly.
pub(super) const LOOK_EVERY_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(200);

/// Between two questions whom to trust: with a look at the files before, and its jitter, what was revoked is known within a minute.
const TRUST_EVERY_MAX: Duration = Duration::from_secs(30);
const TRUST_EVERY_MIN: Duration = Duration::from_secs(1);
/// Over how long the renewals of all members are spread after another CA has begun to sign.
const FOLLOW_AFTER_MAX: Duration = Duration::from_mins(10);

/// From when to when a certificate is good, and what follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) not_before: WallMs,
    pub(super) not_after: WallMs,
}

impl Life {
    pub(super) fn of(issued: &IssuedCertificate) -> Life {
        Life { not_before: issued.not_before, not_after: issued.not_after }
    }

    pub(super) fn span(self) -> Duration {
        let ms = self.not_after.0.saturating_sub(self.not_before.0);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    fn at(self, thousandths: u32) -> WallMs {
        let ms = (self.span() / 1_000 * thousandths).as_millis();
        WallMs(self.not_before.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
    }

    /// From half of its life to 65 hundredths, by `jitter` of a thousand: before two thirds in any case.
    pub(super) fn renew_at(self, jitter: u32) -> WallMs {
        self.at(500 + jitter * 150 / 1_000)
    }

    /// Its last third has begun.
    pub(super) fn is_ending(self, now: WallMs) -> bool {
        now >= self.at(667)
    }

    /// It has not begun, by this host's clock.
    pub(super) fn is_early(self, now: WallMs) -> bool {
        now < self.not_before
    }

    pub(super) fn is_over(self, now: WallMs) -> bool {
        now > self.not_after
    }

    pub(super) fn seconds_left(self, now: WallMs) -> i64 {
        self.not_after.0.saturating_sub(now.0) / 1_000
    }

    /// When its program asks again whom to trust: hosts that started together do not ask together.
    pub(super) fn ask_every(self, jitter: u32) -> Duration {
        let every = (self.span() / 200).clamp(TRUST_EVERY_MIN, TRUST_EVERY_MAX);
        every * (900 + jitter / 5) / 1_000
    }

    /// How long after another CA has begun to sign its certificate is renewed.
    pub(super) fn follow_after(self, jitter: u32) -> Duration {
        (self.span() / 20).min(FOLLOW_AFTER_MAX) * jitter / 1_000
    }

    pub(super) fn look_every(self) -> Duration {
        (self.span() / 100).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_before_two_thirds_of_its_life() {
        let day = 86_400_000;
        for span in [20_000, day, 365 * day] {
            let life = Life { not_before: WallMs(7), not_after: WallMs(7 + span) };
            for jitter in [0, 1, 500, 999] {
                let at = life.renew_at(jitter);
                assert!(at.0 >= 7 + span / 2, "{span} {jitter}");
                assert!(!life.is_ending(at), "{span} {jitter}");
            }
            assert!(life.renew_at(999) > life.renew_at(0));
            assert!(life.is_ending(WallMs(7 + span * 7 / 10)));
            assert!((LOOK_EVERY_MIN..=LOOK_EVERY_MAX).contains(&life.look_every()));
        }
    }
}
