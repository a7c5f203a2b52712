//! What the agent must not forget: which file was read how far, and what was sent for it.
//!
//! The ledger is the state that the journal's records add up to. Before a batch is sent its *plan*
//! is recorded: where it goes, under which producer and sequences, and which bytes of which file
//! generations it carries. An acknowledgement closes the plan and moves the files' offsets. A plan
//! that is open after a crash says exactly what is in doubt.
//!
//! Invariants: plans of a partition are acknowledged in order; a file's offset moves only by an
//! acknowledged plan that starts where the offset stands; a partition has at most five open plans.
//! Before a plan is voided whose batch may still arrive, the identity that will keep it out is
//! recorded as the partition's fence, and stays until a batch under it is acknowledged.

mod path_text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tailway_metadata::time::WallMs;

use super::identity::{FileId, Generation, Head, Ladder, Marker, Rung, Saved};

/// Plans that may be open per partition: brokers remember a producer's last five batches.
pub const PLANS_OPEN_MAX: usize = 5;

/// Files that are taken in at once are sorted in, instead of put in one by one, from this part of all on.
const BULK_SHARE: usize = 8;

/// A partition of a topic of a cluster, by ids that are never used again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    pub cluster: String,
    pub topic: String,
    /// Empty where the broker is too old to tell.
    pub topic_id: String,
    pub partition: i32,
}

impl Target {
    /// Whether it may be in the same cluster: old brokers do not tell which one they are.
    pub fn is_in_cluster(&self, cluster: &str) -> bool {
        may_be_same(&self.cluster, cluster)
    }

    /// Whether it may be of the same topic, which is more than a topic of the same name.
    pub fn is_of_topic(&self, topic_id: &str) -> bool {
        may_be_same(&self.topic_id, topic_id)
    }
}

fn may_be_same(one: &str, other: &str) -> bool {
    one.is_empty() || other.is_empty() || one == other
}

/// Bytes of one file generation, and the marker at their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub generation: Generation,
    pub from: u64,
    pub to: u64,
    pub marker: Marker,
}

/// The producer under which a partition's batches go out next, from sequence 0 on. Its epoch is
/// newer than that of what was voided, so brokers refuse what arrives late of it (error 47).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub producer_id: i64,
    pub producer_epoch: i16,
}

/// What one batch is meant to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub number: u64,
    /// When it was made; 0: from a version that did not say.
    #[serde(default)]
    pub at: WallMs,
    pub target: Target,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub first_sequence: i32,
    pub last_sequence: i32,
    /// The last sequence that was acknowledged when this was written; -1: none yet.
    pub acked_through: i32,
    pub ranges: Vec<Range>,
    /// Hash of the lines, one per record; `None`: from a version that did not say, or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// Hash of all that decides how these bytes become records.
    pub pipeline: u64,
    /// The journal was copied since: whoever has the other copy may send under this producer too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared: bool,
}

impl Plan {
    pub fn producer(&self) -> Fence {
        Fence { producer_id: self.producer_id, producer_epoch: self.producer_epoch }
    }
}

/// A file generation as it stands. There may be a million of them: what many have alike, they share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub generation: Generation,
    /// Generations of one inode are numbered; the highest is the current one.
    pub ordinal: u64,
    pub id: FileId,
    #[serde(with = "path_text")]
    pub path: Arc<Path>,
    /// The path under which it was first found: what its events say.
    #[serde(with = "path_text")]
    pub origin: Arc<Path>,
    pub input: Arc<str>,
    /// Everything before it is acknowledged.
    pub offset: u64,
    pub marker: Marker,
    pub head: Head,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Arc<Target>>,
    /// When it was last known to exist.
    pub seen: WallMs,
    /// Where it was acknowledged up to before.
    #[serde(default, skip_serializing_if = "Ladder::is_empty")]
    pub ladder: Ladder,
    /// The host was started anew since it was last looked at: if its power failed, the file may
    /// have less in it than was read.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rebooted: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Where a journal is at home. What is empty is not known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Home {
    /// The host's id.
    pub machine: String,
    /// The id of its last start.
    pub boot: String,
    /// The file beside the journal that is never written anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<FileId>,
}

