//! Commit groups: when the next one is closed, and whether it is made durable file by file or by one syncfs.
//!
//! A fdatasync costs about one commit of the file system's journal, and commits run one after another however many threads
//! ask; a syncfs costs a few commits and the write-back of whatever is dirty. So few files are synced each for itself,
//! and many by one syncfs; where the two meet is learned from what groups took. Both costs begin with what a 2-core virtual
//! machine with ext4 took (200 files: 29 ms by 16 threads, 7.5 ms by syncfs; 6 files: 0.6 and 2.5 ms).
//! The next group is closed once nothing runs; but a group that takes long is overtaken by one other, so that a busy
//! partition waits for its own files only. Invariants: at most two groups run, and of these at most one by syncfs, whose
//! errors are told once.

use std::time::Duration;

use tailway_metadata::time::Mono;

/// Groups that may run at once.
const RUNNING_MAX: usize = 2;

/// A group that runs for this long is overtaken.
const OVERTAKE_AFTER: Duration = Duration::from_millis(10);

/// What a file costs in a parallel group, and a syncfs, until it is known better.
const FILE_COST: Duration = Duration::from_micros(145);
const SYNCFS_COST: Duration = Duration::from_micros(3_500);

/// The crossover stays between these, whatever was measured: below, one slow disk access would decide; above, a syncfs that
/// was slow once (because of what others had written) would never be tried again.
const CROSSOVER_MIN: usize = 8;
const CROSSOVER_MAX: usize = 512;

/// A measurement moves an estimate by a share of 1/8.
const WEIGHT: u32 = 8;

/// Each group that was not synced by syncfs moves the estimate of that back to where it began by a share of 1/64.
const FORGET: u32 = 64;

/// How a group is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Each file and directory by itself, several at once.
    Files,
    /// All at once.
    Filesystem,
}

/// When the next group may be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Now,
    At(Mono),
    /// Not before one that runs has ended.
    WhenOneEnds,
}

/// A group that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    pub how: How,
    /// Files and directories.
    pub files: usize,
    pub since: Mono,
}

/// The rules, and the costs as far as they are known.
#[derive(Debug)]
pub struct CommitGroups {
    file_cost: Duration,
    syncfs_cost: Duration,
    /// Whether the file system has a syncfs that can be relied on, and it never failed.
    syncfs: bool,
    /// The crossover is never above this.
    crossover_max: usize,
    running: Vec<Running>,
}

impl CommitGroups {
    pub fn new(syncfs: bool) -> Self {
        let crossover_max = CROSSOVER_MAX;
        let (file_cost, syncfs_cost, running) = (FILE_COST, SYNCFS_COST, Vec::new());
        Self { file_cost, syncfs_cost, syncfs, crossover_max, running }
    }

    /// As if a syncfs cost less from so many files on, whatever is measured: so that a test reaches it.
    #[must_use]
    pub fn with_crossover_max(mut self, files: u64) -> Self {
        self.crossover_max =
            usize::try_from(files).map_or(CROSSOVER_MAX, |files| files.min(CROSSOVER_MAX));
        self
    }

    /// From this many files on a syncfs costs less; `None` if there is none.
    pub fn crossover(&self) -> Option<usize> {
        let file = self.file_cost.as_nanos().max(1);
        let files = usize::try_from(self.syncfs_cost.as_nanos() / file).unwrap_or(usize::MAX);
        self.syncfs.then(|| files.max(CROSSOVER_MIN).min(self.crossover_max))
    }

    /// A syncfs has failed. What it could not write is told by each file alone from now on, so none is asked again.
    pub fn syncfs_failed(&mut self) {
        self.syncfs = false;
    }

    /// When the next group may be closed.
    pub fn next(&self, now: Mono) -> Next {
        match self.running.first() {
            None => Next::Now,
            Some(_) if self.running.len() >= RUNNING_MAX => Next::WhenOneEnds,
            Some(first) if now.since(first.since) >= OVERTAKE_AFTER => Next::Now,
            Some(first) => Next::At(first.since + OVERTAKE_AFTER),
        }
    }

    /// A group of so many files is closed; how it is made durable.
    pub fn close(&mut self, files: usize, now: Mono) -> Running {
        let one_runs = self.running.iter().any(|group| group.how == How::Filesystem);
        let is_worth_it = self.crossover().is_some_and(|crossover| files >= crossover);
        let how = if is_worth_it && !one_runs { How::Filesystem } else { How::Files };
        let group = Running { how, files, since: now };
        self.running.push(group);
        group
    }

