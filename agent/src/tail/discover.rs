//! Finding files: which directories matter to the inputs, what is in them, what fits.
//!
//! Discovery remembers for each directory which part of which pattern it is listed for, so that one
//! changed directory is answered by listing that one. It reports names and inode numbers; what
//! they mean is decided by who asked. Directories that are symbolic links are followed, but not by
//! `**`, so that a link to a parent is no endless tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::files::TailFiles;
use super::glob::{DEPTH_MAX, Part};
use crate::config::InputConfig;
use crate::machine::identity::Kind;

/// Which part of which pattern of which input a directory is listed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Visit {
    input: usize,
    pattern: usize,
    part: usize,
    depth: usize,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: OsString,
    /// 0: a symbolic link; only a stat tells.
    pub ino: u64,
    /// The first input whose patterns it fits, unless it is excluded.
    pub input: Option<usize>,
    /// If it fits none: the name that it would fit with before a rotation, `app.log` for
    /// `app.log.1`, and the input.
    pub rotated: Option<(OsString, usize)>,
}

/// What a directory holds that is no directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub dir: PathBuf,
    pub entries: Vec<Entry>,
}

/// Something that stands in the way of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub path: PathBuf,
    pub cause: String,
}

/// The directories that matter, and why.
#[derive(Debug, Default)]
pub struct Discovery {
    dirs: BTreeMap<PathBuf, BTreeSet<Visit>>,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Found {
    pub listings: Vec<Listing>,
    pub troubles: Vec<Trouble>,
}

impl Discovery {
    /// Walks all patterns anew.
    pub fn scan(&mut self, files: &dyn TailFiles, inputs: &[InputConfig]) -> Found {
        self.dirs.clear();
        let mut work = Vec::new();
        for (input, config) in inputs.iter().enumerate() {
            for pattern in 0..config.patterns.len() {
                let visit = Visit { input, pattern, part: 0, depth: 0 };
                work.push((PathBuf::from("/"), visit));
            }
        }
        self.walk(files, inputs, work)
    }

    /// Lists the named directories again, and what is new below them.
    pub fn rescan(
        &mut self,
        files: &dyn TailFiles,
        inputs: &[InputConfig],
        dirs: &BTreeSet<PathBuf>,
    ) -> Found {
        let mut work = Vec::new();
        for dir in dirs {
            if let Some(visits) = self.dirs.get_mut(dir) {
                work.extend(std::mem::take(visits).into_iter().map(|visit| (dir.clone(), visit)));
            }
        }
        let found = self.walk(files, inputs, work);
        self.dirs.retain(|_, visits| !visits.is_empty());
        found
    }

    /// The directories to watch.
    pub fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.dirs.keys().map(PathBuf::as_path)
    }

    fn walk(
        &mut self,
        files: &dyn TailFiles,
        inputs: &[InputConfig],
        mut work: Vec<(PathBuf, Visit)>,
    ) -> Found {
        let mut found = Found::default();
        let mut subdirs: BTreeMap<PathBuf, Vec<(OsString, bool)>> = BTreeMap::new();
        while let Some((dir, visit)) = work.pop() {
            let Some(config) = inputs.get(visit.input) else { continue };
            let parts = config.patterns[visit.pattern].parts();
            let is_last = visit.part + 1 == parts.len();
            let next = Visit { part: visit.part + 1, ..visit };
            if let (Part::Literal(name), false) = (&parts[visit.part], is_last) {
                let path = dir.join(name);
                match files.stat(&path) {
                    Ok(stat) if stat.kind == Kind::Directory => work.push((path, next)),
                    Ok(_) => found.troubles.push(trouble(&path, "it is not a directory")),
                    Err(error) => {
                        found.troubles.push(trouble(&path, error));
                        // It may come: the place where it will appear is watched.
                        self.visit(&dir, visit);
                    }
                }
                continue;
            }
            if !self.visit(&dir, visit) {
                continue;
            }
            if !subdirs.contains_key(&dir) {
                match list(files, &dir) {
                    Ok((entries, below)) => {
                        subdirs.insert(dir.clone(), below);
                        found.listings.push(Listing { dir: dir.clone(), entries });
                    }
                    Err(error) => {
                        found.troubles.push(trouble(&dir, error));
                        subdirs.insert(dir.clone(), Vec::new());
                    }
                }
            }
            if matches!(parts[visit.part], Part::Tree) {
                work.push((dir.clone(), next));
            }
            for (name, is_link) in &subdirs[&dir] {
                match &parts[visit.part] {
                    Part::Tree if !is_link && visit.depth < DEPTH_MAX => {
                        work.push((dir.join(name), Visit { depth: visit.depth + 1, ..visit }));
                    }
                    part if !is_last && !matches!(part, Part::Tree) && part.fits(name) => {
                        work.push((dir.join(name), next));
                    }
                    _ => {}
                }
            }
        }
        self.fit(inputs, &mut found);
        found
    }

