//! What is wrong with a file: every problem with its position, its path and what to write instead.

use std::fmt;
use std::path::{Path as FilePath, PathBuf};

use super::path::{Path, Step};
use super::yaml::{Document, Position, SyntaxError};

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column from 1; `None` if the file could not be read at all.
    pub position: Option<(usize, usize)>,
    /// The key's path, such as `listeners[0].address`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what to write instead.
    pub text: String,
}

/// The problems of one file, and the positions that new ones are placed by.
#[derive(Debug)]
pub struct Problems {
    file: PathBuf,
    pub(super) document: Box<Document>,
    /// Paths (in the file) that have a problem: what is below them is not looked at.
    pub(super) skipped: Vec<Path>,
    found: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &FilePath, document: Document) -> Problems {
        let mut problems = Problems {
            file: file.to_owned(),
            document: Box::new(document),
            skipped: Vec::new(),
            found: Vec::new(),
        };
        for fault in std::mem::take(&mut problems.document.faults) {
            problems.push(fault.position, fault.path.to_string(), fault.text);
        }
        problems
    }

    /// One problem, of the file as a whole.
    pub fn of_file(file: &FilePath, text: String) -> Problems {
        let mut problems = Problems::new(file, Document::empty());
        problems.found.push(Problem { position: None, path: String::new(), text });
        problems
    }

    pub(super) fn of_syntax(file: &FilePath, error: SyntaxError) -> Problems {
        let mut problems = Problems::new(file, Document::empty());
        problems.push(error.position, String::new(), error.text);
        problems
    }

    /// Adds a problem of the value at `path` (`listeners[0].address`), as the program sees it. The position is that of
    /// the value, or of the nearest thing above it that is written in the file. A path that already has a problem gets
    /// no second one.
    pub fn at(&mut self, path: &str, text: impl fmt::Display) {
        let path = self.as_written(&Path::parse(path));
        if self.skipped.iter().any(|skipped| path.starts_with(skipped)) {
            return;
        }
        let position = self.document.root.position_of(&path);
        self.push(position, path.to_string(), text.to_string());
    }

    pub(super) fn push(&mut self, position: Position, path: String, text: String) {
        let problem = Problem { position: Some((position.line, position.column)), path, text };
        if !self.found.contains(&problem) {
            self.found.push(problem);
        }
    }

    /// List items with a problem are missing in the program's structure: counts them in again.
    fn as_written(&self, path: &Path) -> Path {
        let mut written = Path::default();
        for step in path.steps() {
            let step = match step {
                Step::Index(wanted) => {
                    let kept =
                        (0..).filter(|i| !self.skipped.contains(&written.child(Step::Index(*i))));
                    Step::Index(kept.take(wanted + 1).last().unwrap_or(*wanted))
                }
                key @ Step::Key(_) => key.clone(),
            };
            written = written.child(step);
        }
        written
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn len(&self) -> usize {
        self.found.len()
    }

    pub fn file(&self) -> &FilePath {
        &self.file
    }

    /// All problems in the order of the file.
    pub fn sorted(&self) -> Vec<Problem> {
        let mut sorted = self.found.clone();
        sorted.sort_by_key(|problem| problem.position);
        sorted
    }

    /// The configuration, if there is no problem.
    pub fn finish<C>(self, config: C) -> Result<C, Problems> {
        if self.is_empty() { Ok(config) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.sorted().iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some((line, column)) = problem.position {
                write!(f, "{line}:{column}:")?;
            }
            if !problem.path.is_empty() {
                write!(f, " {}:", problem.path)?;
            }
            write!(f, " {}", problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
