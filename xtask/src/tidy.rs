//! House rules as a test: what rustfmt and clippy cannot say about this repository.
//!
//! Pure code is known by its place: `crates/wire`, `crates/metadata`, `crates/history` (but its program) and every `machine/`
//! folder. It may not touch a clock, the disk, the network, a runtime, randomness or the log, nor iterate in an order that
//! differs from run to run; that is what lets a simulation drive it. `#[cfg(test)]` tails and `tests.rs` files are exempt from purity, not from the rest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Longest source file, in lines.
const LINES_MAX: usize = 600;

/// Words that may not stand in pure code, and why.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "pure code has no runtime"),
    ("std::fs", "pure code has no disk"),
    ("std::net", "pure code has no network"),
    ("std::thread", "pure code has no threads"),
    ("Instant", "time arrives as an argument (Mono)"),
    ("SystemTime", "wall time arrives inside events (WallMs)"),
    ("tracing", "decisions are returned, not logged"),
    ("rand::", "randomness arrives as a seed"),
    ("HashMap", "iteration order differs from run to run: use BTreeMap"),
    ("HashSet", "iteration order differs from run to run: use BTreeSet"),
];

/// Methods by which a secret becomes plain text.
const EXPOSING: &[&str] = &[
    "expose()",
    "serialize_pem()",
    "serialize_der()",
    "serialized_der()",
    "secret_der()",
    "secret_pkcs8_der()",
];

/// The files that may do so, and what for.
const MAY_EXPOSE: &[(&str, &str)] = &[
    ("broker/src/forward/opensearch/mod.rs", "the header that authorizes at a sink"),
    ("cli/src/dev/certs.rs", "keys of a dev cluster, to their files"),
    ("cli/src/members/cert.rs", "a key and a password, to their files"),
    ("cli/src/members/enroll.rs", "a token that was typed, and the request that shows it"),
    ("cli/src/members/identity.rs", "a key, to its file and back"),
    ("cli/src/members/init.rs", "a key, into a Secret"),
    ("cli/src/members/pkcs12.rs", "a password, to the encryption"),
    ("cli/src/members/token.rs", "a token, to standard output, once"),
    ("coordinator/src/api/enrollment.rs", "a token's secret, to its hash"),
    ("coordinator/src/authority.rs", "the CA's key, to its file and to the signing library"),
    ("crates/daemon/src/certificates.rs", "a renewed key, to its file"),
    ("crates/metadata/src/enrollment.rs", "a token's text and the request that shows it"),
    ("crates/net/src/certificate_request.rs", "a key, into a Secret"),
    ("crates/net/src/tls.rs", "a key, to the TLS library"),
    ("e2e/src/checks/secrets.rs", "keys, to be looked for in what programs say"),
    ("e2e/src/forgery.rs", "keys of forged certificates, to their files"),
    ("sim/src/tls.rs", "keys of a simulated cluster, to their files"),
];

/// Words that mean unfinished work. Split, so that this file does not accuse itself.
const UNFINISHED: &[&str] =
    &[concat!("FIX", "ME"), concat!("TO", "DO"), concat!("X", "XX"), concat!("unimple", "mented!")];

/// One broken rule, printed as `file:line: what`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    path: PathBuf,
    line: usize,
    what: String,
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// Checks every Rust file below `root`, in path order.
pub(crate) fn check(root: &Path) -> Result<Vec<Complaint>> {
    let mut files = Vec::new();
    for top in ["agent", "broker", "coordinator", "cli", "crates", "e2e", "sim", "xtask"] {
        collect(&root.join(top), &mut files)?;
    }
    files.sort();
    let mut complaints = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        complaints.extend(check_source(path.strip_prefix(root).unwrap_or(&path), &text));
    }
    complaints.extend(stale_entries(root));
    Ok(complaints)
}

/// Files that may show a secret and do not.
fn stale_entries(root: &Path) -> Vec<Complaint> {
    let stale = MAY_EXPOSE.iter().filter(|(path, _)| {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        !EXPOSING.iter().any(|word| text.contains(&format!(".{word}")))
    });
    let what = "may show a secret (MAY_EXPOSE in xtask/src/tidy.rs) and does not: take it out of that list";
    stale.map(|(path, _)| Complaint { path: path.into(), line: 1, what: what.into() }).collect()
}

/// The Rust sources below `dir`, outside of build folders.
pub(crate) fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn check_source(path: &Path, text: &str) -> Vec<Complaint> {
    let mut out = Vec::new();
    let mut say =
        |line: usize, what: String| out.push(Complaint { path: path.to_path_buf(), line, what });
    if !text.starts_with("//!") && !path.ends_with("build.rs") {
        say(1, "starts without a `//!` header that says what, why and the invariants".into());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        say(lines, format!("has {lines} lines, more than {LINES_MAX}: split it"));
    }
    let tests_from = if is_test(path) { 0 } else { first_test_line(text) };
    for (index, pair) in text.lines().zip(text.lines().skip(1)).enumerate() {
        if index < tests_from && pair.0.ends_with("select! {") && pair.1.trim() != "biased;" {
            say(
                index + 1,
                "a `select!` that is not `biased;` picks by chance: no seed replays it".into(),
            );
        }
    }
    let has = |function: &str| text.contains(function);
    if is_pure(path)
        && has("pub fn on_event(")
        && !(has("pub fn deadline(") && has("pub fn check("))
    {
        say(1, "has `on_event` without `deadline` and `check`: a driver and a simulation need all three".into());
    }
    let may_expose = MAY_EXPOSE.iter().any(|(file, _)| path == Path::new(file));
    let pure_until = if is_pure(path) { first_test_line(text) } else { 0 };
    for (index, line) in text.lines().enumerate() {
        if !line.is_ascii() {
            say(index + 1, "is not ASCII: write an escape".into());
        }
        for word in UNFINISHED {
            if line.contains(word) {
                say(index + 1, format!("`{word}`: finish it or file it"));
            }
        }
        let code = line.split("//").next().unwrap_or_default();
        if index < tests_from && !may_expose {
            for word in EXPOSING.iter().filter(|word| code.contains(&format!(".{word}"))) {
                say(
                    index + 1,
                    format!(
                        "`{word}` shows a secret: keep it in a `Secret`, or name this file and what for in MAY_EXPOSE (xtask/src/tidy.rs)"
                    ),
                );
            }
        }
        if index < pure_until {
            for (word, why) in IMPURE {
                if code.contains(word) {
                    say(index + 1, format!("`{word}` in a pure file: {why}"));
                }
            }
        }
    }
    out
}

