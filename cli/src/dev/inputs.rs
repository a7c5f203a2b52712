//! What `dev` was asked to follow: files and globs as typed -> absolute patterns for the agent, and what to say about the
//! ones that cannot be followed (yet).
//!
//! A missing file and an unmatched glob are still followed: they may appear. A directory and an unreadable file are not.
//! A path that exists is always taken as that file, even if its name contains `*` or `[`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use tailway_agent::tail::glob::{DEPTH_MAX, Part, Pattern};

/// Most directory entries looked at for one glob; the agent has no such limit, this is only for what is said.
const ENTRIES_MAX: usize = 100_000;

/// One argument, looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// As typed, for messages.
    pub(crate) typed: String,
    /// Absolute, in the agent's glob syntax; `None` if it cannot be followed.
    pub(crate) pattern: Option<String>,
    /// The files that are there now, absolute.
    pub(crate) files: Vec<PathBuf>,
    /// What is to be said about it.
    pub(crate) note: Option<String>,
}

/// All arguments, looked at.
#[derive(Debug)]
pub(crate) struct Inputs(pub(crate) Vec<Input>);

impl Inputs {
    pub(crate) fn look(arguments: &[PathBuf]) -> Result<Inputs> {
        arguments.iter().map(|argument| look(argument)).collect::<Result<_>>().map(Inputs)
    }

    /// What the agent follows.
    pub(crate) fn patterns(&self) -> Vec<String> {
        let mut patterns: Vec<String> =
            self.0.iter().filter_map(|input| input.pattern.clone()).collect();
        patterns.sort();
        patterns.dedup();
        patterns
    }

    /// Files that are there now, and patterns that match nothing yet, each with its topic.
    pub(crate) fn topics(&self, topic: &str) -> BTreeMap<PathBuf, String> {
        let followed = self.0.iter().filter(|input| input.pattern.is_some());
        followed
            .flat_map(|input| {
                let waiting = input.pattern.as_ref().filter(|_| input.files.is_empty());
                input.files.iter().cloned().chain(waiting.map(|pattern| unescape(pattern).into()))
            })
            .map(|file| (file, topic.to_owned()))
            .collect()
    }

    /// Files that are there now.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            self.0.iter().flat_map(|input| input.files.iter().cloned()).collect();
        files.sort();
        files.dedup();
        files
    }

    /// What cannot be followed (yet), and what it goes on with.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.0.iter().filter_map(|input| input.note.clone()).collect();
        if notes.is_empty() {
            return notes;
        }
        let good: Vec<&str> = self
            .0
            .iter()
            .filter(|input| input.note.is_none())
            .map(|input| input.typed.as_str())
            .collect();
        notes.push(if good.is_empty() && self.patterns().is_empty() {
            "nothing is left to follow".to_owned()
        } else if good.is_empty() {
            "going on without any file for now".to_owned()
        } else {
            format!("going on with {}", good.join(", "))
        });
        notes
    }
}

