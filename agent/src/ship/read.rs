//! One file's turn: read a piece, split it, and put its events into the lane.
//!
//! Files take turns of equal size, so that one fast file does not starve the others. Each read
//! starts a little before the offset, with bytes that are known: if they are not there any more,
//! the file was rewritten behind our back.

use tailway_metadata::time::WallMs;

use super::files::Before;
use super::{FileKey, ShipError, Shipper};
use crate::event::Format;
use crate::machine::identity::Generation;
use crate::machine::lines::Line;
use crate::machine::tail_file::Event;
use crate::output::parcel::Entry;
use crate::tail::files::read_full;

/// Bytes of a turn; only a line that is longer makes it longer.
const TURN_BYTES: usize = 64 * 1024;

impl Shipper {
    /// Reads a piece of the file, if its lane has room.
    pub(super) fn turn(&mut self, key: FileKey) -> Result<(), ShipError> {
        let Some(file) = self.files.get(&key) else { return Ok(()) };
        if !file.machine.is_lined_up() {
            return Ok(());
        }
        let Some(lane) = self.lane_with_room(key)? else {
            return self.tell(key, Event::Blocked(true));
        };
        let event = self.read_piece(key, lane);
        self.changed = true;
        self.tell(key, event)
    }

    fn read_piece(&mut self, key: FileKey, lane: usize) -> Event {
        let now = self.clock.mono();
        let at = self.clock.wall();
        let Self { files, lanes, buffer, writer, metrics, .. } = self;
        let Some(file) = files.get_mut(&key) else { return Event::Tick };
        let (Some(descriptor), Some(part)) = (&file.descriptor, &file.part) else {
            return Event::Read { bytes: 0 };
        };
        let want = file.machine.lines.next_read(TURN_BYTES);
        let from_line = want.offset == file.machine.read();
        let before = if from_line { file.before.bytes() } else { &[] };
        let lead = before.len();
        if buffer.len() < lead + want.len {
            buffer.resize(lead + want.len, 0);
        }
        let piece = &mut buffer[..lead + want.len];
        let read = match read_full(descriptor.as_ref(), want.offset - lead as u64, piece) {
            Ok(read) => read,
            Err(error) => {
                let trouble = format!("cannot read it: {error}");
                if file.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(path = %file.path.display(), %error, "cannot read a file");
                    file.trouble = Some(trouble);
                }
                return Event::Unreadable;
            }
        };
        if read <= lead {
            return Event::Read { bytes: 0 };
        }
        if &piece[..lead] != before {
            return Event::Rewritten;
        }
        let bytes = &piece[lead..read];
        file.head.extend(want.offset, bytes);
        writer.set_time(at);
        let lane = &mut lanes[lane];
        let generation = file.generation;
        let full = std::cell::Cell::new(false);
        let start = file.machine.read();
        let (seen, end) = (file.machine.lines.scanned(), want.offset + bytes.len() as u64);
        let taken = file.machine.lines.take(
            want.offset,
            bytes,
            || !full.get(),
            |line| {
                let entry = entry_of(generation, &line, part.format(), at);
                lane.append(entry, |out| writer.write(out, part, line.offset, line.text));
                full.set(!lane.has_room());
            },
        );
        let consumed = file.machine.read() - start;
        if consumed > 0 {
            // What it consumed may have begun with NUL bytes that an earlier read passed over.
            let here = file.machine.read().saturating_sub(want.offset);
            let end = (lead + usize::try_from(here).unwrap_or(usize::MAX)).min(read);
            file.before = Before::of(&piece[..end]);
            lane.mark(generation, file.before.marker(), now);
        }
        metrics.lines.inc_by(taken.lines);
        metrics.lines_cut.inc_by(taken.cuts);
        metrics.bytes.inc_by(consumed);
        Event::Read { bytes: end.saturating_sub(seen) }
    }

    /// The last line of a file that nobody will finish: it has no line end.
    pub(super) fn take_rest(&mut self, key: FileKey) -> Result<(), ShipError> {
        let Some(lane) = self.lane_with_room(key)? else {
            self.feed(key, Event::Blocked(true));
            return Ok(());
        };
        let (now, at) = (self.clock.mono(), self.clock.wall());
        let Self { files, lanes, writer, metrics, .. } = self;
        let Some(file) = files.get_mut(&key) else { return Ok(()) };
        let (Some(descriptor), Some(part)) = (&file.descriptor, &file.part) else {
            return Ok(());
        };
        let (read_to, start) = (file.machine.read(), file.machine.lines.text_start());
        let len = usize::try_from(file.machine.lines.partial()).unwrap_or_default();
        let mut rest = vec![0; len];
        let Ok(read) = read_full(descriptor.as_ref(), start, &mut rest) else { return Ok(()) };
        let Some(line) = file.machine.lines.take_rest(&rest[..read]) else { return Ok(()) };
        writer.set_time(at);
        let generation = file.generation;
        let entry = entry_of(generation, &line, part.format(), at);
        lanes[lane].append(entry, |out| writer.write(out, part, line.offset, line.text));
        let before = if start == read_to { file.before.bytes() } else { &[] };
        file.before = Before::of(&[before, &rest[..read]].concat());
        lanes[lane].mark(generation, file.before.marker(), now);
        metrics.lines.inc();
        metrics.bytes.inc_by(line.end - line.offset);
        self.changed = true;
        Ok(())
    }
}

/// A line as a buffer takes it.
pub(super) fn entry_of<'a>(
    generation: Generation,
    line: &Line<'a>,
    format: Format,
    at: WallMs,
) -> Entry<'a> {
    Entry { generation, from: line.offset, to: line.end, format, at, text: line.text }
}
