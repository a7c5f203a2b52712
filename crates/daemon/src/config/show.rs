//! What a configuration comes to: each key with its value, from the file or by default, and where it is from.
//!
//! Invariants: what is shown loads again and means the same; no secret is in it. Secrets have no place in a configuration (only the
//! names of their files), so what stands under a secret's name, or before the @ of a URL, is a mistake, and is masked all the same.

use std::path::Path as FilePath;

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use super::path::{Path, Step};
use super::yaml::{self, Document, Kind, Node};
use super::{Problems, load};

/// In the place of a secret.
pub const MASK: &str = "(secret)";
/// Names of keys whose text is a secret, as parts of them.
const SECRET_NAMES: [&str; 4] = ["password", "passphrase", "secret", "api_key"];

/// A configuration to be shown. Serializes as what it is, in the order of the file's structure.
#[derive(Debug)]
pub struct Shown {
    root: Node,
    /// The file, for where a value is from; `None`: all of it is.
    written: Option<Document>,
}

/// The file with all that it leaves out. `fill` puts in the defaults that depend on other keys. A file with a wrong key or type is
/// refused with its problems: what it would come to is not known.
pub fn effective<R: DeserializeOwned + Serialize>(
    path: &FilePath,
    fill: impl FnOnce(R) -> R,
) -> Result<Shown, Problems> {
    let (raw, problems) = load::<R>(path)?;
    let raw = problems.finish(raw)?;
    let failed = |error| Problems::of_file(path, format!("it cannot be shown: {error}"));
    let text = yaml::to_yaml(&fill(raw)).map_err(failed)?;
    let mut root = yaml::parse(&text).map_err(|error| failed(error.text))?.root;
    mask(&mut root, "");
    Ok(Shown { root, written: Some(document(path)?) })
}

/// What the file says, and nothing else.
pub fn as_written(path: &FilePath) -> Result<Shown, Problems> {
    let mut root = document(path)?.root;
    mask(&mut root, "");
    Ok(Shown { root, written: None })
}

fn document(path: &FilePath) -> Result<Document, Problems> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problems::of_file(path, format!("cannot read it: {error}")))?;
    yaml::parse(&text).map_err(|error| Problems::of_syntax(path, error))
}

fn mask(node: &mut Node, key: &str) {
    match &mut node.kind {
        Kind::Mapping(entries) => {
            for entry in entries {
                let key = entry.key.clone();
                mask(&mut entry.value, &key);
            }
        }
        Kind::Sequence(items) => {
            for item in items {
                mask(item, key);
            }
        }
        Kind::Null => {}
        Kind::Bool(_, text)
        | Kind::Unsigned(_, text)
        | Kind::Signed(_, text)
        | Kind::Float(_, text)
        | Kind::Text(text) => {
            let key = key.to_lowercase().replace(['-', '.'], "_");
            if SECRET_NAMES.iter().any(|name| key.contains(name)) {
                node.kind = Kind::Text(MASK.to_owned());
            } else if let Some((scheme, host)) = around_userinfo(text) {
                node.kind = Kind::Text(format!("{scheme}{MASK}@{host}"));
            }
        }
    }
}

/// What stands before and behind `user:password@` in a URL. Up to the last `@`, because a password may have one.
fn around_userinfo(text: &str) -> Option<(&str, &str)> {
    let scheme = text.find("://")? + "://".len();
    let (_, host) = text.get(scheme..)?.rsplit_once('@')?;
    Some((text.get(..scheme)?, host))
}

impl Shown {
    /// As YAML with a comment at each value: the line of the file, or that it is the default.
    pub fn annotated(&self) -> Result<String, String> {
        let text = yaml::to_yaml(&self.root)?;
        let Some(written) = &self.written else { return Ok(text) };
        let shown = yaml::parse(&text).map_err(|error| error.text)?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut values = Vec::new();
        collect(&shown.root, &Path::default(), &mut values);
        let width = lines.iter().map(|line| line.chars().count()).filter(|n| *n < 60).max();
        let width = width.unwrap_or(0);
        for (path, line) in values {
            let origin = match written.root.find(&path) {
                Some(_) => format!("line {}", written.root.position_of_key(&path).line),
                None => "default".to_owned(),
            };
            if let Some(line) = line.checked_sub(1).and_then(|line| lines.get_mut(line)) {
                *line = format!("{line:width$}  # {origin}");
            }
        }
        Ok(lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat())
    }
}

