//! Performing what the files' machines ask for: open, close, look, start anew, let go.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tailway_metadata::time::Mono;

use super::{FileKey, ShipError, Shipper};
use crate::event::FilePart;
use crate::machine::identity::{
    FileId, Generation, Head, Kind, Ladder, MARKER_BYTES, Marker, Stat,
};
use crate::machine::ledger::{FileEntry, Record};
use crate::machine::tail_file::{Action, Event, Restart, TailFile};
use crate::output::inbox::LaneId;
use crate::output::lane::Lapse;
use crate::tail::files::{OpenFile, TailFiles, read_full};

/// Open files that are asked in a row whether they need their descriptor.
const EVICT_TRIES: usize = 16;

/// Most files that are open at a time: half of what the process may have.
pub(super) fn open_files_max(files: &dyn TailFiles) -> usize {
    let limit = files.descriptors_max();
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(OPEN_FILES_MAX);
    (limit / 2).clamp(16, OPEN_FILES_MAX)
}

const OPEN_FILES_MAX: usize = 1_024;

/// The bytes before the read offset, to compare with what is there at the next read.
#[derive(Debug, Clone, Default)]
pub(super) struct Before(Vec<u8>);

impl Before {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(bytes[bytes.len().saturating_sub(MARKER_BYTES)..].to_vec())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn marker(&self) -> Marker {
        Marker::of(&self.0)
    }
}

/// A file that is followed: its machine, and what the machine does not need to know.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) id: FileId,
    pub(super) path: PathBuf,
    pub(super) generation: Generation,
    pub(super) ordinal: u64,
    /// Where it came from, as its events say.
    pub(super) origin: PathBuf,
    /// How its events start; while it is open.
    pub(super) part: Option<FilePart>,
    pub(super) input: usize,
    pub(super) machine: TailFile,
    pub(super) descriptor: Option<Box<dyn OpenFile>>,
    /// Its place in the order of opening.
    pub(super) opened: u64,
    pub(super) before: Before,
    pub(super) head: Head,
    /// As much of the head as the journal knows.
    pub(super) head_saved: u32,
    pub(super) lane: Option<LaneId>,
    pub(super) scheduled: Option<Mono>,
    pub(super) trouble: Option<String>,
    /// Why lines of it may come twice, if they may.
    pub(super) repeated: Option<Lapse>,
    /// How often in a row it was not found where it should be.
    pub(super) misses: u32,
    /// Bytes that were truncated away before they were read, since it is followed.
    pub(super) lost: u64,
}

/// A new generation id: random, so that no two hosts have the same.
pub(super) fn fresh_generation() -> Generation {
    Generation(tailway_runtime::uuid().as_u128())
}

/// Opens a file for reading and says what it is.
pub(super) fn open(files: &dyn TailFiles, path: &Path) -> io::Result<(Box<dyn OpenFile>, Stat)> {
    let file = files.open(path)?;
    let stat = file.stat()?;
    Ok((file, stat))
}

impl Shipper {
    /// Tells a file's machine something and performs what it asks for, and what follows from that.
    pub(super) fn tell(&mut self, key: FileKey, event: Event) -> Result<(), ShipError> {
        self.feed(key, event);
        self.perform_all()
    }

    fn perform_all(&mut self) -> Result<(), ShipError> {
        while let Some((key, action)) = self.actions.pop_front() {
            self.perform(key, action)?;
        }
        Ok(())
    }