fn look(argument: &Path) -> Result<Input> {
    let typed = argument.display().to_string();
    let absolute = std::path::absolute(argument).with_context(|| format!("{typed}: not a path"))?;
    let absolute = without_dots(&absolute);
    let Some(text) = absolute.to_str() else {
        let note = Some(format!("{typed}: the name is not UTF-8; rename it to follow it"));
        return Ok(Input { typed, pattern: None, files: Vec::new(), note });
    };
    let text = text.to_owned();
    match fs::metadata(&absolute) {
        Ok(found) if found.is_dir() => {
            let note = Some(format!(
                "{typed}: is a directory; write {}/* to follow the files in it",
                typed.trim_end_matches('/')
            ));
            Ok(Input { typed, pattern: None, files: Vec::new(), note })
        }
        Ok(_) => Ok(match fs::File::open(&absolute) {
            Ok(_) => {
                Input { typed, pattern: Some(escape(&text)), files: vec![absolute], note: None }
            }
            Err(error) => Input {
                note: Some(format!("{typed}: cannot be read: {}", reason(&error))),
                typed,
                pattern: None,
                files: Vec::new(),
            },
        }),
        Err(_) if is_glob(&text) => {
            let files = expand(&text).with_context(|| format!("{typed}: not a glob"))?;
            let note = files
                .is_empty()
                .then(|| format!("{typed}: matches no file; files that appear will be followed"));
            Ok(Input { typed, pattern: Some(text), files, note })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let note = Some(format!(
                "{typed}: there is no such file; it will be followed once it appears"
            ));
            Ok(Input { typed, pattern: Some(escape(&text)), files: Vec::new(), note })
        }
        Err(error) => {
            let note = Some(format!("{typed}: cannot be read: {}", reason(&error)));
            Ok(Input { typed, pattern: None, files: Vec::new(), note })
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// `/a/./b/../c` -> `/a/c`, by name only (symbolic links are not followed).
fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// A literal path in glob syntax.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, c| {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}

fn unescape(pattern: &str) -> String {
    let mut text = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        text.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    text
}

/// The regular files that an absolute glob matches now.
pub(crate) fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let pattern = Pattern::new(pattern)?;
    let mut search = Search { files: Vec::new(), seen: 0 };
    search.walk(Path::new("/"), pattern.parts(), 0);
    search.files.sort();
    search.files.dedup();
    Ok(search.files)
}

struct Search {
    files: Vec<PathBuf>,
    seen: usize,
}

impl Search {
    fn walk(&mut self, dir: &Path, parts: &[Part], depth: usize) {
        let Some((part, rest)) = parts.split_first() else { return };
        match part {
            Part::Literal(name) => self.found(&dir.join(name), rest, depth),
            Part::Wild(_) => {
                for entry in self.list(dir) {
                    if part.fits(&entry.file_name()) {
                        self.found(&entry.path(), rest, depth);
                    }
                }
            }
            Part::Tree => {
                self.walk(dir, rest, depth);
                // As the agent does: no symbolic links here, so that a link to a parent is no endless tree.
                for entry in self.list(dir) {
                    if depth < DEPTH_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        self.walk(&entry.path(), parts, depth + 1);
                    }
                }
            }
        }
    }

    fn found(&mut self, path: &Path, rest: &[Part], depth: usize) {
        if !rest.is_empty() {
            self.walk(path, rest, depth);
        } else if fs::metadata(path).is_ok_and(|found| found.is_file()) {
            self.files.push(path.to_owned());
        }
    }

    fn list(&mut self, dir: &Path) -> Vec<fs::DirEntry> {
        // A directory that cannot be listed has nothing that could be followed.
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        let listed: Vec<_> =
            entries.flatten().take(ENTRIES_MAX.saturating_sub(self.seen)).collect();
        self.seen += listed.len();
        listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_argument_is_followed_or_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a.log", "b.log", "odd[1].log", "other.txt"] {
            fs::write(at(name), "x\n").unwrap();
        }
        fs::create_dir_all(at("sub/deep")).unwrap();
        fs::write(at("sub/deep/c.log"), "x\n").unwrap();
        let looked = |name: &str| look(&at(name)).unwrap();

        assert_eq!(looked("a.log").files, [at("a.log")]);
        assert_eq!(looked("a.log").note, None);
        assert_eq!(looked("sub/../a.log").files, [at("a.log")]);
        let odd = looked("odd[1].log");
        assert_eq!(odd.files, [at("odd[1].log")]);
        assert!(expand(odd.pattern.as_ref().unwrap()).unwrap() == odd.files, "{odd:?}");
        assert_eq!(looked("?.log").files, [at("a.log"), at("b.log")]);
        assert_eq!(looked("{a,b}.log").files, [at("a.log"), at("b.log")]);
        assert_eq!(looked("**/*.log").files.len(), 4);
        assert_eq!(looked("sub/*/*.log").files, [at("sub/deep/c.log")]);
        let missing = looked("no.log");
        assert!(missing.pattern.is_some() && missing.note.unwrap().contains("no such file"));
        let unmatched = looked("no-*.log");
        assert!(unmatched.pattern.is_some() && unmatched.note.unwrap().contains("matches no file"));
        let directory = looked("sub");
        assert!(directory.pattern.is_none() && directory.note.unwrap().contains("sub/*"));
    }

    #[test]
    fn notes_say_what_it_goes_on_with_and_topics_name_files() {
        let dir = tempfile::tempdir().unwrap();
        let (good, missing) = (dir.path().join("a.log"), dir.path().join("x[1].log"));
        fs::write(&good, "").unwrap();
        let inputs = Inputs::look(&[good.clone(), missing.clone()]).unwrap();
        let notes = inputs.notes();
        assert!(notes[1].starts_with("going on with ") && notes[1].contains("a.log"), "{notes:?}");
        let topics = inputs.topics("logs");
        assert_eq!(topics.keys().cloned().collect::<Vec<_>>(), [good.clone(), missing]);
        assert!(Inputs::look(&[good]).unwrap().notes().is_empty());
        let none = Inputs::look(&[dir.path().to_owned()]).unwrap();
        assert_eq!(none.notes()[1], "nothing is left to follow");
    }
}
