//! Building a batch of an earlier process again, from its plan and the bytes of the files.
//!
//! It is sent under its old sequences, and a broker that has those already keeps what it has. So it
//! must be the same lines in as many records, or a line would be lost for good: the configuration,
//! the files and the hash of the lines must be those of the plan. Only what is not a line may
//! differ: the time of reading, the sender's ephemeral id, how files take turns.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Shipper;
use super::files::open;
use super::read::entry_of;
use crate::event::FilePart;
use crate::machine::identity::{Kind, Stat, Verdict, judge};
use crate::machine::ledger::{FileEntry, Plan, Range, record_count};
use crate::machine::lines::Lines;
use crate::output::parcel::{Buffer, Parcel};
use crate::tail::files::{OpenFile, read_full};

/// No batch was made of more bytes.
const BYTES_MAX: u64 = 128 << 20;

impl Shipper {
    /// The batch of the plan, or why it cannot be built as it was.
    pub(super) fn rebuild(&mut self, plan: &Plan) -> Result<Parcel, String> {
        if plan.pipeline != self.pipeline_of(&plan.ranges) {
            return Err("the configuration makes other events of its lines now".to_owned());
        }
        let Some(lines) = plan.lines else {
            return Err("the journal does not say what its lines were".to_owned());
        };
        let bytes = plan
            .ranges
            .iter()
            .fold(0_u64, |sum, range| sum.saturating_add(range.to.saturating_sub(range.from)));
        if bytes > BYTES_MAX {
            return Err(format!("the journal says that it is made of {bytes} bytes"));
        }
        self.writer.set_time(self.clock.wall());
        let mut buffer = Buffer::default();
        for range in &plan.ranges {
            self.refill(&mut buffer, range)?;
            buffer.mark(range.generation, range.marker);
        }
        let parcel = buffer.finish(&mut self.builder).map_err(|error| error.to_string())?;
        let count = record_count(plan.first_sequence, plan.last_sequence);
        if (parcel.count, parcel.lines_hash()) != (count, Some(lines))
            || parcel.ranges != plan.ranges
        {
            return Err("other lines are in its files now".to_owned());
        }
        Ok(parcel)
    }

    /// Puts the lines of a range into the buffer.
    fn refill(&self, buffer: &mut Buffer, range: &Range) -> Result<(), String> {
        let entry = self.registry.ledger().files.get(&range.generation);
        let Some(entry) = entry else { return Err("one of its files is forgotten".to_owned()) };
        let input = self.config.inputs.iter().find(|input| *input.id == *entry.input);
        let Some(input) = input else { return Err("an input of it is not there now".to_owned()) };
        let path = entry.path.display();
        let (file, stat) = self.open_generation(entry)?;
        let failed = |error: io::Error| format!("cannot read {path}: {error}");
        let verdict = judge(&entry.saved(), &stat, |at, len| {
            let mut bytes = vec![0; len];
            let read = read_full(file.as_ref(), at, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes)
        });
        let verdict = verdict.map_err(failed)?;
        if verdict != Verdict::Same {
            return Err(format!("{path}: {}", verdict.reason()));
        }
        if range.from >= range.to || range.to > stat.size {
            return Err(format!("{path} has {} bytes and had {}", stat.size, range.to));
        }
        let len = usize::try_from(range.to - range.from).unwrap_or_default();
        let mut bytes = vec![0; len];
        let read = read_full(file.as_ref(), range.from, &mut bytes).map_err(failed)?;
        bytes.truncate(read);
        let part = FilePart::new(input.format, entry.origin.as_os_str().as_bytes());
        let at = self.clock.wall();
        let mut lines = Lines::new(range.from, input.line_bytes_max);
        let mut put = |line| {
            let record = entry_of(range.generation, &line, part.format(), at);
            buffer.append(record, |out| self.writer.write(out, &part, line.offset, line.text));
        };
        lines.take(range.from, &bytes, || true, &mut put);
        // It ended in the middle of a line that was too long, or with a file's last line.
        let rest = usize::try_from(lines.text_start() - range.from).unwrap_or(usize::MAX);
        if let Some(line) = lines.take_rest(bytes.get(rest..).unwrap_or_default()) {
            put(line);
        }
        Ok(())
    }

    /// Opens the file of a generation that is not followed: where it was, or where it is now.
    fn open_generation(&self, entry: &FileEntry) -> Result<(Box<dyn OpenFile>, Stat), String> {
        let source = self.source.as_ref();
        let is_it = |opened: &io::Result<(Box<dyn OpenFile>, Stat)>| {
            let is = |stat: &Stat| stat.id == entry.id && stat.kind == Kind::Regular;
            opened.as_ref().is_ok_and(|(_, stat)| is(stat))
        };
        let known = open(source, &entry.path);
        if is_it(&known) {
            return known.map_err(|error| error.to_string());
        }
        let dirs = entry.path.parent().into_iter().chain(self.discovery.dirs());
        for dir in dirs.map(Path::to_path_buf) {
            let Ok(names) = source.list(&dir) else { continue };
            for name in names.iter().filter(|name| name.ino == entry.id.ino) {
                let opened = open(source, &dir.join(&name.name));
                if is_it(&opened) {
                    return opened.map_err(|error| error.to_string());
                }
            }
        }
        Err(format!("{} is not there any more", entry.path.display()))
    }
}
