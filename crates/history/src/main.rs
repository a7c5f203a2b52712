//! `tailway-history FILE...`: reads histories (`-`: standard input) as one, prints each violation.
//!
//! Exit codes: 0 clean, 1 violations, 2 nothing that could be judged: unreadable, empty, or nothing acknowledged.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::fs::File;
use std::io::{BufReader, stdin};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tailway_history::{Checker, read};

#[derive(Parser)]
#[command(name = "tailway-history", about = "Checks histories of real clients: K1 to K12")]
struct Args {
    /// JSON-lines histories of one run; `-` is standard input.
    #[arg(required = true)]
    files: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let report = match feed(&args.files) {
        Ok(checker) => checker.finish(),
        Err(error) => {
            eprintln!("tailway-history: {error:#}");
            return ExitCode::from(2);
        }
    };
    println!("{report}");
    if !report.violations.is_empty() {
        return ExitCode::from(1);
    }
    if let Some(why) = report.vacuous() {
        eprintln!("tailway-history: {why}");
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

fn feed(files: &[String]) -> Result<Checker> {
    let mut checker = Checker::new();
    for name in files {
        if name == "-" {
            read(&mut checker, name, stdin().lock())?;
        } else {
            let file = File::open(name).with_context(|| name.clone())?;
            read(&mut checker, name, BufReader::new(file))?;
        }
    }
    Ok(checker)
}
