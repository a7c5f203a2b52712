//! What a partition's way into a Kafka has to remember over a crash: under which producer it sends, and the one batch that may
//! be on its way. It stands beside the committed offset, and is durable before the batch is sent.
//!
//! Pure. Invariants: at most one plan is open; a batch other than the open plan's goes out under the producer's next epoch,
//! which keeps the plan's requests out from then on.

use std::fmt;

use tailway_client::ProducerIdentity;
use tailway_client::machine::pipeline::sequence_after;

/// Version of the text.
const FORM: &str = "1";

/// The batch of the records from `from` on, below `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) count: i32,
    pub(super) first_sequence: i32,
}

impl Plan {
    pub(super) fn last_sequence(self) -> i32 {
        sequence_after(self.first_sequence, self.count - 1)
    }
}

/// Everything that is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// The cluster that this is about; empty where it does not tell.
    pub(super) cluster: String,
    pub(super) identity: Option<ProducerIdentity>,
    pub(super) next_sequence: i32,
    /// What may be in doubt lies at this offset of the target's partition or behind it.
    pub(super) scan_from: i64,
    pub(super) plan: Option<Plan>,
    /// The plan is durable; it may have been sent; it is not to be sent again as it was.
    pub(super) is_durable: bool,
    pub(super) is_sent: bool,
    pub(super) is_void: bool,
}

impl Memory {
    /// Whether these records are the open plan's, so that they may be sent as they were.
    pub(super) fn resumes(&self, from: i64, to: i64, count: i32) -> bool {
        !self.is_void
            && self.plan.is_some_and(|plan| (plan.from, plan.to, plan.count) == (from, to, count))
    }

    /// Whether another batch needs another epoch first.
    pub(super) fn must_fence(&self) -> bool {
        self.plan.is_some() && self.is_sent
    }

    /// Goes on under another identity, from its first sequence on.
    pub(super) fn begin(&mut self, identity: ProducerIdentity) {
        self.identity = Some(identity);
        self.next_sequence = 0;
        self.close();
    }

    pub(super) fn open(&mut self, from: i64, to: i64, count: i32) {
        let first_sequence = self.next_sequence;
        self.close();
        self.plan = Some(Plan { from, to, count, first_sequence });
    }

    /// The open plan's batch is stored; where it ends there, if that is known.
    pub(super) fn stored(&mut self, end: Option<i64>) {
        if let Some(plan) = self.plan {
            self.next_sequence = sequence_after(plan.first_sequence, plan.count);
        }
        self.scan_from = end.unwrap_or(self.scan_from).max(self.scan_from);
        self.close();
    }

    fn close(&mut self) {
        self.plan = None;
        (self.is_durable, self.is_sent, self.is_void) = (false, false, false);
    }

    /// Reads what `Display` wrote; `None` if it is something else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next()? != FORM {
            return None;
        }
        let cluster = words.next()?.strip_prefix('-')?.to_owned();
        let (id, epoch) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let identity = ProducerIdentity { producer_id: id, producer_epoch: epoch };
        let next_sequence: i32 = words.next()?.parse().ok()?;
        let scan_from: i64 = words.next()?.parse().ok()?;
        let mut memory = Self {
            cluster,
            identity: identity.is_idempotent().then_some(identity),
            next_sequence,
            scan_from,
            ..Self::default()
        };
        if let Some(from) = words.next() {
            let from: i64 = from.parse().ok()?;
            let (to, count) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let first_sequence = words.next()?.parse().ok()?;
            if from < 0 || to <= from || count < 1 || first_sequence < 0 {
                return None;
            }
            memory.plan = Some(Plan { from, to, count, first_sequence });
            (memory.is_durable, memory.is_sent) = (true, true);
        }
        (next_sequence >= 0 && scan_from >= 0 && words.next().is_none()).then_some(memory)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, next_sequence, scan_from, .. } = self;
        let ProducerIdentity { producer_id, producer_epoch } =
            self.identity.unwrap_or(ProducerIdentity::NONE);
        write!(f, "{FORM} -{cluster} {producer_id} {producer_epoch} {next_sequence} {scan_from}")?;
        if let Some(Plan { from, to, count, first_sequence }) = self.plan {
            write!(f, " {from} {to} {count} {first_sequence}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: ProducerIdentity = ProducerIdentity { producer_id: 7, producer_epoch: 2 };

    #[test]
    fn what_is_written_is_read() {
        let mut memory = Memory { cluster: "-4L6g3nShT-eMCtK--X86sw".into(), ..Memory::default() };
        let read = |memory: &Memory| Memory::parse(&memory.to_string()).unwrap();
        assert_eq!(read(&memory), memory);
        memory.begin(IDENTITY);
        memory.scan_from = 90;
        assert_eq!(read(&memory), memory);
        memory.open(5, 9, 3);
        let again = read(&memory);
        assert_eq!(again.plan, memory.plan);
        assert!(again.is_durable && again.is_sent, "an earlier run may have sent it");
        let text = memory.to_string();
        assert!(text.len() < 200);
        for wrong in ["", "x", ".ds-logs-000001", &text[1..], &format!("{text} 1"), "1 -c 7 0 -1 0"]
        {
            assert_eq!(Memory::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Memory::parse("1 -c 7 0 0 0 9 9 1 0"), None, "an empty plan");
    }

    #[test]
    fn a_plan_is_resumed_as_it_was_or_fenced() {
        let mut memory = Memory::default();
        memory.begin(IDENTITY);
        memory.open(10, 20, 10);
        assert!(memory.resumes(10, 20, 10));
        assert!(!memory.resumes(10, 19, 9), "fewer records");
        assert!(!memory.resumes(10, 20, 9), "compaction took one");
        assert!(!memory.must_fence(), "it was not sent");
        memory.is_sent = true;
        assert!(memory.must_fence());
        memory.is_void = true;
        assert!(!memory.resumes(10, 20, 10));
        memory.begin(IDENTITY.next_epoch().unwrap());
        assert_eq!((memory.next_sequence, memory.plan), (0, None));
        memory.open(10, 20, 10);
        memory.stored(Some(55));
        assert_eq!((memory.next_sequence, memory.scan_from, memory.plan), (10, 55, None));
        memory.open(20, 21, 1);
        memory.stored(None);
        assert_eq!((memory.next_sequence, memory.scan_from), (11, 55));
    }
}