impl Home {
    /// Whether the host was started anew between the two, for all that is known.
    pub fn is_rebooted(&self, now: &Home) -> bool {
        !may_be_same(&self.boot, &now.boot)
    }

    /// Why the journal is a copy of the one that was at home in `self`, if it is.
    pub fn copied(&self, now: &Home) -> Option<&'static str> {
        let moved = matches!((self.place, now.place), (Some(one), Some(other)) if one != other);
        if !may_be_same(&self.machine, &now.machine) {
            return Some("it was written on another machine");
        }
        moved.then_some("it was written in another place")
    }
}

impl FileEntry {
    pub fn saved(&self) -> Saved {
        Saved { id: self.id, offset: self.offset, head: self.head, marker: self.marker }
    }
}

/// One record of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Record {
    /// The input was started once: `start: end` is for files that were there before that.
    Input {
        input: String,
    },
    /// A generation is followed, or its entry as a whole after a compaction.
    File(Box<FileEntry>),
    /// The first bytes of a file, as far as they are known.
    Head {
        generation: Generation,
        head: Head,
    },
    /// The file has another name now, or was seen again.
    Path {
        generation: Generation,
        #[serde(with = "path_text")]
        path: PathBuf,
        seen: WallMs,
    },
    /// The generation goes to this partition for life.
    Pin {
        generation: Generation,
        target: Arc<Target>,
    },
    /// Whatever is looked for in this partition is at or behind `from`.
    ScanFrom {
        target: Target,
        from: i64,
    },
    /// What goes out next to this partition, goes out under this producer; `None`: under a new one.
    Fence {
        target: Target,
        fence: Option<Fence>,
    },
    Plan(Plan),
    /// The plan's records are in the partition, the first at `base_offset` (-1: unknown).
    Acked {
        plan: u64,
        base_offset: i64,
    },
    /// The plan's records are not in the partition: its bytes are sent anew.
    Void {
        plan: u64,
        why: String,
    },
    /// The journal is at home here from now on.
    Home(Home),
    /// The agent stopped, and everything before this is durable. A start says where it is at home.
    Rest,
    /// The generation is over and all of it is acknowledged, or given up.
    Done {
        generation: Generation,
    },
}

/// Why a record does not fit what came before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("plan {0} is not open")]
    NoPlan(u64),
    #[error("plan {0} was acknowledged before an older plan of its partition")]
    OutOfOrder(u64),
    #[error("partition {0} of {1} has five open plans already")]
    TooManyPlans(i32, String),
    #[error("generation {0} is not known")]
    NoGeneration(Generation),
    #[error("plan {plan} moves {generation} from {from}, which stands at {offset}")]
    Gap { plan: u64, generation: Generation, from: u64, offset: u64 },
}

type Files = BTreeMap<Generation, Box<FileEntry>>;

/// Files by inode and ordinal. Built when it is first asked, so that a start does not wait for it;
/// kept up from then on. It says nothing that the files do not say.
#[derive(Debug, Clone, Default)]
struct Index(OnceLock<BTreeMap<(FileId, u64), Generation>>);

impl Index {
    fn add(&mut self, entry: &FileEntry) {
        if let Some(index) = self.0.get_mut() {
            index.insert((entry.id, entry.ordinal), entry.generation);
        }
    }

    fn forget(&mut self, entry: Option<&FileEntry>) {
        if let (Some(index), Some(entry)) = (self.0.get_mut(), entry) {
            let key = (entry.id, entry.ordinal);
            if index.get(&key) == Some(&entry.generation) {
                index.remove(&key);
            }
        }
    }

