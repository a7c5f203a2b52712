//! One file's life: found, grown, rotated, truncated, deleted, let go.
//!
//! A file is an inode, not a path. Rotation changes its name and nothing else, so it is read on
//! through the descriptor (or its new name) until its end; a truncation ends one *generation* of
//! its bytes and starts the next at offset 0. The driver performs what this machine asks for and
//! reports what came of it.
//!
//! Invariants: `acked <= read <= size seen`; a generation only ever ends by truncation or by the
//! file's end; a file that has no name is forgotten only when everything in it was acknowledged.

use tailway_metadata::time::Mono;

use super::lines::Lines;
use super::poll::PollPolicy;

/// How the file can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// By a path that discovery knows.
    Known,
    /// Only by its descriptor: renamed to a place that is not looked at.
    Lost,
    /// Only by its descriptor: deleted.
    Unlinked,
}

/// What the kernel says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub size: u64,
    pub links: u64,
    /// When it was last written to.
    pub written_ns: i64,
}

/// Why a new generation starts at offset 0. `unread`: bytes that are known to have stood behind what
/// was read of the one before, and are gone; there may have been more that nobody saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The file is shorter than what was already read.
    Truncated { size: u64, read: u64, unread: u64 },
    /// The bytes before the read offset are not those that were read.
    Rewritten { read: u64, unread: u64 },
}

/// What happened to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The descriptor is open, and is the file that was meant.
    Opened(Look),
    /// The path leads nowhere, or to another file: discovery has to look again.
    OpenMissed,
    /// The file cannot be opened now (rights, descriptors), or, in place of a read, not be read.
    Unreadable,
    /// `fstat` of the descriptor, or `stat` of the path if there is none.
    Observed(Look),
    /// A read was done and the lines taken; `bytes` is what it brought that was not looked at before.
    Read {
        bytes: u64,
    },
    /// In place of a read, or as the answer to `Verify`: what stands before the read offset is not what was read there.
    Rewritten,
    /// Its descriptor is wanted for another file.
    Evicted,
    /// A watch says that the file may have changed.
    Nudged,
    /// A watch on the directory now reports (or no longer reports) each change.
    Covered(bool),
    /// Discovery found a path for the file, or lost it.
    NameFound,
    NameLost,
    /// `true`, in place of a read or of the rest: the output has no room. `false`: it has again.
    Blocked(bool),
    /// Everything before `to` of the current generation is acknowledged.
    Acked {
        to: u64,
    },
    /// The deadline passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Open,
    Close,
    /// Ask for size and link count.
    Observe,
    /// There is something to read: line up for a turn.
    Read,
    /// It was written to and is as long as before: are the bytes before the read offset the same?
    Verify,
    /// Hand out what stands behind the last line end as a line: nobody will finish it.
    TakeRest,
    /// Give the file's bytes from offset 0 a new generation id.
    StartGeneration(Restart),
    /// The file lost its end, so many bytes that were not read. It is read on.
    CutShort {
        unread: u64,
    },
    /// The file is done with. `gone`: it no longer exists, so nothing need be remembered.
    Forget {
        gone: bool,
    },
}

/// What the file is doing, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Idle,
    Reading,
    Waiting,
    Blocked,
    Rotated,
    Deleted,
    Unreadable,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Reading => "reading",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Rotated => "rotated",
            Self::Deleted => "deleted",
            Self::Unreadable => "unreadable",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descriptor {
    Closed,
    /// Asked for.
    Opening,
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    None,
    /// Asked for.
    LinedUp,
    /// Nothing is asked for until the output has room.
    Blocked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    None,
    /// The rest without a line end was asked for: a file without a name has no more to give.
    RestAsked,
    Forgotten,
}

/// The machine of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailFile {
    policy: PollPolicy,
    line_bytes_max: usize,
    pub lines: Lines,
    acked: u64,
    size: u64,
    /// So long it was when its bytes were last found to be those that were read.
    proven: u64,
    name: Name,
    descriptor: Descriptor,
    turn: Turn,
    ending: Ending,
    /// The last try to open or read it failed.
    failed: bool,
    /// A watch reports each change.
    covered: bool,
    /// It was written to without getting longer.
    suspect: bool,
    written_ns: Option<i64>,
    grown_at: Mono,
    next_look: Option<Mono>,
}

impl TailFile {
    /// A file to be read from `offset` on, all before it being acknowledged.
    pub fn new(offset: u64, line_bytes_max: usize, policy: PollPolicy, now: Mono) -> Self {
        Self {
            policy,
            line_bytes_max,
            lines: Lines::new(offset, line_bytes_max),
            acked: offset,
            size: offset,
            proven: offset,
            name: Name::Known,
            descriptor: Descriptor::Closed,
            turn: Turn::None,
            ending: Ending::None,
            failed: false,
            covered: false,
            suspect: false,
            written_ns: None,
            grown_at: now,
            next_look: Some(now),
        }
    }

