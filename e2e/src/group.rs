//! Named checks, run one after the other, with a closing line that counts them.
//!
//! A check that cannot run is a failure that names what is missing; nothing is skipped.

#![allow(clippy::print_stdout, reason = "prints the verdicts")]

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

/// A name that says what is promised, and the check.
pub type Check = (&'static str, fn() -> Result<()>);

/// Runs the checks whose name contains one of `words` (all when empty) and prints a line each.
pub fn run(checks: &[Check], words: &[String]) -> Result<()> {
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in checks {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let begin = Instant::now();
        match check() {
            Ok(()) => {
                passed += 1;
                println!("ok     {name} ({:.1} s)", begin.elapsed().as_secs_f32());
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {name} ({:.1} s)\n{error:?}", begin.elapsed().as_secs_f32());
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 || passed == 0 {
        bail!("{failed} check(s) failed, {passed} passed");
    }
    Ok(())
}

/// Fails naming the Debian package when a program is not on the path.
pub fn need(program: &str, package: &str) -> Result<()> {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?;
    if !found.status.success() {
        bail!("`{program}` is missing: apt-get install {package}");
    }
    Ok(())
}