/// Each value that has none below it, and the line on which it begins.
fn collect(node: &Node, path: &Path, values: &mut Vec<(Path, usize)>) {
    match &node.kind {
        Kind::Mapping(entries) if !entries.is_empty() => {
            for entry in entries {
                collect(&entry.value, &path.key(&entry.key), values);
            }
        }
        Kind::Sequence(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                collect(item, &path.child(Step::Index(index)), values);
            }
        }
        _ => values.push((path.clone(), node.position.line)),
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.root.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::super::secret::RawSecret;
    use super::*;
    use crate::units::{ByteSize, Span};

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Raw {
        urls: Vec<String>,
        password: Option<RawSecret>,
        size: ByteSize,
        linger: Span,
        depends: Option<u16>,
        note: String,
        topics: BTreeMap<String, String>,
    }

    impl Default for Raw {
        fn default() -> Raw {
            Raw {
                urls: vec!["http://a:1".to_owned()],
                password: None,
                size: ByteSize::mib(8),
                linger: Span::from_secs(5),
                depends: None,
                note: "12".to_owned(),
                topics: BTreeMap::new(),
            }
        }
    }

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_shown_says_where_it_is_from_and_loads_again() {
        let (_dir, path) = file("# comment\nsize: 1MiB\npassword: { file: /p }\n");
        let filled = |raw: Raw| Raw { depends: raw.depends.or(Some(7)), ..raw };
        let text = effective(&path, filled).unwrap().annotated().unwrap();
        let expected = "\
urls:
- http://a:1  # default
password:
  file: /p    # line 3
size: 1MiB    # line 2
linger: 5s    # default
depends: 7    # default
note: '12'    # default
topics: {}    # default
";
        assert_eq!(text, expected);
        let (_again, again) = file(&text);
        let (raw, problems) = load::<Raw>(&again).unwrap();
        problems.finish(()).unwrap();
        assert_eq!(raw, filled(load::<Raw>(&path).unwrap().0));
    }

    #[test]
    fn no_secret_is_shown_wherever_it_was_written() {
        let planted = "hunter2";
        let text = format!(
            "urls: [\"https://user:{planted}@h:1/x\", \"https://u:p@ss{planted}@h:2\"]\ntopics: {{ sasl.password: {planted}, api-key: '{planted}' }}\n"
        );
        let (_dir, path) = file(&text);
        let whole = effective::<Raw>(&path, |raw| raw).unwrap();
        let written = as_written(&path).unwrap();
        for shown in [&whole, &written] {
            let json = serde_json::to_string(shown).unwrap();
            for said in [shown.annotated().unwrap(), json] {
                assert!(!said.contains(planted) && said.contains(MASK), "{said}");
            }
        }
        assert!(whole.annotated().unwrap().contains("https://(secret)@h:1/x"));
        // Where a secret's file is to be named, the secret itself is refused, and not repeated.
        let (_dir, path) = file(&format!("password: {planted}\n"));
        let said = effective::<Raw>(&path, |raw| raw).unwrap_err().to_string();
        assert!(!said.contains(planted) && said.contains("a.yaml:1:"), "{said}");
        let said = as_written(&path).unwrap().annotated().unwrap();
        assert_eq!(said, "password: (secret)\n");
    }

    #[test]
    fn as_written_adds_nothing() {
        let (_dir, path) = file("size: 1MiB # one\nlinger: 5\n");
        assert_eq!(as_written(&path).unwrap().annotated().unwrap(), "size: 1MiB\nlinger: 5\n");
    }
}