    pub fn on_event(&mut self, event: Event, now: Mono, out: &mut Vec<Action>) {
        if self.ending == Ending::Forgotten {
            return;
        }
        match event {
            Event::Opened(look) => {
                self.descriptor = Descriptor::Open;
                self.failed = false;
                self.observed(look, now, out);
            }
            Event::OpenMissed => {
                // Discovery looks for the name, and says if it is lost.
                self.descriptor = Descriptor::Closed;
                self.next_look = Some(now + self.policy.interval(now.since(self.grown_at)));
            }
            Event::Unreadable => {
                if self.descriptor == Descriptor::Opening {
                    self.descriptor = Descriptor::Closed;
                }
                self.turn = Turn::None;
                self.failed = true;
                self.next_look = Some(now + self.policy.interval_max);
            }
            Event::Observed(look) => self.observed(look, now, out),
            Event::Read { bytes } => self.after_read(bytes, now, out),
            Event::Rewritten => {
                let read = self.lines.line_start();
                // What was seen of its size since may be that of the new bytes.
                let unread = self.proven.saturating_sub(read);
                self.turn = Turn::None;
                self.restart(Restart::Rewritten { read, unread }, now, out);
                out.push(Action::Observe);
            }
            Event::Evicted => {
                if self.is_open() && self.name == Name::Known && self.is_settled() {
                    self.close(now, out);
                }
            }
            Event::Nudged => out.push(Action::Observe),
            Event::Covered(covered) => {
                self.covered = covered;
                self.schedule(now);
            }
            Event::NameFound => {
                if self.name == Name::Lost {
                    self.name = Name::Known;
                    self.schedule(now);
                }
            }
            Event::NameLost => {
                // By descriptor the link count tells later whether it was deleted.
                self.lose_name(now, out);
            }
            Event::Blocked(blocked) => {
                if blocked {
                    self.turn = Turn::Blocked;
                    self.ending = Ending::None;
                } else if self.turn == Turn::Blocked {
                    self.turn = Turn::None;
                    self.line_up(out);
                }
                self.schedule(now);
            }
            Event::Acked { to } => {
                assert!(to >= self.acked && to <= self.lines.line_start(), "{to}: {self:?}");
                self.acked = to;
                if self.name != Name::Known {
                    self.last_look(now, out);
                }
            }
            Event::Tick => self.tick(now, out),
        }
    }

    /// When to call with `Tick`.
    pub fn deadline(&self) -> Option<Mono> {
        self.next_look
    }

    pub fn read(&self) -> u64 {
        self.lines.line_start()
    }

