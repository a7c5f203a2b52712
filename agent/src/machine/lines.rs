//! From bytes to lines: where a line starts, where it ends, and what to read next.
//!
//! A line that is not finished yet is kept as an offset, never as bytes: it is read again when its
//! end is there, so a thousand half-written lines cost nothing. While a long line grows, only its
//! new bytes are searched for the end.
//!
//! Invariants: `line_start <= scanned`; every byte before `line_start` was handed out exactly once;
//! where a line that is too long gets cut depends on the file's bytes only, never on how the reads
//! happened to fall.

/// How much of an unfinished line may be read again with each look, before looking is separated
/// from reading.
const REREAD_MAX: u64 = 16 * 1024;

/// One line, without its line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Offset in the file of the first byte.
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
    scanned: u64,
    line_bytes_max: usize,
    /// The line's end (or enough of it to cut it) is known to lie before this offset.
    whole_by: Option<u64>,
}

impl Lines {
    /// Starts at `offset`, which is the start of a line. `line_bytes_max` must be at least 8.
    pub fn new(offset: u64, line_bytes_max: usize) -> Self {
        assert!(line_bytes_max >= 8, "a line limit below 8 bytes cannot hold a character");
        Self { line_start: offset, scanned: offset, line_bytes_max, whole_by: None }
    }

    /// Start of the first line that was not handed out yet.
    pub fn line_start(&self) -> u64 {
        self.line_start
    }

    /// How far the file was looked at: below it there is no line end behind `line_start`.
    pub fn scanned(&self) -> u64 {
        self.scanned
    }

    /// Bytes of a line that still lacks its end.
    pub fn partial(&self) -> u64 {
        self.scanned - self.line_start
    }

    /// True if reading makes sense now, for a file of `size` bytes.
    pub fn wants(&self, size: u64) -> bool {
        self.whole_by.is_some() || size > self.scanned
    }

    /// The next read, of about `chunk` bytes, more only where one long line needs it.
    pub fn next_read(&self, chunk: usize) -> Want {
        let offset = match self.whole_by {
            None if self.partial() > REREAD_MAX => self.scanned,
            _ => self.line_start,
        };
        let need = self.whole_by.unwrap_or(self.scanned).saturating_sub(self.line_start);
        let need = usize::try_from(need).unwrap_or(usize::MAX).min(self.line_bytes_max + 2);
        let len = if self.whole_by.is_some() { need.max(chunk) } else { chunk };
        Want { offset, len: if offset == self.line_start { len.max(need + 1) } else { chunk } }
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
        if at != self.line_start {
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
            let skip = search_from.saturating_sub(from);
            if let Some(found) = memchr::memchr(b'\n', &rest[skip..]) {
                let text = strip_cr(&rest[..skip + found]);
                if text.len() > self.line_bytes_max {
                    // Cut by the same rule as below; the rest of the line is found again.
                    search_from = from + skip + found;
                    from += self.cut(rest, &mut taken, &mut emit);
                    continue;
                }
                let len = (skip + found + 1) as u64;
                emit(Line {
                    offset: self.line_start,
                    end: self.line_start + len,
                    text,
                    cut: false,
                });
                taken.lines += 1;
                self.line_start += len;
                from += skip + found + 1;
                search_from = from;
            } else if rest.len() >= self.line_bytes_max + 2 {
                search_from = bytes.len();
                from += self.cut(rest, &mut taken, &mut emit);
            } else {
                self.scanned = self.line_start + rest.len() as u64;
                return taken;
            }
        }
        // No room: the rest is read again later.
        self.scanned = self.line_start;
        taken
    }

    /// Hands out what stands behind the last line end, as the last line there will ever be.
    pub fn take_rest<'a>(&mut self, bytes: &'a [u8]) -> Option<Line<'a>> {
        let len = usize::try_from(self.partial()).unwrap_or(usize::MAX).min(bytes.len());
        if len == 0 {
            return None;
        }
        let line = Line {
            offset: self.line_start,
            end: self.line_start + len as u64,
            text: &bytes[..len],
            cut: false,
        };
        self.line_start = line.end;
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
        let len = cut_at(rest, self.line_bytes_max);
        emit(Line {
            offset: self.line_start,
            end: self.line_start + len as u64,
            text: &rest[..len],
            cut: true,
        });
        taken.lines += 1;
        taken.cuts += 1;
        self.line_start += len as u64;
        self.scanned = self.scanned.max(self.line_start);
        len
    }

    /// Looks for the end of a long line in its new bytes only.
    fn search(&mut self, at: u64, bytes: &[u8]) {
        assert_eq!(at, self.scanned, "a read must start where the last look ended");
        let limit = self.line_start + self.line_bytes_max as u64 + 2;
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
        assert!(self.line_start <= self.scanned, "looked less far than handed out: {self:?}");
        let longest = self.line_bytes_max as u64 + 2;
        assert!(self.partial() < longest, "an over-long line was not cut: {self:?}");
    }
}