/// Pure by place. Test files beside pure code may use what they like.
fn is_pure(path: &Path) -> bool {
    let in_machine = path.components().any(|part| part.as_os_str() == "machine");
    let in_pure_crate =
        path.starts_with("crates/wire/src") || path.starts_with("crates/metadata/src");
    let in_checker = path.starts_with("crates/history/src") && !path.ends_with("main.rs");
    !is_test(path) && (in_machine || in_pure_crate || in_checker)
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name.to_string_lossy().ends_with("tests"))
        || path
            .components()
            .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "examples")
}

/// The line where the test module of a file begins (tests come last), or the number of lines.
fn first_test_line(text: &str) -> usize {
    text.lines().position(|line| line.starts_with("#[cfg(test)]")).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let complaints = check(&crate::workspace_root()).expect("readable sources");
        let text: Vec<String> = complaints.iter().map(ToString::to_string).collect();
        assert!(text.is_empty(), "{}", text.join("\n"));
    }

    #[test]
    fn a_clock_call_in_a_pure_file_is_named() {
        let clock =
            "//! Machine.\nfn f() -> u64 { std::time::Instant::now().elapsed().as_secs() }\n";
        let cases = [
            (
                "broker/src/machine/producers.rs",
                clock,
                vec![
                    "broker/src/machine/producers.rs:2: `Instant` in a pure file: time arrives as an argument (Mono)",
                ],
            ),
            (
                "crates/wire/src/frame.rs",
                clock,
                vec![
                    "crates/wire/src/frame.rs:2: `Instant` in a pure file: time arrives as an argument (Mono)",
                ],
            ),
            ("broker/src/log/segment.rs", clock, vec![]),
            (
                "crates/history/src/polls.rs",
                clock,
                vec![
                    "crates/history/src/polls.rs:2: `Instant` in a pure file: time arrives as an argument (Mono)",
                ],
            ),
            ("crates/history/src/main.rs", clock, vec![]),
            ("broker/src/machine/group_tests.rs", clock, vec![]),
            (
                "agent/src/machine/lines.rs",
                "//! Machine.\n// an Instant would be wrong here\n",
                vec![],
            ),
            (
                "agent/src/machine/lines.rs",
                "//! M.\nuse std::collections::HashMap;\n#[cfg(test)]\nmod tests { use std::fs; }\n",
                vec![
                    "agent/src/machine/lines.rs:2: `HashMap` in a pure file: iteration order differs from run to run: use BTreeMap",
                ],
            ),
        ];
        for (path, text, expected) in cases {
            let said: Vec<String> =
                check_source(Path::new(path), text).iter().map(ToString::to_string).collect();
            assert_eq!(said, expected, "{path}");
        }
    }

    #[test]
    fn a_secret_that_is_shown_in_another_file_is_named() {
        let text = "//! D.\nfn f(key: Secret) {\n    tracing::info!(\"{}\", key.expose());\n}\n#[cfg(test)]\nmod tests { fn f() { x.expose(); } }\n";
        let said = check_source(Path::new("broker/src/log/segment.rs"), text);
        assert_eq!(said.iter().map(|said| said.line).collect::<Vec<_>>(), [3], "{said:?}");
        for allowed in ["crates/net/src/tls.rs", "cli/tests/members.rs"] {
            assert_eq!(check_source(Path::new(allowed), text), vec![], "{allowed}");
        }
    }

    #[test]
    fn a_select_that_picks_by_chance_is_named() {
        let unbiased = "//! D.\nfn f() {\n    tokio::select! {\n        a = b => {}\n    }\n}\n";
        let path = Path::new("broker/src/partition/driver.rs");
        let said = check_source(path, unbiased);
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].line, 3);
        let biased = unbiased.replace("{\n        a", "{\n        biased;\n        a");
        assert_eq!(check_source(path, &biased), vec![]);
    }

    #[test]
    fn a_machine_without_its_invariants_is_named() {
        let whole = "//! M.\npub fn on_event() {}\npub fn deadline() {}\npub fn check() {}\n";
        let path = Path::new("broker/src/machine/partition.rs");
        assert_eq!(check_source(path, whole), vec![]);
        assert_eq!(check_source(path, &whole.replace("check", "look")).len(), 1);
    }

    #[test]
    fn length_header_and_ascii_are_rules() {
        let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
        assert_eq!(check_source(Path::new("a/src/b.rs"), &long).len(), 1);
        assert_eq!(check_source(Path::new("a/src/b.rs"), "fn main() {}\n").len(), 1);
        assert_eq!(check_source(Path::new("a/src/b.rs"), "//! \u{e9}\n").len(), 1);
    }
}
