//! What discovery finds becomes files that are followed; what it misses is looked for by inode.
//!
//! A listing says names and inode numbers. A followed file whose name is gone is looked for under
//! the other names of the listed directories, also under those that fit no pattern, because that
//! is where rotation puts it. Only when it is nowhere has it lost its name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tailway_metadata::time::Mono;

use super::{FileKey, POLLED_SCAN_INTERVAL, ShipError, Shipper};
use crate::config::InputConfig;
use crate::machine::identity::{FileId, Generation, Kind, Stat};
use crate::machine::ledger::{FileEntry, Ledger, Record};
use crate::machine::tail_file::{Event, Name};
use crate::tail::discover::{Found, Listing};
use crate::tail::files::TailFiles;
use crate::tail::watch::{Trust, trust};

/// A directory in which more writes than this are heard of in the window is polled instead.
const HEARD_MAX: u32 = 50;
const HEARD_WINDOW: Duration = Duration::from_secs(1);
/// Listings in a row without a file before it counts as lost.
const MISSES_MAX: u32 = 4;

/// A directory that matters.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) trust: Trust,
    /// Why it is not watched although it could be.
    pub(super) trouble: Option<String>,
    /// A watch reports writes in it; its files are not polled.
    pub(super) armed: bool,
    /// Writes that were heard of in the second that began at `heard_since`.
    heard: u32,
    heard_since: Mono,
    pub(super) files: BTreeSet<FileKey>,
}

impl Dir {
    pub(super) fn is_polled(&self) -> bool {
        self.trust != Trust::Watched || self.trouble.is_some()
    }
}

impl Shipper {
    /// Walks all patterns and looks at each file.
    pub(super) fn full_scan(&mut self) -> Result<(), ShipError> {
        self.calendar.full_scan = self.clock.mono() + self.config.rescan_interval;
        self.metrics.scans.inc();
        self.dirty.clear();
        self.dirty_names.clear();
        let config = Arc::clone(&self.config);
        let found = self.discovery.scan(self.source.as_ref(), &config.inputs);
        self.note_troubles(&found);
        let new_dirs = self.watch_dirs();
        // What came between the listing and the watch is in a second listing.
        let mut found = found;
        if !new_dirs.is_empty() {
            let again = self.discovery.rescan(self.source.as_ref(), &config.inputs, &new_dirs);
            found.listings.retain(|listing| !new_dirs.contains(&listing.dir));
            found.listings.extend(again.listings);
        }
        self.reconcile(&found, true)?;
        self.settle_unsent();
        self.moved.clear();
        self.dirty.append(&mut self.look_again);
        if !self.new_inputs.is_empty() {
            for input in std::mem::take(&mut self.new_inputs) {
                let input = self.config.inputs[input].id.clone();
                self.registry.record(Record::Input { input })?;
            }
        }
        self.expire()?;
        self.changed = true;
        Ok(())
    }

