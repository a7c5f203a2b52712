//! From bytes to lines: where a line starts, where it ends, and what to read next.
//!
//! A line that is not finished yet is kept as an offset, never as bytes: it is read again when its
//! end is there, so a thousand half-written lines cost nothing. While a long line grows, only its
//! new bytes are searched for the end.
//!
//! A host that lost its power may find a log file with NUL bytes where lines were being written, and
//! a file that was truncated under a writer without O_APPEND begins with them. Such a run is no part
//! of a line: a line ends before it, and it belongs to the bytes that the line behind it covers.
//!
//! Invariants: `line_start + nuls <= scanned`; every byte before `line_start` was handed out exactly once;
//! where a line that is too long gets cut depends on the file's bytes only, never on how the reads
//! happened to fall.

/// How much of an unfinished line may be read again with each look, before looking is separated
/// from reading.
const REREAD_MAX: u64 = 16 * 1024;

/// Fewer NUL bytes in a row may be part of its text, in UTF-16 or UTF-32.
const NULS_MIN: usize = 4;

/// One line, without its line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Offset in the file of the first byte, or of the NUL bytes before it.
    pub offset: u64,
    /// Offset just behind the line and its end.
    pub end: u64,
    pub text: &'a [u8],
    /// More of the same over-long line follows.
    pub cut: bool,
}

/// What to read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    pub offset: u64,
    pub len: usize,
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    pub lines: u64,
    pub cuts: u64,
}

/// Splits one file generation into lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    line_start: u64,
    /// NUL bytes at `line_start`, as far as they are known, that are no part of the line.
    nuls: u64,
    scanned: u64,
    line_bytes_max: usize,
    /// The line's end (or enough of it to cut it) is known to lie before this offset.
    whole_by: Option<u64>,
}

impl Lines {
    /// Starts at `offset`, which is the start of a line. `line_bytes_max` must be at least 8.
    pub fn new(offset: u64, line_bytes_max: usize) -> Self {
        assert!(line_bytes_max >= 8, "a line limit below 8 bytes cannot hold a character");
        Self { line_start: offset, nuls: 0, scanned: offset, line_bytes_max, whole_by: None }
    }

    /// Start of the first line that was not handed out yet.
    pub fn line_start(&self) -> u64 {
        self.line_start
    }

    /// Where its text starts.
    pub fn text_start(&self) -> u64 {
        self.line_start + self.nuls
    }

    /// How far the file was looked at: below it there is no line end behind `line_start`.
    pub fn scanned(&self) -> u64 {
        self.scanned
    }

    /// Bytes of a line that still lacks its end.
    pub fn partial(&self) -> u64 {
        self.scanned - self.text_start()
    }

    /// True if reading makes sense now, for a file of `size` bytes.
    pub fn wants(&self, size: u64) -> bool {
        self.whole_by.is_some() || size > self.scanned
    }

    /// The next read, of about `chunk` bytes, more only where one long line needs it.
    pub fn next_read(&self, chunk: usize) -> Want {
        let offset = match self.whole_by {
            None if self.partial() > REREAD_MAX => self.scanned,
            _ => self.text_start(),
        };
        let need = self.whole_by.unwrap_or(self.scanned).saturating_sub(self.text_start());
        let need = usize::try_from(need).unwrap_or(usize::MAX).min(self.line_bytes_max + 2);
        let len = if self.whole_by.is_some() { need.max(chunk) } else { chunk };
        Want { offset, len: if offset == self.text_start() { len.max(need + 1) } else { chunk } }
    }

