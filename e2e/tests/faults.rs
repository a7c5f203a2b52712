//! What is optimised and given away holds no fault point and no planted bug: not one of their names is in it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use tailway_e2e::process::run;
use tailway_e2e::programs::{Programs, cargo, repository};

const PROGRAMS: [&str; 4] = ["tailway", "tailway-coordinator", "tailway-broker", "tailway-agent"];

/// The names in `crates/faults/src/lib.rs`: e2e links none of our code, so it reads them.
fn names() -> Vec<String> {
    let source = fs::read_to_string(repository().join("crates/faults/src/lib.rs")).unwrap();
    let mut names = Vec::new();
    for list in ["POINTS", "CRASHES", "BOUNDS", "BUGS", "GUARDS"] {
        let begin = format!("pub const {list}: &[&str] =");
        let (_, rest) = source.split_once(&begin).unwrap();
        let (items, _) = rest.split_once("];").unwrap();
        let before = names.len();
        names.extend(items.split('"').skip(1).step_by(2).map(str::to_owned));
        assert!(names.len() > before, "no names in {list}");
    }
    names
}

/// Those of `names` that stand in a program.
fn found_in(program: &Path, names: &[String]) -> Vec<String> {
    let bytes = fs::read(program).unwrap();
    // Names are ASCII, which stays as it is; and the standard library's search is fast also in a debug build.
    let text = String::from_utf8_lossy(&bytes);
    names.iter().filter(|name| text.contains(name.as_str())).cloned().collect()
}

#[test]
fn no_program_has_a_fault_point_or_a_planted_bug() {
    let names = names();
    for program in PROGRAMS {
        let path = Programs::built().unwrap().path(program).unwrap();
        assert_eq!(found_in(path, &names), Vec::<String>::new(), "{program}");
    }
}

/// On demand, because it takes many minutes: `cargo test --test faults -p tailway-e2e -- --ignored`.
#[test]
#[ignore = "builds everything once more, with link-time optimisation"]
fn nothing_that_is_shipped_has_one() {
    let (names, shipped) = (names(), Programs::shipped().unwrap());
    for program in PROGRAMS {
        assert_eq!(found_in(shipped.path(program).unwrap(), &names), Vec::<String>::new());
    }
}

/// A name whose line was lost, as in a merge, would never be armed, and nobody would notice.
#[test]
fn every_name_stands_in_production_code() {
    let mut sources = String::new();
    for folder in ["agent/src", "broker/src", "coordinator/src", "crates", "cli/src"] {
        read_sources(&repository().join(folder), &mut sources);
    }
    let stands = |name: &String| {
        let bare = name.strip_suffix(".before").unwrap_or(name);
        [name.as_str(), bare].iter().any(|name| sources.contains(&format!("\"{name}\"")))
    };
    let lost: Vec<String> = names().into_iter().filter(|name| !stands(name)).collect();
    assert_eq!(lost, Vec::<String>::new());
}

/// All `*.rs` below, but the lists themselves.
fn read_sources(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("crates/faults") {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *sources += &fs::read_to_string(&path).unwrap();
        }
    }
}

/// The search finds every name where they are: in a program that was built with the feature.
#[test]
fn a_program_with_them_is_caught() {
    let target = tempfile::tempdir().unwrap();
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--quiet", "-p", "tailway-faults"]);
    build.args(["--features", "faults", "--example", "armed"]);
    build.arg("--target-dir").arg(target.path());
    run(&mut build, Duration::from_mins(5)).unwrap();
    let names = names();
    assert_eq!(found_in(&target.path().join("release/examples/armed"), &names), names);
}