    /// Tells without performing: for use inside of an action, whose performer goes on with it.
    pub(super) fn feed(&mut self, key: FileKey, event: Event) {
        let now = self.clock.mono();
        let Some(file) = self.files.get_mut(&key) else { return };
        let mut out = Vec::new();
        file.machine.on_event(event, now, &mut out);
        tailway_faults::verify(|| file.machine.check());
        let deadline = file.machine.deadline();
        if deadline != file.scheduled {
            if let Some(at) = file.scheduled {
                self.timers.remove(&(at, key));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, key));
            }
            file.scheduled = deadline;
        }
        self.actions.extend(out.into_iter().map(|action| (key, action)));
    }

    fn perform(&mut self, key: FileKey, action: Action) -> Result<(), ShipError> {
        match action {
            Action::Open => self.open_file(key),
            Action::Close => self.close_file(key),
            Action::Observe => self.observe(key),
            Action::Read => self.turns.push_back(key),
            Action::Verify => self.verify(key),
            Action::TakeRest => self.take_rest(key)?,
            Action::StartGeneration(why) => self.start_generation(key, why)?,
            Action::CutShort { unread } => self.note_lost(key, unread, "its end was cut off"),
            Action::Forget { gone } => self.forget(key, gone)?,
        }
        Ok(())
    }

    /// Opens what waits for a descriptor, as far as there are some.
    pub(super) fn open_waiting(&mut self) -> Result<(), ShipError> {
        for _ in 0..self.want_open.len() {
            let Some(key) = self.want_open.pop_front() else { break };
            self.actions.push_back((key, Action::Open));
        }
        self.perform_all()
    }

    fn close_file(&mut self, key: FileKey) {
        let Some(file) = self.files.get_mut(&key) else { return };
        if file.descriptor.take().is_some() {
            file.part = None;
            self.opened.remove(&file.opened);
            self.changed = true;
        }
    }

    /// Makes room for another descriptor by closing a file that needs none at the moment.
    fn evict(&mut self) -> bool {
        let oldest: Vec<FileKey> = self.opened.values().copied().take(EVICT_TRIES).collect();
        for key in oldest {
            self.feed(key, Event::Evicted);
            // What it asks for now is to be closed, or nothing.
            if self.actions.back() == Some(&(key, Action::Close)) {
                self.actions.pop_back();
                self.close_file(key);
                return true;
            }
            self.note_opened(key);
        }
        false
    }

    /// The file is the one that was opened (or needed its descriptor) last.
    fn note_opened(&mut self, key: FileKey) {
        let Some(file) = self.files.get_mut(&key) else { return };
        if self.opened.get(&file.opened) == Some(&key) {
            self.opened.remove(&file.opened);
        }
        file.opened = self.opened_next;
        self.opened.insert(file.opened, key);
        self.opened_next += 1;
    }

    fn open_file(&mut self, key: FileKey) {
        if self.opened.len() >= self.open_files_max && !self.evict() {
            self.want_open.push_back(key);
            return;
        }
        let Some(file) = self.files.get_mut(&key) else { return };
        let mut is_open = false;
        let event = match open(self.source.as_ref(), &file.path) {
            Ok((descriptor, stat)) if stat.id == file.id && stat.kind == Kind::Regular => {
                file.descriptor = Some(descriptor);
                file.trouble = None;
                let format = self.config.inputs[file.input].format;
                file.part = Some(FilePart::new(format, file.origin.as_os_str().as_bytes()));
                is_open = true;
                Event::Opened(stat.look())
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let trouble = format!("cannot open it: {error}");
                if file.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(path = %file.path.display(), %error, "cannot open a file; retrying");
                    file.trouble = Some(trouble);
                }
                Event::Unreadable
            }
            // Gone, or another file has the name now.
            _ => {
                self.look_again_for(key);
                Event::OpenMissed
            }
        };
        if is_open {
            self.note_opened(key);
        }
        self.changed = true;
        self.feed(key, event);
    }

    /// The file's path does not lead to it any more: its directory is listed again.
    fn look_again_for(&mut self, key: FileKey) {
        let Some(file) = self.files.get(&key) else { return };
        if let Some(dir) = file.path.parent() {
            self.dirty.insert(dir.to_path_buf());
            self.dirty_names.insert(file.path.clone());
        }
    }

    fn observe(&mut self, key: FileKey) {
        let Some(file) = self.files.get(&key) else { return };
        let stat = match &file.descriptor {
            Some(descriptor) => descriptor.stat(),
            None => self.source.stat(&file.path),
        };
        match stat {
            Ok(stat) if stat.id == file.id => {
                self.feed(key, Event::Observed(stat.look()));
            }
            _ => self.look_again_for(key),
        }
    }

    /// Compares what stands before the read offset with what was read there.
    fn verify(&mut self, key: FileKey) {
        let Some(file) = self.files.get(&key) else { return };
        let Some(descriptor) = &file.descriptor else { return };
        let before = file.before.bytes();
        let mut found = vec![0; before.len()];
        let at = file.machine.read() - before.len() as u64;
        let read = read_full(descriptor.as_ref(), at, &mut found);
        if read.is_ok_and(|read| found[..read] != *before) {
            self.feed(key, Event::Rewritten);
        }
    }

    /// Truncated or rewritten: what is in the file now is another generation.
    fn start_generation(&mut self, key: FileKey, why: Restart) -> Result<(), ShipError> {
        let Some(file) = self.files.get_mut(&key) else { return Ok(()) };
        let old = file.generation;
        let (reason, unread) = match why {
            Restart::Truncated { size, read, unread } => {
                (format!("it has {size} bytes, and {read} were read"), unread)
            }
            Restart::Rewritten { read, unread } => {
                (format!("other bytes stand before offset {read}, which was read"), unread)
            }
        };
        file.generation = fresh_generation();
        file.ordinal += 1;
        file.origin.clone_from(&file.path);
        let format = self.config.inputs[file.input].format;
        file.part = Some(FilePart::new(format, file.origin.as_os_str().as_bytes()));

        file.before = Before::default();
        file.head = Head::default();
        file.head_saved = 0;
        file.repeated = None;
        file.lane = None;
        tracing::info!(
            path = %file.path.display(),
            generation = %file.generation,
            reason,
            "reading a file from its start: it was truncated"
        );
        let generation = file.generation;
        self.by_generation.remove(&old);
        self.by_generation.insert(generation, key);
        self.metrics.generations.inc();
        let entry = self.entry_of(key, 0, Marker::default());
        if let Some(entry) = entry {
            self.registry.record(Record::File(Box::new(entry)))?;
        }
        self.ended.insert(old);
        self.changed = true;
        self.note_lost(key, unread, &reason);
        self.end_generations()
    }

    /// Bytes of a file are gone that nobody read, and that nobody can bring back.
    fn note_lost(&mut self, key: FileKey, bytes: u64, cause: &str) {
        let Some(file) = self.files.get_mut(&key).filter(|_| bytes > 0) else { return };
        self.metrics.bytes_lost.inc_by(bytes);
        file.lost += bytes;
        tracing::warn!(
            path = %file.path.display(),
            bytes,
            cause,
            "a file was truncated before all of it was read, and these bytes are lost; have it rotated \
             by renaming (logrotate: `create` in place of `copytruncate`), and see with \
             `tailway agent files` how far behind the agent is"
        );
        self.changed = true;
    }

    /// The journal's entry of a followed file.
    pub(super) fn entry_of(&self, key: FileKey, offset: u64, marker: Marker) -> Option<FileEntry> {
        let file = self.files.get(&key)?;
        Some(FileEntry {
            generation: file.generation,
            ordinal: file.ordinal,
            id: file.id,
            path: file.path.as_path().into(),
            origin: file.origin.as_path().into(),
            input: self.config.inputs[file.input].id.as_str().into(),
            offset,
            marker,
            head: file.head,
            target: None,
            seen: self.clock.wall(),
            ladder: Ladder::default(),
            rebooted: false,
        })
    }

    /// Forgets generations that are over and of which nothing is on its way any more.
    pub(super) fn end_generations(&mut self) -> Result<(), ShipError> {
        let ledger = self.registry.ledger();
        let is_done = |generation: &Generation| {
            ledger.plans_with(*generation).next().is_none()
                && !self.lanes.iter().any(|lane| lane.holds(*generation))
        };
        let done: Vec<Generation> = self.ended.iter().copied().filter(is_done).collect();
        for generation in done {
            self.ended.remove(&generation);
            if self.registry.ledger().files.contains_key(&generation) {
                self.registry.record(Record::Done { generation })?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, key: FileKey, gone: bool) -> Result<(), ShipError> {
        self.close_file(key);
        let Some(file) = self.files.remove(&key) else { return Ok(()) };
        if let Some(at) = file.scheduled {
            self.timers.remove(&(at, key));
        }
        if self.by_path.get(&file.path) == Some(&key) {
            self.by_path.remove(&file.path);
        }
        if let Some(dir) = file.path.parent().and_then(|dir| self.dirs.get_mut(dir)) {
            dir.files.remove(&key);
        }
        self.by_id.remove(&file.id);
        self.by_generation.remove(&file.generation);
        for lane in &mut self.lanes {
            lane.waiting.remove(&key);
        }
        let unread = file.machine.size().saturating_sub(file.machine.read());
        let path = file.path.display();
        if unread > 0 && !gone {
            self.metrics.bytes_lost.inc_by(unread);
            tracing::warn!(%path, unread, "a file went out of sight before its end was read");
        } else {
            let what = if gone { "deleted" } else { "renamed to a place that is not looked at" };
            tracing::info!(%path, read = file.machine.read(), what, "done with a file");
        }
        if gone {
            self.ended.insert(file.generation);
        }
        self.changed = true;
        self.end_generations()
    }

    /// Gives a file another name.
    pub(super) fn set_path(&mut self, key: FileKey, path: PathBuf) -> Result<(), ShipError> {
        let seen = self.clock.wall();
        let Some(file) = self.files.get_mut(&key) else { return Ok(()) };
        file.misses = 0;
        if file.path == path {
            return Ok(());
        }
        tracing::info!(from = %file.path.display(), to = %path.display(), "a file was renamed");
        let old = std::mem::replace(&mut file.path, path.clone());
        let generation = file.generation;
        if self.by_path.get(&old) == Some(&key) {
            self.by_path.remove(&old);
        }
        if let Some(dir) = old.parent().and_then(|dir| self.dirs.get_mut(dir)) {
            dir.files.remove(&key);
        }
        self.by_path.insert(path.clone(), key);
        self.put_into_dir(key, &path);
        self.changed = true;
        self.registry.record(Record::Path { generation, path, seen })?;
        Ok(())
    }
}