    /// The generation with the highest ordinal.
    fn current(&self, id: &FileId, files: &Files) -> Option<Generation> {
        let all = || files.values().map(|file| ((file.id, file.ordinal), file.generation));
        let index = self.0.get_or_init(|| all().collect());
        index.range((*id, 0)..=(*id, u64::MAX)).next_back().map(|(_, generation)| *generation)
    }
}

impl PartialEq for Index {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Index {}

/// What all records so far add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    pub inputs: BTreeSet<String>,
    /// Boxed, because they are large and very many.
    pub files: Files,
    /// Open plans by number, which is also the order in which they were made.
    pub plans: BTreeMap<u64, Plan>,
    /// Where to look for what is in doubt.
    pub scan_from: BTreeMap<Target, i64>,
    /// Producers under which nothing was acknowledged yet.
    pub fences: BTreeMap<Target, Fence>,
    pub home: Option<Home>,
    /// The last run came to its end.
    pub rested: bool,
    plan_next: u64,
    index: Index,
}

impl Ledger {
    /// Takes in one record. After an error nothing has changed.
    pub fn apply(&mut self, record: Record) -> Result<(), LedgerError> {
        match record {
            Record::Rest => self.rested = true,
            Record::Input { input } => {
                self.inputs.insert(input);
            }
            Record::File(entry) => {
                self.index.forget(self.files.get(&entry.generation).map(Box::as_ref));
                self.index.add(&entry);
                self.files.insert(entry.generation, entry);
            }
            Record::Head { generation, head } => self.file(generation)?.head = head,
            Record::Path { generation, path, seen } => {
                let file = self.file(generation)?;
                file.path = path.into();
                file.seen = seen;
            }
            Record::Pin { generation, target } => {
                self.file(generation)?.target = Some(target);
            }
            Record::ScanFrom { target, from } => {
                self.scan_from.insert(target, from);
            }
            Record::Fence { target, fence: Some(fence) } => {
                self.fences.insert(target, fence);
            }
            Record::Fence { target, fence: None } => {
                self.fences.remove(&target);
            }
            Record::Plan(plan) => {
                if self.plans_of(&plan.target).count() >= PLANS_OPEN_MAX {
                    return Err(LedgerError::TooManyPlans(
                        plan.target.partition,
                        plan.target.topic,
                    ));
                }
                self.plan_next = self.plan_next.max(plan.number + 1);
                self.plans.insert(plan.number, plan);
            }
            Record::Acked { plan, base_offset } => self.acked(plan, base_offset)?,
            Record::Void { plan, .. } => {
                self.plans.remove(&plan).ok_or(LedgerError::NoPlan(plan))?;
            }
            Record::Home(home) => self.moved_to(home),
            Record::Done { generation } => {
                let gone = self.files.remove(&generation);
                self.index.forget(gone.as_deref());
                gone.ok_or(LedgerError::NoGeneration(generation))?;
            }
        }
        Ok(())
    }

    fn acked(&mut self, number: u64, base_offset: i64) -> Result<(), LedgerError> {
        let plan = self.plans.get(&number).ok_or(LedgerError::NoPlan(number))?;
        if self.plans_of(&plan.target).next().is_some_and(|oldest| oldest.number != number) {
            return Err(LedgerError::OutOfOrder(number));
        }
        for range in &plan.ranges {
            // A generation that was given up meanwhile has no entry any more.
            let Some(file) = self.files.get(&range.generation) else { continue };
            if file.offset != range.from {
                return Err(LedgerError::Gap {
                    plan: number,
                    generation: range.generation,
                    from: range.from,
                    offset: file.offset,
                });
            }
        }
        let Some(plan) = self.plans.remove(&number) else { return Ok(()) };
        for range in &plan.ranges {
            if let Some(file) = self.files.get_mut(&range.generation) {
                file.offset = range.to;
                file.marker = range.marker;
                file.ladder.push(Rung { offset: range.to, marker: range.marker });
            }
        }
        if self.fences.get(&plan.target) == Some(&plan.producer()) {
            self.fences.remove(&plan.target);
        }
        if base_offset >= 0 {
            let count = i64::from(record_count(plan.first_sequence, plan.last_sequence));
            self.scan_from.insert(plan.target, base_offset + count);
        }
        Ok(())
    }