    /// Lists the directories again in which something happened.
    pub(super) fn rescan_dirty(&mut self) -> Result<(), ShipError> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        let dirs = std::mem::take(&mut self.dirty);
        let config = Arc::clone(&self.config);
        let mut found = self.discovery.rescan(self.source.as_ref(), &config.inputs, &dirs);
        let new_dirs = self.watch_dirs();
        if !new_dirs.is_empty() {
            let again = self.discovery.rescan(self.source.as_ref(), &config.inputs, &new_dirs);
            found.listings.retain(|listing| !new_dirs.contains(&listing.dir));
            found.listings.extend(again.listings);
        }
        // A directory that cannot be listed any more has lost its files.
        for dir in dirs {
            if !found.listings.iter().any(|listing| listing.dir == dir) {
                found.listings.push(Listing { dir, entries: Vec::new() });
            }
        }
        self.reconcile(&found, false)?;
        self.dirty_names.clear();
        self.dirty.append(&mut self.look_again);
        self.changed = true;
        Ok(())
    }

    /// Lists the directories again that no watch reports on.
    pub(super) fn mark_polled_dirs(&mut self) {
        let polled = self.dirs.iter().filter(|(_, dir)| dir.is_polled());
        self.dirty.extend(polled.map(|(path, _)| path.clone()));
        self.calendar.polled_scan = self.clock.mono() + POLLED_SCAN_INTERVAL;
    }

    /// What the watches heard.
    pub(super) fn listen_to_watches(&mut self) -> Result<(), ShipError> {
        let heard = self.watches.take();
        if heard.missed {
            self.calendar.full_scan = self.clock.mono();
        }
        for (from, to) in heard.renames {
            let first = self.moved.remove(&from).unwrap_or(from);
            self.moved.insert(to, first);
        }
        for name in heard.names {
            if let Some(dir) = name.parent() {
                self.dirty.insert(dir.to_path_buf());
            }
            if self.dirs.contains_key(&name) {
                // The directory itself came, went or moved: only a walk from above tells.
                self.calendar.full_scan = self.clock.mono();
            }
            self.dirty_names.insert(name);
        }
        for path in heard.written {
            if let Some(dir) = path.parent() {
                self.disarm_if_busy(dir)?;
            }
            if let Some(key) = self.by_path.get(&path) {
                self.tell(*key, Event::Nudged)?;
            }
        }
        Ok(())
    }

    /// Watches for writes where nothing is written, instead of polling.
    pub(super) fn arm_quiet_dirs(&mut self) -> Result<(), ShipError> {
        let is_idle = |key: &FileKey| {
            self.files.get(key).is_some_and(|file| file.machine.is_idle() && file.trouble.is_none())
        };
        let may_arm = |dir: &Dir| !dir.armed && !dir.is_polled() && !dir.files.is_empty();
        let quiet: Vec<PathBuf> = self
            .dirs
            .iter()
            .filter(|(_, dir)| may_arm(dir) && dir.files.iter().all(is_idle))
            .map(|(path, _)| path.clone())
            .collect();
        for path in quiet {
            let armed = self.watches.watch_writes(&path);
            let Some(dir) = self.dirs.get_mut(&path) else { continue };
            if let Err(cause) = armed {
                tracing::warn!(dir = %path.display(), cause, "polling a directory");
                dir.trouble = Some(cause);
                continue;
            }
            dir.armed = true;
            let keys: Vec<FileKey> = dir.files.iter().copied().collect();
            for key in keys {
                self.tell(key, Event::Covered(true))?;
                // What was written between the last look and the watch is seen by this look.
                self.tell(key, Event::Nudged)?;
            }
        }
        Ok(())
    }

    /// Where writes are frequent the watch costs the writer more than polling costs us.
    fn disarm_if_busy(&mut self, path: &Path) -> Result<(), ShipError> {
        let now = self.clock.mono();
        let Some(dir) = self.dirs.get_mut(path).filter(|dir| dir.armed) else { return Ok(()) };
        if now.since(dir.heard_since) >= HEARD_WINDOW {
            dir.heard = 0;
            dir.heard_since = now;
        }
        dir.heard += 1;
        if dir.heard <= HEARD_MAX {
            return Ok(());
        }
        dir.armed = false;
        self.watches.unwatch_writes(path);
        let keys: Vec<FileKey> = dir.files.iter().copied().collect();
        for key in keys {
            self.tell(key, Event::Covered(false))?;
        }
        Ok(())
    }

    /// Watches what matters now and nothing else; returns what is new.
    fn watch_dirs(&mut self) -> BTreeSet<PathBuf> {
        let wanted: BTreeSet<PathBuf> = self.discovery.dirs().map(Path::to_path_buf).collect();
        let gone: Vec<PathBuf> =
            self.dirs.keys().filter(|dir| !wanted.contains(*dir)).cloned().collect();
        for dir in gone {
            self.watches.forget(&dir);
            self.dirs.remove(&dir);
        }
        let mut new = BTreeSet::new();
        for path in wanted {
            let known = self.dirs.contains_key(&path);
            let trust = match self.dirs.get(&path) {
                Some(dir) => dir.trust,
                None => trust(self.source.as_ref(), &path),
            };
            let trouble = match trust {
                Trust::Watched => self.watches.watch_names(&path).err(),
                Trust::Polled(_) => None,
            };
            if let (false, Some(cause)) = (known, &trouble) {
                tracing::warn!(dir = %path.display(), cause, "listing a directory again and again");
            }
            if let (false, Trust::Polled(filesystem)) = (known, trust) {
                tracing::info!(dir = %path.display(), filesystem, "polling a directory");
            }
            if let Some(dir) = self.dirs.get_mut(&path) {
                dir.trouble = trouble;
            } else {
                let dir = Dir {
                    trust,
                    trouble,
                    armed: false,
                    heard: 0,
                    heard_since: Mono::ZERO,
                    files: BTreeSet::new(),
                };
                self.dirs.insert(path.clone(), dir);
                new.insert(path);
            }
        }
        new
    }

    fn note_troubles(&mut self, found: &Found) {
        let mut now = BTreeMap::new();
        for trouble in &found.troubles {
            if self.troubles.get(&trouble.path) != Some(&trouble.cause) {
                let path = trouble.path.display();
                tracing::warn!(%path, cause = trouble.cause, "a pattern leads to nothing here yet");
            }
            now.insert(trouble.path.clone(), trouble.cause.clone());
        }
        self.troubles = now;
    }

    /// Brings the followed files in line with what was listed.
    fn reconcile(&mut self, found: &Found, full: bool) -> Result<(), ShipError> {
        let mut lost = Vec::new();
        for listing in &found.listings {
            self.find_lost(listing, &mut lost);
        }
        // Before anything new is followed: what is known decides what was missed.
        let missed = self.find_missed(found);
        for listing in &found.listings {
            for entry in &listing.entries {
                let Some(input) = entry.input else { continue };
                let path = listing.dir.join(&entry.name);
                let known = self.by_path.get(&path).and_then(|key| self.files.get(key));
                let is_same = known.is_some_and(|file| file.id.ino == entry.ino);
                if is_same && !full && !self.dirty_names.contains(&path) {
                    continue;
                }
                if let Ok(stat) = self.source.stat(&path) {
                    self.found_file(path, stat, input, &lost)?;
                }
            }
        }
        let mut by_ino: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
        if !lost.is_empty() {
            for listing in &found.listings {
                for entry in &listing.entries {
                    by_ino.entry(entry.ino).or_default().push(listing.dir.join(&entry.name));
                }
            }
        }
        for (key, old) in lost {
            let Some(file) = self.files.get(&key) else { continue };
            if file.path != old {
                continue;
            }
            let id = file.id;
            let places = by_ino.get(&id.ino).map(Vec::as_slice).unwrap_or_default();
            let is_it = |path: &&PathBuf| self.source.stat(path).is_ok_and(|stat| stat.id == id);
            match places.iter().find(is_it).cloned() {
                Some(path) => {
                    self.set_path(key, path)?;
                    self.tell(key, Event::NameFound)?;
                    // What was written right before the rename was heard of under the old name.
                    self.tell(key, Event::Nudged)?;
                }
                None => self.missed(key)?,
            }
        }
        if full {
            self.look_at_rotated()?;
            self.adopt_orphans(found)?;
        }
        for (path, origin, stat, input) in missed {
            if !self.by_id.contains_key(&stat.id) {
                tracing::info!(path = %path.display(), origin = %origin.display(),
                    "a file came and was rotated away unseen; reading it where it is now");
                self.follow(path, &stat, input, Some(origin))?;
            }
        }
        self.lose_strays()
    }

    /// Looks at files under names that no pattern takes: a scan passes over them, and what a watch did
    /// not tell of them would never be read.
    fn look_at_rotated(&mut self) -> Result<(), ShipError> {
        let is_taken = |path: &Path| self.config.inputs.iter().any(|input| input.takes(path));
        let rotated = self.files.iter().filter(|(_, file)| !is_taken(&file.path));
        let rotated: Vec<FileKey> = rotated.map(|(key, _)| *key).collect();
        rotated.into_iter().try_for_each(|key| self.tell(key, Event::Nudged))
    }

    /// Files that came and were renamed before they were ever seen under their name: the watch
    /// told of the rename, or what is known of the name says so.
    fn find_missed(&self, found: &Found) -> Vec<(PathBuf, PathBuf, Stat, usize)> {
        let mut newest: Option<BTreeMap<&Path, FileId>> = None;
        let mut missed = Vec::new();
        for listing in &found.listings {
            for entry in listing.entries.iter().filter(|entry| entry.input.is_none()) {
                let path = listing.dir.join(&entry.name);
                if self.by_path.contains_key(&path) {
                    continue;
                }
                let told = self.moved.get(&path).and_then(|first| {
                    let fits = |input: &InputConfig| input.takes(first);
                    Some((first.clone(), self.config.inputs.iter().position(fits)?))
                });
                let guessed = entry.rotated.as_ref().filter(|_| told.is_none());
                let Some((origin, input)) = told.or_else(|| {
                    let (name, input) = guessed?;
                    let newest =
                        newest.get_or_insert_with(|| newest_by_origin(self.registry.ledger()));
                    let origin = listing.dir.join(name);
                    came_after(self.source.as_ref(), &path, newest.get(origin.as_path())?, &origin)
                        .then_some((origin, *input))
                }) else {
                    continue;
                };
                let Ok(stat) = self.source.stat(&path) else { continue };
                let is_known = self.by_id.contains_key(&stat.id)
                    || self.registry.ledger().current(&stat.id).is_some();
                if stat.kind == Kind::Regular && !is_known {
                    missed.push((path, origin, stat, input));
                }
            }
        }
        missed
    }

    /// A file is not where it was, and nowhere else. While names move, a listing may have missed
    /// it, so it is looked for a few times before it counts as lost.
    fn missed(&mut self, key: FileKey) -> Result<(), ShipError> {
        let Some(file) = self.files.get_mut(&key) else { return Ok(()) };
        file.misses += 1;
        if file.misses >= MISSES_MAX {
            return self.tell(key, Event::NameLost);
        }
        if let Some(dir) = file.path.parent() {
            self.look_again.insert(dir.to_path_buf());
        }
        Ok(())
    }

    /// Files in directories that do not matter any more, and that are not where they were.
    fn lose_strays(&mut self) -> Result<(), ShipError> {
        let is_stray =
            |path: &&PathBuf| path.parent().is_none_or(|dir| !self.dirs.contains_key(dir));
        let strays: Vec<FileKey> = self
            .dirty_names
            .iter()
            .filter(is_stray)
            .filter_map(|path| self.by_path.get(path).copied())
            .collect();
        for key in strays {
            let Some(file) = self.files.get(&key) else { continue };
            if !self.source.stat(&file.path).is_ok_and(|stat| stat.id == file.id) {
                self.tell(key, Event::NameLost)?;
            }
        }
        Ok(())
    }

    /// Files of a listed directory that do not have their name any more.
    fn find_lost(&self, listing: &Listing, lost: &mut Vec<(FileKey, PathBuf)>) {
        let Some(dir) = self.dirs.get(&listing.dir) else { return };
        if dir.files.is_empty() {
            return;
        }
        let names: BTreeMap<_, _> = listing.entries.iter().map(|e| (&*e.name, e.ino)).collect();
        for key in &dir.files {
            let Some(file) = self.files.get(key) else { continue };
            let ino = file.path.file_name().and_then(|name| names.get(name));
            let is_there = match ino {
                // A link: only a stat tells.
                Some(0) => self.source.stat(&file.path).is_ok_and(|stat| stat.id == file.id),
                // The number of a removed file is soon used again: then another has the name.
                Some(ino) => *ino == file.id.ino && self.by_path.get(&file.path) == Some(key),
                None => false,
            };
            if !is_there && file.machine.name() != Name::Unlinked {
                lost.push((*key, file.path.clone()));
            }
        }
    }

    fn found_file(
        &mut self,
        path: PathBuf,
        stat: Stat,
        input: usize,
        lost: &[(FileKey, PathBuf)],
    ) -> Result<(), ShipError> {
        if stat.kind != Kind::Regular {
            return Ok(());
        }
        let Some(key) = self.by_id.get(&stat.id).copied() else {
            return self.follow(path, &stat, input, None);
        };
        let Some(file) = self.files.get(&key) else { return Ok(()) };
        if file.path != path {
            let is_lost = lost.iter().any(|(lost, _)| *lost == key);
            if !is_lost && self.source.stat(&file.path).is_ok_and(|other| other.id == stat.id) {
                // Another name of the same file: a link, followed once.
                return Ok(());
            }
            self.set_path(key, path)?;
        }
        self.tell(key, Event::NameFound)?;
        self.tell(key, Event::Observed(stat.look()))
    }

    /// Files that were being read when the agent stopped, and were renamed meanwhile to where no
    /// pattern looks: they are found by their inode, to be read to their end.
    ///
    /// Only in a full scan, which every start and every end of a doubt begins with: nobody becomes an
    /// orphan while the agent follows it. Those that are found nowhere are remembered until
    /// `forget_after`, because they may come back, and may be very many: none is looked at closer.
    fn adopt_orphans(&mut self, found: &Found) -> Result<(), ShipError> {
        let is_followed = |generation: &Generation| {
            self.by_generation.contains_key(generation) || self.ended.contains(generation)
        };
        let files = &self.registry.ledger().files;
        if files.keys().all(is_followed) {
            return Ok(());
        }
        let mut by_ino: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
        for listing in &found.listings {
            for entry in &listing.entries {
                by_ino.entry(entry.ino).or_default().push(listing.dir.join(&entry.name));
            }
        }
        let is_here = |entry: &&FileEntry| by_ino.contains_key(&entry.id.ino);
        let orphans = files.values().map(Box::as_ref);
        let orphans = orphans.filter(|entry| !is_followed(&entry.generation));
        let orphans: Vec<(FileId, Arc<str>)> =
            orphans.filter(is_here).map(|entry| (entry.id, Arc::clone(&entry.input))).collect();
        for (id, input) in orphans {
            let input = self.config.inputs.iter().position(|known| *known.id == *input);
            let (Some(input), Some(places)) = (input, by_ino.get(&id.ino)) else { continue };
            for path in places {
                let Ok(stat) = self.source.stat(path) else { continue };
                if stat.id == id && !self.by_id.contains_key(&stat.id) {
                    self.follow(path.clone(), &stat, input, None)?;
                    break;
                }
            }
        }
        Ok(())
    }

    pub(super) fn put_into_dir(&mut self, key: FileKey, path: &Path) {
        let Some(dir) = path.parent().and_then(|dir| self.dirs.get_mut(dir)) else { return };
        dir.files.insert(key);
        let covered = dir.armed;
        self.feed(key, Event::Covered(covered));
    }

    /// Forgets files that were not seen for a long time.
    fn expire(&mut self) -> Result<(), ShipError> {
        let now = self.clock.wall().0;
        let limit = i64::try_from(self.config.forget_after.as_millis()).unwrap_or(i64::MAX);
        let (mut gone, mut seen) = (Vec::new(), Vec::new());
        let ledger = self.registry.ledger();
        for entry in ledger.files.values() {
            let age = now.saturating_sub(entry.seen.0);
            if self.by_generation.contains_key(&entry.generation) {
                if age > limit / 4 {
                    seen.push((entry.generation, entry.path.to_path_buf()));
                }
            } else if age > limit && ledger.plans_with(entry.generation).next().is_none() {
                gone.push((entry.generation, entry.path.clone()));
            }
        }
        for (generation, path) in seen {
            let seen = self.clock.wall();
            self.registry.record(Record::Path { generation, path, seen })?;
        }
        for (generation, path) in gone {
            tracing::info!(path = %path.display(), "forgetting a file that was not seen for long");
            self.registry.record(Record::Done { generation })?;
        }
        Ok(())
    }
}

/// Whether the file under a rotated form of the name `origin` came after `known`, the newest file
/// that was followed under that name.
///
/// It did if `known` is not there any more, so that rotation renames (where it copies and truncates,
/// the file stays), and if it was born later.
fn came_after(files: &dyn TailFiles, path: &Path, known: &FileId, origin: &Path) -> bool {
    if files.stat(origin).is_ok_and(|stat| stat.id == *known) {
        return false;
    }
    let born = files.stat(path).ok().and_then(|stat| stat.id.birth_ns);
    born.is_some() && born > known.birth_ns
}

/// The file that was born last of those that were followed under each name.
fn newest_by_origin(ledger: &Ledger) -> BTreeMap<&Path, FileId> {
    let mut newest: BTreeMap<&Path, FileId> = BTreeMap::new();
    for entry in ledger.files.values() {
        let known = newest.entry(&entry.origin).or_insert(entry.id);
        if entry.id.birth_ns > known.birth_ns {
            *known = entry.id;
        }
    }
    newest
}