    /// A group has ended. Only what ran alone tells what it costs.
    pub fn ended(&mut self, group: Running, now: Mono) {
        let ran_alone = self.running.len() == 1;
        if let Some(at) = self.running.iter().position(|running| *running == group) {
            self.running.remove(at);
        }
        let took = now.since(group.since);
        if took.is_zero() {
            // The clock is too coarse, or stands still: nothing was measured.
            return;
        }
        match group.how {
            How::Filesystem => self.syncfs_cost = nearer(self.syncfs_cost, took, WEIGHT),
            How::Files if group.files >= CROSSOVER_MIN => {
                self.syncfs_cost = nearer(self.syncfs_cost, SYNCFS_COST, FORGET);
                if ran_alone {
                    let files = u32::try_from(group.files).unwrap_or(u32::MAX);
                    self.file_cost = nearer(self.file_cost, took / files, WEIGHT);
                }
            }
            How::Files => {}
        }
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        assert!(self.running.len() <= RUNNING_MAX, "{self:?}");
        let by_syncfs = self.running.iter().filter(|group| group.how == How::Filesystem);
        assert!(by_syncfs.count() <= 1, "{self:?}");
    }
}

/// `from`, moved by one `share`th of the way to `to`.
fn nearer(from: Duration, to: Duration, share: u32) -> Duration {
    (from * (share - 1) + to) / share
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Mono = Mono::from_millis;

    /// Runs one group alone and says how.
    fn run(groups: &mut CommitGroups, files: usize, at: u64, took: u64) -> How {
        let group = groups.close(files, MS(at));
        groups.check();
        groups.ended(group, MS(at + took));
        group.how
    }

    #[test]
    fn few_files_are_synced_each_and_many_at_once() {
        let mut groups = CommitGroups::new(true);
        assert_eq!(groups.crossover(), Some(24));
        for (files, how) in [
            (0, How::Files),
            (1, How::Files),
            (23, How::Files),
            (24, How::Filesystem),
            (5_000, How::Filesystem),
        ] {
            assert_eq!(groups.close(files, MS(0)).how, how, "{files}");
            groups = CommitGroups::new(true);
        }
        let mut without = CommitGroups::new(false);
        assert_eq!((without.crossover(), without.close(5_000, MS(0)).how), (None, How::Files));
    }

    #[test]
    fn the_crossover_follows_what_groups_took() {
        let table = [
            (How::Filesystem, 600, 2_000, 3, CROSSOVER_MAX, "somebody else's dirty pages"),
            (How::Filesystem, 600, 30, 99, 206, "a syncfs of 30 ms"),
            (How::Files, 20, 200, 50, CROSSOVER_MIN, "a disk whose commits take 10 ms"),
            (How::Files, 20, 1, 50, 69, "a disk that syncs a file in 50 us"),
            (How::Files, 7, 700, 50, 24, "a few files tell nothing of many"),
        ];
        for (how, files, took, times, expected, what) in table {
            let mut groups = CommitGroups::new(true);
            for _ in 0..times {
                let group = Running { how, files, since: MS(0) };
                groups.running.push(group);
                groups.ended(group, MS(took));
            }
            assert_eq!(groups.crossover(), Some(expected), "{what}");
        }
    }

    #[test]
    fn a_slow_syncfs_is_tried_again_after_a_while() {
        let mut groups = CommitGroups::new(true);
        run(&mut groups, 200, 0, 2_000);
        let mut tries = 0;
        // A group of 200 files takes 29 ms as long as they are synced one by one.
        while run(&mut groups, 200, 0, 29) == How::Files {
            tries += 1;
        }
        assert!((50..500).contains(&tries), "{tries}");
    }

    #[test]
    fn a_slow_group_is_overtaken_by_one_other() {
        let mut groups = CommitGroups::new(true);
        assert_eq!(groups.next(MS(5)), Next::Now);
        let slow = groups.close(100, MS(5));
        assert_eq!(slow.how, How::Filesystem);
        assert_eq!(groups.next(MS(6)), Next::At(MS(15)));
        assert_eq!(groups.next(MS(15)), Next::Now);
        let busy = groups.close(100, MS(15));
        assert_eq!(busy.how, How::Files, "errors of a syncfs are told once: never two");
        groups.check();
        assert_eq!(groups.next(MS(1_000)), Next::WhenOneEnds);
        groups.ended(busy, MS(20));
        assert_eq!(groups.next(MS(1_000)), Next::Now);
        groups.ended(slow, MS(1_000));
        assert_eq!(groups.next(MS(1_000)), Next::Now);
    }

    #[test]
    fn after_a_failed_syncfs_each_file_is_asked() {
        let mut groups = CommitGroups::new(true);
        let failed = groups.close(100, MS(0));
        groups.syncfs_failed();
        groups.ended(failed, MS(1));
        assert_eq!((groups.crossover(), run(&mut groups, 5_000, 0, 1)), (None, How::Files));
    }
}