fn strip_cr(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// Where to cut: at `max`, or up to three bytes before it so that no UTF-8 character is torn.
fn cut_at(bytes: &[u8], max: usize) -> usize {
    let is_continuation = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xC0 == 0x80);
    (0..4).map(|back| max - back).find(|at| !is_continuation(*at)).unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a whole file through `Lines`, growing it by `steps`, reading `chunk` bytes at a time.
    fn run(file: &[u8], steps: &[usize], chunk: usize, max: usize) -> Vec<(u64, Vec<u8>, bool)> {
        let mut lines = Lines::new(0, max);
        let mut out = Vec::new();
        let mut size = 0usize;
        for step in steps.iter().copied().chain([file.len()]) {
            size = (size + step).min(file.len());
            while lines.wants(size as u64) {
                let want = lines.next_read(chunk);
                let at = usize::try_from(want.offset).unwrap();
                let end = (at + want.len).min(size);
                let before = lines.clone();
                lines.take(
                    want.offset,
                    &file[at..end],
                    || true,
                    |line| {
                        out.push((line.offset, line.text.to_vec(), line.cut));
                    },
                );
                lines.check();
                assert_ne!(before, lines, "a read that was wanted brought nothing: {want:?}");
            }
        }
        out
    }

    fn texts(file: &str, max: usize) -> Vec<String> {
        run(file.as_bytes(), &[], 64, max)
            .into_iter()
            .map(|(_, text, _)| String::from_utf8(text).unwrap())
            .collect()
    }

    #[test]
    fn splits_at_line_ends() {
        for (file, max, expected) in [
            ("", 100, vec![]),
            ("a", 100, vec![]),
            ("a\n", 100, vec!["a"]),
            ("\n\n", 100, vec!["", ""]),
            ("a\r\nb\r\n", 100, vec!["a", "b"]),
            ("a\rb\n", 100, vec!["a\rb"]),
            ("\r\r\n", 100, vec!["\r"]),
            ("one\ntwo\nthree", 100, vec!["one", "two"]),
            ("12345678\n", 8, vec!["12345678"]),
            ("12345678\r\n", 8, vec!["12345678"]),
            ("123456789\n", 8, vec!["12345678", "9"]),
            ("1234567812345678\nx\n", 8, vec!["12345678", "12345678", "x"]),
            // A character of two bytes is not torn.
            ("1234567\u{e9}9\n", 8, vec!["1234567", "\u{e9}9"]),
        ] {
            assert_eq!(texts(file, max), expected, "{file:?} with lines of at most {max}");
        }
    }

    #[test]
    fn offsets_are_those_of_the_file() {
        let seen = run(b"ab\r\ncd\n\nlonger than eight\n", &[], 64, 8);
        let offsets: Vec<_> = seen.iter().map(|(offset, _, cut)| (*offset, *cut)).collect();
        assert_eq!(
            offsets,
            [(0, false), (4, false), (7, false), (8, true), (16, true), (24, false)]
        );
    }

    #[test]
    fn stops_without_room_and_goes_on_where_it_stopped() {
        let mut lines = Lines::new(0, 100);
        let mut left = 2;
        let mut out = Vec::new();
        let file = b"a\nb\nc\nd";
        lines.take(
            0,
            file,
            || {
                left -= 1;
                left >= 0
            },
            |line| out.push(line.offset),
        );
        assert_eq!((out, lines.line_start()), (vec![0, 2], 4));
        assert!(lines.wants(file.len() as u64));
        assert_eq!(lines.next_read(64).offset, 4);
    }

    #[test]
    fn an_unfinished_long_line_is_not_read_again_and_again() {
        let file = vec![b'x'; 1_000_000];
        let mut lines = Lines::new(0, 2_000_000);
        let mut read = 0;
        let mut size = 0;
        while size < file.len() {
            size = (size + 5_000).min(file.len());
            while lines.wants(size as u64) {
                let want = lines.next_read(64 * 1024);
                let at = usize::try_from(want.offset).unwrap();
                let end = (at + want.len).min(size);
                read += end - at;
                lines.take(want.offset, &file[at..end], || true, |line| panic!("{line:?}"));
            }
        }
        assert!(read < 1_200_000, "read {read} bytes of a line of 1,000,000");
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % n
        }
    }

    /// However the file grows and however long the reads are, the lines are the same, and they
    /// cover the file without a gap.
    #[test]
    fn lines_do_not_depend_on_how_the_reads_fell() {
        for seed in 0..300 {
            let mut random = Random(seed);
            let alphabet: &[u8] = if seed % 2 == 0 {
                b"ab\n\r\xc3\xa9"
            } else {
                b"abcdefghijklmnopqrst\xe2\x82\xac\r\n"
            };
            let max = 8 + random.below(40);
            let file: Vec<u8> =
                (0..random.below(3_000)).map(|_| alphabet[random.below(alphabet.len())]).collect();
            let whole = run(&file, &[], 1 << 16, max);
            let steps: Vec<usize> = (0..random.below(200)).map(|_| random.below(40)).collect();
            let chunk = 1 + random.below(100);
            let pieces = run(&file, &steps, chunk, max);
            assert_eq!(pieces, whole, "seed {seed} chunk {chunk} max {max}");
            let mut at = 0;
            for (offset, text, cut) in &whole {
                assert_eq!(*offset, at, "seed {seed}: a gap");
                at += text.len() as u64;
                if !cut {
                    let end = usize::try_from(at).unwrap();
                    at += if file[end] == b'\r' { 2 } else { 1 };
                }
                assert!(text.len() <= max, "seed {seed}: longer than the limit");
            }
        }
    }
}