    /// Notes why a directory matters; false if that was known.
    fn visit(&mut self, dir: &Path, visit: Visit) -> bool {
        self.dirs.entry(dir.to_path_buf()).or_default().insert(visit)
    }

    /// Says of each entry which input it belongs to.
    fn fit(&self, inputs: &[InputConfig], found: &mut Found) {
        for listing in &mut found.listings {
            let Some(visits) = self.dirs.get(&listing.dir) else { continue };
            for entry in &mut listing.entries {
                let input_of = |name: &OsStr| {
                    let fits = |visit: &&Visit| {
                        let config = &inputs[visit.input];
                        let parts = config.patterns[visit.pattern].parts();
                        visit.part + 1 == parts.len()
                            && parts[visit.part].fits(name)
                            && !is_excluded(config, &listing.dir.join(name))
                    };
                    visits.iter().find(fits).map(|visit| visit.input)
                };
                entry.input = input_of(&entry.name);
                entry.rotated = match entry.input {
                    Some(_) => None,
                    None => before_rotation(&entry.name)
                        .and_then(|name| Some((name.to_owned(), input_of(name)?))),
                };
            }
        }
    }
}

/// The name without what rotation puts behind it: a number or a date.
fn before_rotation(name: &OsStr) -> Option<&OsStr> {
    let bytes = name.as_bytes();
    let is_suffix = |byte: &u8| byte.is_ascii_digit() || b".-_T:".contains(byte);
    let end = bytes.iter().rposition(|byte| !is_suffix(byte))? + 1;
    let suffix = &bytes[end..];
    let starts = suffix.first().is_some_and(|byte| !byte.is_ascii_digit());
    (starts && suffix.iter().any(u8::is_ascii_digit)).then(|| OsStr::from_bytes(&bytes[..end]))
}

fn is_excluded(config: &InputConfig, path: &Path) -> bool {
    config.exclude.iter().any(|pattern| pattern.fits(path))
}

fn trouble(path: &Path, cause: impl ToString) -> Trouble {
    Trouble { path: path.to_path_buf(), cause: cause.to_string() }
}

type Below = Vec<(OsString, bool)>;