    pub fn acked(&self) -> u64 {
        self.acked
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn name(&self) -> Name {
        self.name
    }

    pub fn is_open(&self) -> bool {
        self.descriptor == Descriptor::Open
    }

    /// True if it waits for its turn to read.
    pub fn is_lined_up(&self) -> bool {
        self.turn == Turn::LinedUp
    }

    /// True if a watch on the directory may take over from polling.
    pub fn is_idle(&self) -> bool {
        self.descriptor == Descriptor::Closed && self.name == Name::Known
    }

    pub fn state(&self) -> State {
        match self.name {
            _ if self.failed => State::Unreadable,
            Name::Known if self.turn == Turn::Blocked && self.lines.wants(self.size) => {
                State::Blocked
            }
            Name::Known if self.is_lined_up() => State::Reading,
            Name::Known if self.descriptor != Descriptor::Closed => State::Waiting,
            Name::Known => State::Idle,
            Name::Lost => State::Rotated,
            Name::Unlinked => State::Deleted,
        }
    }

    fn observed(&mut self, look: Look, now: Mono, out: &mut Vec<Action>) {
        let Look { size, links, written_ns } = look;
        if links == 0 && self.name != Name::Unlinked {
            self.name = Name::Unlinked;
        }
        if size < self.lines.scanned() {
            let read = self.lines.line_start();
            let unread = self.size.saturating_sub(read);
            self.restart(Restart::Truncated { size, read, unread }, now, out);
        } else if size < self.size {
            out.push(Action::CutShort { unread: self.size - size });
            self.proven = self.proven.min(size);
            // It may be more than its end.
            self.suspect = size > 0;
        }
        if size != self.size {
            self.size = size;
            self.grown_at = now;
            self.ending = Ending::None;
        } else if self.written_ns.is_some_and(|before| before != written_ns) && size > 0 {
            self.suspect = true;
        }
        self.written_ns = Some(written_ns);
        self.line_up(out);
        self.let_go(now, out);
        self.schedule(now);
    }

    /// Asks for a turn to read, or for the descriptor that is needed for it.
    fn line_up(&mut self, out: &mut Vec<Action>) {
        let wants = self.lines.wants(self.size);
        if self.turn != Turn::None || !(wants || self.suspect) {
            return;
        }
        if self.descriptor == Descriptor::Open {
            self.suspect = false;
            if wants {
                // Reading compares too.
                self.turn = Turn::LinedUp;
                out.push(Action::Read);
            } else {
                out.push(Action::Verify);
            }
        } else if self.descriptor == Descriptor::Closed && self.name == Name::Known {
            self.descriptor = Descriptor::Opening;
            out.push(Action::Open);
        }
    }

    fn after_read(&mut self, bytes: u64, now: Mono, out: &mut Vec<Action>) {
        self.turn = Turn::None;
        if bytes == 0 {
            // Shorter than it was a moment ago.
            out.push(Action::Observe);
        } else {
            self.size = self.size.max(self.lines.scanned());
            self.proven = self.size;
            self.grown_at = now;
            self.line_up(out);
        }
        self.schedule(now);
    }

    fn restart(&mut self, why: Restart, now: Mono, out: &mut Vec<Action>) {
        self.lines = Lines::new(0, self.line_bytes_max);
        self.acked = 0;
        self.size = 0;
        self.proven = 0;
        self.suspect = false;
        self.grown_at = now;
        self.next_look = Some(now);
        out.push(Action::StartGeneration(why));
    }

    fn lose_name(&mut self, now: Mono, out: &mut Vec<Action>) {
        if self.name != Name::Known {
            return;
        }
        self.name = Name::Lost;
        self.last_look(now, out);
        self.schedule(now);
    }

    /// A file without a name ends right after a look at it, so that what was written just before
    /// is not left behind.
    fn last_look(&mut self, now: Mono, out: &mut Vec<Action>) {
        if self.is_open() {
            out.push(Action::Observe);
        } else {
            self.let_go(now, out);
        }
    }

    fn tick(&mut self, now: Mono, out: &mut Vec<Action>) {
        if self.next_look.is_none_or(|at| at > now) {
            return;
        }
        let quiet = now.since(self.grown_at);
        let is_idle = self.is_settled() && quiet >= self.policy.idle_after;
        if self.is_open() && self.name == Name::Known && is_idle {
            // One last look comes after the watch took over.
            return self.close(now, out);
        }
        if self.failed {
            self.failed = false;
        }
        out.push(Action::Observe);
        self.schedule(now);
    }

    /// Nothing is to be read at the moment.
    fn is_settled(&self) -> bool {
        !self.lines.wants(self.size) && !self.suspect && !self.is_lined_up()
    }

    fn close(&mut self, now: Mono, out: &mut Vec<Action>) {
        self.descriptor = Descriptor::Closed;
        out.push(Action::Close);
        self.schedule(now);
    }

    /// Ends the life of a file that nobody can name once all in it is read and acknowledged.
    fn let_go(&mut self, now: Mono, out: &mut Vec<Action>) {
        if self.name == Name::Known || self.is_lined_up() {
            return;
        }
        if self.is_open() {
            let read_all = !self.lines.wants(self.size);
            let quiet = now.since(self.grown_at) >= self.policy.nameless_hold;
            if !read_all || !quiet {
                return;
            }
            if self.name == Name::Unlinked && self.lines.partial() > 0 {
                if self.ending == Ending::None {
                    self.ending = Ending::RestAsked;
                    out.push(Action::TakeRest);
                }
                return;
            }
        }
        if self.acked < self.lines.line_start() {
            return;
        }
        if self.is_open() {
            self.descriptor = Descriptor::Closed;
            out.push(Action::Close);
        }
        self.ending = Ending::Forgotten;
        self.next_look = None;
        out.push(Action::Forget { gone: self.name == Name::Unlinked });
    }

    fn schedule(&mut self, now: Mono) {
        if self.ending == Ending::Forgotten {
            return;
        }
        let quiet = now.since(self.grown_at);
        self.next_look = if self.failed {
            self.next_look
        } else if self.is_lined_up()
            || self.descriptor == Descriptor::Opening
            || (self.covered && !self.is_open())
        {
            None
        } else if self.name != Name::Known && !self.is_open() {
            // Only an acknowledgement can bring it on.
            None
        } else {
            let interval = self.policy.interval(quiet);
            let is_blocked = self.turn == Turn::Blocked;
            let least =
                if is_blocked { self.policy.interval_blocked } else { self.policy.interval_min };
            Some(now + interval.max(least))
        };
    }

    /// Panics if an invariant is broken.
    pub fn check(&self) {
        self.lines.check();
        assert!(self.acked <= self.lines.line_start(), "acked beyond read: {self:?}");
        assert!(self.lines.scanned() <= self.size, "read beyond the size: {self:?}");
        assert!(!self.is_lined_up() || self.is_open(), "a turn without a descriptor: {self:?}");
        assert!(
            self.ending == Ending::Forgotten
                || self.covered
                || self.is_lined_up()
                || self.descriptor == Descriptor::Opening
                || self.next_look.is_some()
                || (self.name != Name::Known && !self.is_open()),
            "nothing will ever wake it: {self:?}"
        );
        if self.ending == Ending::Forgotten {
            assert_eq!(self.acked, self.lines.line_start(), "forgotten before its acks: {self:?}");
        }
    }
}

#[cfg(test)]
#[path = "tail_file_tests.rs"]
mod tests;
