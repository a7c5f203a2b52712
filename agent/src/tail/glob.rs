//! Path patterns, one component at a time.
//!
//! A pattern is walked down from the root: literal components cost nothing, a component with a
//! wildcard means that its directory is listed (and watched), `**` means the whole tree below. So a
//! pattern touches no directory that could not hold a match, and a change in one directory is
//! answered by listing that directory alone.

use std::ffi::OsStr;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

/// How deep `**` goes: deeper trees are loops or mistakes.
pub const DEPTH_MAX: usize = 32;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("`{text}` is not an absolute path; write for example /var/log/*.log")]
    Relative { text: String },
    #[error("`{text}` is not a pattern: {cause}")]
    Syntax { text: String, cause: String },
}

/// One component of a pattern.
#[derive(Debug, Clone)]
pub enum Part {
    Literal(String),
    Wild(GlobMatcher),
    /// `**`: any number of directories.
    Tree,
}

impl Part {
    /// Whether a name in a directory fits this component.
    pub fn fits(&self, name: &OsStr) -> bool {
        match self {
            Self::Literal(literal) => OsStr::new(literal) == name,
            Self::Wild(matcher) => matcher.is_match(Path::new(name)),
            Self::Tree => true,
        }
    }
}

/// A pattern for paths.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
    whole: GlobMatcher,
}

impl Pattern {
    /// A pattern for absolute paths.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            return Err(PatternError::Relative { text: text.to_owned() });
        }
        let mut parts = Vec::new();
        for part in text.split('/').filter(|part| !part.is_empty()) {
            parts.push(match part {
                "**" if matches!(parts.last(), Some(Part::Tree)) => continue,
                "**" => Part::Tree,
                ".." | "." => {
                    let cause = "it has a `.` or `..` in it".to_owned();
                    return Err(PatternError::Syntax { text: text.to_owned(), cause });
                }
                literal if is_literal(literal) => Part::Literal(literal.to_owned()),
                wild => Part::Wild(compile(wild, text)?),
            });
        }
        if matches!(parts.last(), Some(Part::Tree)) {
            parts.push(Part::Wild(compile("*", text)?));
        }
        if parts.is_empty() {
            let cause = "it names no file".to_owned();
            return Err(PatternError::Syntax { text: text.to_owned(), cause });
        }
        Ok(Self { text: text.to_owned(), parts, whole: compile(text, text)? })
    }

    /// A pattern that excludes: absolute, or a name that is meant in every directory.
    pub fn excluding(text: &str) -> Result<Self, PatternError> {
        if text.contains('/') { Self::new(text) } else { Self::new(&format!("/**/{text}")) }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether the whole path fits.
    pub fn fits(&self, path: &Path) -> bool {
        self.whole.is_match(path)
    }

    /// True if it can only ever mean one path.
    pub fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal(_)))
    }
}

fn is_literal(part: &str) -> bool {
    !part.contains(['*', '?', '[', ']', '{', '}', '\\'])
}

fn compile(glob: &str, text: &str) -> Result<GlobMatcher, PatternError> {
    GlobBuilder::new(glob)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| PatternError::Syntax {
            text: text.to_owned(),
            cause: error.kind().to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_paths_fit_or_not() {
        for (pattern, path, fits) in [
            ("/var/log/*.log", "/var/log/a.log", true),
            ("/var/log/*.log", "/var/log/x/a.log", false),
            ("/var/log/**/*.log", "/var/log/a.log", true),
            ("/var/log/**/*.log", "/var/log/x/y/a.log", true),
            ("/var/log/**", "/var/log/x/y", true),
            ("/var/log/{a,b}[0-9].log", "/var/log/b7.log", true),
            ("/var/log/{a,b}[0-9].log", "/var/log/c7.log", false),
        ] {
            let fit = Pattern::new(pattern).unwrap().fits(Path::new(path));
            assert_eq!(fit, fits, "{pattern} and {path}");
        }
    }

    #[test]
    fn a_bare_name_excludes_everywhere() {
        let gz = Pattern::excluding("*.gz").unwrap();
        assert!(gz.fits(Path::new("/a.gz")) && gz.fits(Path::new("/var/log/x/a.gz")));
        assert!(!gz.fits(Path::new("/var/log/a.log")));
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        for (text, says) in [
            ("var/log/*.log", "not an absolute path"),
            ("/var/../log", "`.` or `..`"),
            ("/", "names no file"),
            ("/var/log/[a", "not a pattern"),
            ("/var/log/{a", "not a pattern"),
        ] {
            let error = Pattern::new(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn only_patterns_without_wildcards_are_literal() {
        assert!(Pattern::new("/var/log/syslog").unwrap().is_literal());
        assert!(!Pattern::new("/var/log/sys?og").unwrap().is_literal());
    }
}
