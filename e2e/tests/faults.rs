//! What is optimised and given away holds no fault point and no planted bug: not one of their names is in it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tailway_e2e::process::run;
use tailway_e2e::programs::{Programs, repository};

const PROGRAMS: [&str; 4] = ["tailway", "tailway-coordinator", "tailway-broker", "tailway-agent"];

/// The names in `crates/faults/src/lib.rs`: e2e links none of our code, so it reads them.
fn names() -> Vec<String> {
    let source = fs::read_to_string(repository().join("crates/faults/src/lib.rs")).unwrap();
    let mut names = Vec::new();
    for list in ["POINTS", "CRASHES", "BOUNDS", "BUGS"] {
        let begin = format!("pub const {list}: &[&str] = &[");
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
    let stands = |name: &&String| bytes.windows(name.len()).any(|window| window == name.as_bytes());
    names.iter().filter(stands).cloned().collect()
}

#[test]
fn no_program_has_a_fault_point_or_a_planted_bug() {
    let names = names();
    for program in PROGRAMS {
        let path = Programs::built().unwrap().path(program).unwrap();
        assert_eq!(found_in(path, &names), Vec::<String>::new(), "{program}");
    }
}

/// The search finds every name where they are: in a program that was built with the feature.
#[test]
fn a_program_with_them_is_caught() {
    let target = tempfile::tempdir().unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).arg("build").args(["--release", "--locked", "--quiet"]);
    cargo.args(["-p", "tailway-faults", "--features", "faults", "--example", "armed"]);
    cargo.arg("--target-dir").arg(target.path());
    run(&mut cargo, Duration::from_mins(5)).unwrap();
    let names = names();
    assert_eq!(found_in(&target.path().join("release/examples/armed"), &names), names);
}
