//! Lines of whole files, of files that grow, and of reads that fall anywhere.

use super::*;

/// Reads a whole file through `Lines`, growing it by `steps`, reading `chunk` bytes at a time.
fn run(file: &[u8], steps: &[usize], chunk: usize, max: usize) -> Vec<(u64, Vec<u8>, bool)> {
    let mut lines = Lines::new(0, max);
    let (mut out, mut covered) = (Vec::new(), 0);
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
                    assert_eq!(line.offset, covered, "a gap");
                    covered = line.end;
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
    assert_eq!(offsets, [(0, false), (4, false), (7, false), (8, true), (16, true), (24, false)]);
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
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// However the file grows and however long the reads are, the lines are the same, and they
/// cover the file without a gap.
#[test]
fn lines_do_not_depend_on_how_the_reads_fell() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let alphabet: &[u8] = match seed % 3 {
            0 => b"ab\n\r\xc3\xa9",
            1 => b"a\0\0\0\0\n\0\r",
            _ => b"abcdefghijklmnopqrst\xe2\x82\xac\r\n",
        };
        let max = 8 + random.below(40);
        let file: Vec<u8> =
            (0..random.below(3_000)).map(|_| alphabet[random.below(alphabet.len())]).collect();
        let whole = run(&file, &[], 1 << 16, max);
        let steps: Vec<usize> = (0..random.below(200)).map(|_| random.below(40)).collect();
        let chunk = 1 + random.below(100);
        let pieces = run(&file, &steps, chunk, max);
        assert_eq!(pieces, whole, "seed {seed} chunk {chunk} max {max}");
        assert!(whole.iter().all(|(_, text, _)| text.len() <= max), "seed {seed}: too long");
        // Nothing but line ends and NUL bytes is missing.
        let kept = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().copied().filter(|byte| !b"\0\r\n".contains(byte)).collect()
        };
        let texts: Vec<u8> = whole.iter().flat_map(|(_, text, _)| kept(text)).collect();
        assert_eq!(texts[..], kept(&file)[..texts.len()], "seed {seed}");
    }
}

#[test]
fn nul_bytes_before_a_line_are_no_part_of_it() {
    let of = |file: &[u8], max: usize| {
        let seen = run(file, &[], 16, max);
        let text = |text: Vec<u8>| String::from_utf8(text).unwrap();
        seen.into_iter().map(|(offset, bytes, _)| (offset, text(bytes))).collect::<Vec<_>>()
    };
    let line = |offset: u64, text: &str| (offset, text.to_owned());
    let mut torn = b"one\ntwo\n".to_vec();
    torn.extend(vec![0; 5_000]);
    assert_eq!(of(&torn, 100), [line(0, "one"), line(4, "two")], "nothing follows yet");
    torn.extend(b"three\nfour\n");
    let all = [line(0, "one"), line(4, "two"), line(8, "three"), line(5_014, "four")];
    assert_eq!(of(&torn, 100), all);
    assert_eq!(of(&torn, 8), all, "also where they are longer than a line may be");
    // Text of two or four bytes a character has a few of them.
    assert_eq!(of(b"\0a\n\0\0\0b\n", 100), [line(0, "\0a"), line(3, "\0\0\0b")]);
    // A line that was torn, what is written after it, and a torn one that got its end.
    assert_eq!(of(b"a\0\0\0\0b\n", 100), [line(0, "a"), line(1, "b")]);
    assert_eq!(of(b"a\0\0\0\0\0\nb\n", 100), [line(0, "a"), line(7, "b")]);
    assert_eq!(of(b"12345\0\0\0\0\0b\n", 8), [line(0, "12345"), line(5, "b")]);
}
