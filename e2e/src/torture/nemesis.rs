//! Who is killed when, from a seed: kills are spread over the writer's time, one at a random moment of each equal part of it.
//!
//! A batch's answer takes milliseconds, so most random moments see no open plan. Half of the agent's kills therefore come
//! some milliseconds after the broker was stopped (SIGSTOP): what the agent sends meanwhile stays open, and lies in a socket
//! buffer from where the broker takes it after the agent's death, before, while or after the next agent looks for it.

use std::ops::Range;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::stage::Part;

/// How long the broker is stopped before a kill of the agent.
const STALL_MS: Range<u64> = 5..300;
/// How long it stays stopped after it.
const LINGER_MS: Range<u64> = 0..500;
/// How long a killed process stays down, if it is not started at once.
const DOWN_MS: Range<u64> = 0..1500;

/// One kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// After the writer's begin.
    pub at: Duration,
    pub victims: Vec<Part>,
    /// The broker is stopped for so long before.
    pub stall: Option<Duration>,
    /// And goes on so long after the agent was started again (`None`: before).
    pub stall_on: Option<Duration>,
    pub down: Duration,
    /// Another configuration of the pipeline afterwards, where the run changes it.
    pub change: usize,
}

/// `count` kills over `span`.
pub fn schedule(rng: &mut ChaCha8Rng, count: usize, span: Duration, kafka: bool) -> Vec<Kill> {
    use Part::{Agent, Broker, Coordinator};
    let part = span / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let weights: &[(&[Part], u32)] = if kafka {
        &[(&[Agent], 75), (&[Broker], 15), (&[Agent, Broker], 10)]
    } else {
        &[
            (&[Agent], 50),
            (&[Broker], 22),
            (&[Coordinator], 14),
            (&[Agent, Broker], 10),
            (&[Agent, Broker, Coordinator], 4),
        ]
    };
    let mut kills = Vec::new();
    for index in 0..count {
        let begin = part * u32::try_from(index).unwrap_or(u32::MAX);
        let victims = chosen(rng, weights);
        let stalls = victims.contains(&Agent) && rng.gen_bool(0.6);
        let stall = Duration::from_millis(rng.gen_range(STALL_MS));
        let stall_on = Duration::from_millis(rng.gen_range(LINGER_MS));
        let stays_stalled = stalls && !victims.contains(&Broker) && rng.gen_bool(0.5);
        let down = Duration::from_millis(rng.gen_range(DOWN_MS));
        kills.push(Kill {
            at: begin + part.mul_f64(rng.gen_range(0.0..0.5)),
            victims,
            stall: stalls.then_some(stall),
            stall_on: stays_stalled.then_some(stall_on),
            down: if rng.gen_bool(0.5) { down } else { Duration::ZERO },
            change: rng.gen_range(0..usize::MAX),
        });
    }
    kills
}

fn chosen(rng: &mut ChaCha8Rng, weights: &[(&[Part], u32)]) -> Vec<Part> {
    let mut left = rng.gen_range(0..weights.iter().map(|(_, weight)| weight).sum());
    for (victims, weight) in weights {
        if left < *weight {
            return victims.to_vec();
        }
        left -= weight;
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_same_seed_kills_the_same_and_each_part_has_one() {
        let of = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            schedule(&mut rng, 100, Duration::from_secs(100), false)
        };
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
        for (second, kill) in of(3).iter().enumerate() {
            assert_eq!(kill.at.as_secs(), second as u64);
        }
        for part in [Part::Agent, Part::Broker, Part::Coordinator] {
            assert!(
                of(3).iter().filter(|kill| kill.victims.contains(&part)).count() >= 10,
                "{part:?}"
            );
        }
    }
}