    /// Takes what was read at `at` and hands out each line that is complete, until `room` is false.
    /// Returns what it handed out.
    pub fn take<'a>(
        &mut self,
        at: u64,
        bytes: &'a [u8],
        mut room: impl FnMut() -> bool,
        mut emit: impl FnMut(Line<'a>),
    ) -> Taken {
        let mut taken = Taken::default();
        if at != self.text_start() {
            self.search(at, bytes);
            return taken;
        }
        self.whole_by = None;
        let mut from = 0usize;
        // Below this index there is no line end that was not seen yet.
        let known = usize::try_from(self.partial()).unwrap_or(usize::MAX).min(bytes.len());
        let mut search_from = known;
        while room() {
            let rest = &bytes[from..];
            let nuls = rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len());
            if nuls >= NULS_MIN || (self.nuls > 0 && nuls > 0) {
                self.nuls += nuls as u64;
                from += nuls;
                search_from = search_from.max(from);
                continue;
            }
            let skip = search_from.saturating_sub(from);
            if let Some(found) = memchr::memchr(b'\n', &rest[skip..]) {
                let text = strip_cr(&rest[..skip + found]);
                if text.len() > self.line_bytes_max {
                    // Cut by the same rule as below; the rest of the line is found again.
                    search_from = from + skip + found;
                    from += self.cut(rest, &mut taken, &mut emit);
                    continue;
                }
                let hole = hole_in(text);
                if let Some(at) = hole.filter(|at| text[*at..].iter().any(|byte| *byte != 0)) {
                    search_from = from + skip + found;
                    from += self.piece(&rest[..at], false, &mut taken, &mut emit);
                    continue;
                }
                let text = &text[..hole.unwrap_or(text.len())];
                let end = self.text_start() + (skip + found + 1) as u64;
                emit(Line { offset: self.line_start, end, text, cut: false });
                taken.lines += 1;
                self.begin_at(end);
                from += skip + found + 1;
                search_from = from;
            } else if rest.len() >= self.line_bytes_max + 2 {
                search_from = bytes.len();
                from += self.cut(rest, &mut taken, &mut emit);
            } else {
                self.scanned = self.text_start() + rest.len() as u64;
                return taken;
            }
        }
        // No room: the rest is read again later.
        self.scanned = self.text_start();
        taken
    }

    fn begin_at(&mut self, offset: u64) {
        self.line_start = offset;
        self.nuls = 0;
    }

    /// Hands out what stands behind the last line end, as the last line there will ever be: `bytes`
    /// are those from `text_start` on.
    pub fn take_rest<'a>(&mut self, bytes: &'a [u8]) -> Option<Line<'a>> {
        let len = usize::try_from(self.partial()).unwrap_or(usize::MAX).min(bytes.len());
        if len == 0 {
            return None;
        }
        let line = Line {
            offset: self.line_start,
            end: self.text_start() + len as u64,
            text: &bytes[..len],
            cut: false,
        };
        self.begin_at(line.end);
        self.scanned = line.end;
        Some(line)
    }

    /// Hands out the first piece of an over-long line; returns its length.
    fn cut<'a>(
        &mut self,
        rest: &'a [u8],
        taken: &mut Taken,
        emit: &mut impl FnMut(Line<'a>),
    ) -> usize {
        let within = &rest[..rest.len().min(self.line_bytes_max + 2)];
        match hole_in(within) {
            Some(at) => self.piece(&rest[..at], false, taken, emit),
            None => self.piece(&rest[..cut_at(rest, self.line_bytes_max)], true, taken, emit),
        }
    }

    /// Hands out a piece of a line, or a line without its end; returns its length.
    fn piece<'a>(
        &mut self,
        text: &'a [u8],
        cut: bool,
        taken: &mut Taken,
        emit: &mut impl FnMut(Line<'a>),
    ) -> usize {
        let end = self.text_start() + text.len() as u64;
        emit(Line { offset: self.line_start, end, text, cut });
        taken.lines += 1;
        taken.cuts += u64::from(cut);
        self.begin_at(end);
        self.scanned = self.scanned.max(end);
        text.len()
    }

    /// Looks for the end of a long line in its new bytes only.
    fn search(&mut self, at: u64, bytes: &[u8]) {
        assert_eq!(at, self.scanned, "a read must start where the last look ended");
        let limit = self.text_start() + self.line_bytes_max as u64 + 2;
        let end = at + bytes.len() as u64;
        if let Some(found) = memchr::memchr(b'\n', bytes) {
            self.whole_by = Some((at + found as u64 + 1).min(limit));
        } else if end >= limit {
            self.whole_by = Some(limit);
        } else {
            self.scanned = end;
        }
    }

    /// Panics if an invariant is broken.
    pub fn check(&self) {
        assert!(self.text_start() <= self.scanned, "looked less far than handed out: {self:?}");
        let longest = self.line_bytes_max as u64 + 2;
        assert!(self.partial() < longest, "an over-long line was not cut: {self:?}");
    }
}

fn strip_cr(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// Where a run of NUL bytes starts that is no text.
fn hole_in(text: &[u8]) -> Option<usize> {
    let is_run = |at: &usize| {
        text[*at..].iter().take(NULS_MIN).filter(|byte| **byte == 0).count() == NULS_MIN
    };
    memchr::memchr_iter(0, text).find(is_run)
}

/// Where to cut: at `max`, or up to three bytes before it so that no UTF-8 character is torn.
fn cut_at(bytes: &[u8], max: usize) -> usize {
    let is_continuation = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xC0 == 0x80);
    (0..4).map(|back| max - back).find(|at| !is_continuation(*at)).unwrap_or(max)
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