    /// What was known before another start of the host is doubted, and so is what another machine
    /// or place may know as well.
    fn moved_to(&mut self, home: Home) {
        self.rested = false;
        let before = self.home.replace(home.clone()).unwrap_or_default();
        let is_copied = before.copied(&home).is_some();
        if before.is_rebooted(&home) {
            self.files.values_mut().for_each(|file| file.rebooted = true);
        }
        if is_copied {
            self.fences.clear();
            self.plans.values_mut().for_each(|plan| plan.shared = true);
        }
    }

    fn file(&mut self, generation: Generation) -> Result<&mut FileEntry, LedgerError> {
        let file = self.files.get_mut(&generation).map(Box::as_mut);
        file.ok_or(LedgerError::NoGeneration(generation))
    }

    /// The number of the next plan.
    pub fn plan_next(&self) -> u64 {
        self.plan_next
    }

    /// Open plans of a partition, oldest first.
    pub fn plans_of<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = &'a Plan> {
        self.plans.values().filter(move |plan| plan.target == *target)
    }

    /// Open plans that carry bytes of the generation.
    pub fn plans_with(&self, generation: Generation) -> impl Iterator<Item = &Plan> {
        let carries =
            move |plan: &&Plan| plan.ranges.iter().any(|range| range.generation == generation);
        self.plans.values().filter(carries)
    }

    /// As `Record::File` for each, but faster where they are very many.
    pub fn apply_files(&mut self, files: Vec<(Generation, Box<FileEntry>)>) {
        if files.len() < self.files.len() / BULK_SHARE {
            self.files.extend(files);
        } else {
            // Sorted once and built from its leaves up. Of equals, the last one stays.
            self.files.append(&mut files.into_iter().collect());
        }
        self.index = Index::default();
    }

    /// The current generation of an inode.
    pub fn current(&self, id: &FileId) -> Option<&FileEntry> {
        let generation = self.index.current(id, &self.files)?;
        self.files.get(&generation).map(Box::as_ref)
    }

    /// The records that make an equal ledger: what a compaction writes.
    pub fn records(&self) -> Vec<Record> {
        let inputs = self.inputs.iter().map(|input| Record::Input { input: input.clone() });
        let files = self.files.values().cloned().map(Record::File);
        let scans = self
            .scan_from
            .iter()
            .map(|(target, from)| Record::ScanFrom { target: target.clone(), from: *from });
        let fences = self
            .fences
            .iter()
            .map(|(target, fence)| Record::Fence { target: target.clone(), fence: Some(*fence) });
        let plans = self.plans.values().cloned().map(Record::Plan);
        let home = self.home.iter().cloned().map(Record::Home);
        let rest = self.rested.then_some(Record::Rest);
        let all = home.chain(inputs).chain(files).chain(scans).chain(fences).chain(plans);
        all.chain(rest).collect()
    }

    /// Panics if an invariant is broken.
    pub fn check(&self) {
        for plan in self.plans.values() {
            assert!(self.plans_of(&plan.target).count() <= PLANS_OPEN_MAX, "too many plans");
            assert!(plan.number < self.plan_next, "a plan from the future: {plan:?}");
            for range in &plan.ranges {
                assert!(range.from < range.to, "an empty range: {plan:?}");
                let offset = self.files.get(&range.generation).map_or(0, |file| file.offset);
                assert!(range.from >= offset, "open but acknowledged: {plan:?}, at {offset}");
            }
        }
    }
}

/// Records from a first to a last sequence, which wrap around after `i32::MAX`.
pub fn record_count(first_sequence: i32, last_sequence: i32) -> i32 {
    (last_sequence.wrapping_sub(first_sequence) & i32::MAX) + 1
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