/// Names that are no directories, and the directories (with whether each is a link).
fn list(files: &dyn TailFiles, dir: &Path) -> io::Result<(Vec<Entry>, Below)> {
    let (mut entries, mut below) = (Vec::new(), Vec::new());
    for entry in files.list(dir)? {
        if entry.is_dir {
            below.push((entry.name, entry.is_link));
        } else {
            entries.push(Entry { name: entry.name, ino: entry.ino, input: None, rotated: None });
        }
    }
    Ok((entries, below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Start;
    use crate::event::Format;
    use crate::tail::glob::Pattern;
    use crate::tail::os::OsFiles;

    fn input(patterns: &[String], exclude: &[&str]) -> InputConfig {
        InputConfig {
            id: "i".into(),
            patterns: patterns.iter().map(|text| Pattern::new(text).unwrap()).collect(),
            exclude: exclude.iter().map(|text| Pattern::excluding(text).unwrap()).collect(),
            start: Start::Beginning,
            format: Format::Ecs,
            topic: "logs".into(),
            line_bytes_max: 1024,
        }
    }

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[&str]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for file in files {
                tree.add(file);
            }
            tree
        }

        fn add(&self, file: &str) {
            let path = self.path(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }

        fn path(&self, file: &str) -> PathBuf {
            self.0.path().join(file)
        }

        fn glob(&self, pattern: &str) -> String {
            self.path(pattern).to_str().unwrap().to_owned()
        }

        fn fitting(&self, found: &Found) -> Vec<String> {
            let mut paths: Vec<String> = found
                .listings
                .iter()
                .flat_map(|listing| listing.entries.iter().map(move |e| (listing, e)))
                .filter(|(_, entry)| entry.input.is_some())
                .map(|(listing, entry)| {
                    let path = listing.dir.join(&entry.name);
                    path.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned()
                })
                .collect();
            paths.sort();
            paths
        }

        fn dirs(&self, discovery: &Discovery) -> Vec<String> {
            let inside =
                |dir: &Path| Some(dir.strip_prefix(self.0.path()).ok()?.to_str()?.to_owned());
            discovery.dirs().filter_map(inside).collect()
        }
    }

    #[test]
    fn finds_what_fits_and_watches_what_it_lists() {
        let tree = Tree::new(&["a/1.log", "a/1.log.gz", "a/b/2.log", "a/b/c/3.log", "d/4.log"]);
        for (pattern, expected, dirs) in [
            ("a/*.log", vec!["a/1.log"], vec!["a"]),
            ("a/1.log", vec!["a/1.log"], vec!["a"]),
            ("a/**/*.log", vec!["a/1.log", "a/b/2.log", "a/b/c/3.log"], vec!["a", "a/b", "a/b/c"]),
            ("*/*.log", vec!["a/1.log", "d/4.log"], vec!["", "a", "d"]),
            ("a/*/2.log", vec!["a/b/2.log"], vec!["a", "a/b"]),
            ("a/b/**", vec!["a/b/2.log", "a/b/c/3.log"], vec!["a/b", "a/b/c"]),
        ] {
            let mut discovery = Discovery::default();
            let found = discovery.scan(&OsFiles, &[input(&[tree.glob(pattern)], &[])]);
            assert_eq!(tree.fitting(&found), expected, "{pattern}");
            assert_eq!(tree.dirs(&discovery), dirs, "directories of {pattern}");
            assert_eq!(found.troubles, [], "{pattern}");
        }
    }

    #[test]
    fn excluded_names_do_not_fit() {
        let tree = Tree::new(&["a/1.log", "a/2.log.gz"]);
        let inputs = [input(&[tree.glob("a/*")], &["*.gz"])];
        let found = Discovery::default().scan(&OsFiles, &inputs);
        assert_eq!(tree.fitting(&found), ["a/1.log"]);
    }

    #[test]
    fn a_directory_that_is_missing_is_waited_for_where_it_will_appear() {
        let tree = Tree::new(&["a/x"]);
        let inputs = [input(&[tree.glob("a/b/c/*.log")], &[])];
        let mut discovery = Discovery::default();
        let found = discovery.scan(&OsFiles, &inputs);
        assert_eq!(found.troubles.len(), 1);
        assert_eq!(tree.dirs(&discovery), ["a"]);
        tree.add("a/b/c/1.log");
        let found = discovery.rescan(&OsFiles, &inputs, &BTreeSet::from([tree.path("a")]));
        assert_eq!(tree.fitting(&found), ["a/b/c/1.log"]);
        assert_eq!(tree.dirs(&discovery), ["a/b/c"]);
    }

    #[test]
    fn a_changed_directory_is_listed_alone() {
        let tree = Tree::new(&["a/1.log", "a/b/2.log"]);
        let inputs = [input(&[tree.glob("a/**/*.log")], &[])];
        let mut discovery = Discovery::default();
        discovery.scan(&OsFiles, &inputs);
        tree.add("a/b/3.log");
        tree.add("a/b/new/4.log");
        let found = discovery.rescan(&OsFiles, &inputs, &BTreeSet::from([tree.path("a/b")]));
        let listed: Vec<_> = found.listings.iter().map(|listing| listing.dir.clone()).collect();
        assert_eq!(listed, [tree.path("a/b"), tree.path("a/b/new")]);
        assert_eq!(tree.fitting(&found), ["a/b/2.log", "a/b/3.log", "a/b/new/4.log"]);
    }

    #[test]
    fn rotated_names_lead_to_the_name_before() {
        for (name, before) in [
            ("app.log.1", Some("app.log")),
            ("app-0.log.12", Some("app-0.log")),
            ("app.log-20241123", Some("app.log")),
            ("app.log.2024-11-23T10:00", Some("app.log")),
            ("app.log", None),
            ("app.log.gz", None),
            ("app.log.1.gz", None),
            ("app1", None),
            ("1", None),
        ] {
            assert_eq!(before_rotation(OsStr::new(name)), before.map(OsStr::new), "{name}");
        }
        let tree = Tree::new(&["a/1.log", "a/1.log.1", "a/other.1"]);
        let found = Discovery::default().scan(&OsFiles, &[input(&[tree.glob("a/*.log")], &[])]);
        let rotated: Vec<_> =
            found.listings[0].entries.iter().filter_map(|entry| entry.rotated.clone()).collect();
        assert_eq!(rotated, [("1.log".into(), 0)]);
    }

    #[test]
    fn a_link_to_a_parent_is_no_endless_tree() {
        let tree = Tree::new(&["a/1.log"]);
        std::os::unix::fs::symlink(tree.path("a"), tree.path("a/loop")).unwrap();
        let found = Discovery::default().scan(&OsFiles, &[input(&[tree.glob("a/**/*.log")], &[])]);
        assert_eq!(tree.fitting(&found), ["a/1.log"]);
    }
}
