//! `cargo x teeth`: each guarded line of production code is broken in turn, and something must fail.
//!
//! What is broken are the bugs that `crates/faults` lists. The simulation hunts every one of them (`cargo x sim --plants`,
//! which says by which seed it was found); the teeth in `TEETH` are the named tests and tortures that bite besides: each is
//! run with the bug planted, and must fail, and without it, and must pass. A bug that nothing finds fails the command, and
//! `docs/evidence/teeth.md` is the table of all.

#![allow(clippy::print_stdout, reason = "prints the verdicts")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// What bites when a bug is planted.
#[derive(Clone, Copy, Debug)]
enum Bite {
    /// A test by its full name.
    Test { package: &'static str, name: &'static str },
    /// `cargo x torture` with these arguments.
    Torture { args: &'static [&'static str] },
}

use Bite::{Test, Torture};

/// Bug and what bites besides the simulation.
const TEETH: &[(&str, Bite)] = &[
    (
        "agent.doubts_sent_anew",
        Torture { args: &["--seed", "5", "--minutes", "0.5", "--kills", "8", "--lines", "40000"] },
    ),
    (
        "agent.doubts_sent_anew",
        Test {
            package: "tailway-agent",
            name: "ship::tests::a_plan_is_in_the_journal_before_its_batch_is_sent_and_decides_where_to_go_on",
        },
    ),
    (
        "agent.offset_before_ack",
        Test {
            package: "tailway-agent",
            name: "ship::tests::a_plan_is_in_the_journal_before_its_batch_is_sent_and_decides_where_to_go_on",
        },
    ),
    (
        "agent.plan_not_saved",
        Test {
            package: "tailway-agent",
            name: "ship::tests::a_plan_is_in_the_journal_before_its_batch_is_sent_and_decides_where_to_go_on",
        },
    ),
    (
        "agent.expired_producer_resent",
        Test {
            package: "tailway-client",
            name: "resolve::tests::what_the_leader_does_not_remember_is_scanned_for",
        },
    ),
    (
        "agent.size_trusted_without_hash",
        Test {
            package: "tailway-agent",
            name: "ship::tests::after_a_power_cut::a_file_that_lost_its_end_is_read_on_at_what_is_proven_of_it",
        },
    ),
    (
        "broker.forward_busy_item_dropped",
        Test { package: "tailway-broker", name: "forward::opensearch::classify::tests::items" },
    ),
    (
        "broker.forward_conflict_is_an_error",
        Test { package: "tailway-broker", name: "forward::opensearch::classify::tests::items" },
    ),
    (
        "broker.forward_doubts_not_looked_up",
        Test {
            package: "tailway-broker",
            name: "forward::opensearch::tests::what_is_in_doubt_after_a_rollover_is_looked_up_and_not_sent_again",
        },
    ),
    (
        "broker.forward_commit_before_delivery",
        Test {
            package: "tailway-broker",
            name: "machine::forward::model_tests::each_record_arrives_once_or_is_a_dead_letter",
        },
    ),
    (
        "broker.forward_past_lost_dead_letter",
        Test {
            package: "tailway-broker",
            name: "machine::forward::model_tests::each_record_arrives_once_or_is_a_dead_letter",
        },
    ),
    (
        "broker.ack_before_sync",
        Test {
            package: "tailway-broker",
            name: "partition::crash_tests::acknowledged_records_survive_a_power_cut_at_any_sync",
        },
    ),
    (
        "broker.commit_before_sync",
        Test {
            package: "tailway-broker",
            name: "group::tests::a_commit_that_cannot_be_made_durable_is_never_acknowledged",
        },
    ),
    (
        "broker.failed_sync_retried",
        Test {
            package: "tailway-broker",
            name: "partition::tests::a_failed_sync_acknowledges_nothing_and_fences_for_good",
        },
    ),
    (
        "broker.full_disk_acked",
        Test {
            package: "tailway-broker",
            name: "partition::full_disk_tests::a_part_of_a_write_is_cut_off_at_once",
        },
    ),
    (
        "broker.group_fenced_singly",
        Test {
            package: "tailway-broker",
            name: "partition::commit_tests::one_failed_fdatasync_fences_its_whole_group",
        },
    ),
    (
        "broker.jumped_clock_believed",
        Test {
            package: "tailway-broker",
            name: "partition::expiry_tests::a_wall_clock_that_jumps_deletes_nothing",
        },
    ),
    (
        "broker.producer_ids_not_saved",
        Test {
            package: "tailway-broker",
            name: "cluster::producer_ids::tests::no_id_is_handed_out_twice_across_restarts_without_a_coordinator",
        },
    ),
    (
        "broker.producers_lost_at_roll",
        Test {
            package: "tailway-broker",
            name: "partition::crash_tests::a_resend_after_a_power_cut_is_recognised",
        },
    ),
    (
        "broker.producers_not_rebuilt",
        Test {
            package: "tailway-broker",
            name: "partition::crash_tests::a_resend_after_a_power_cut_is_recognised",
        },
    ),
    (
        "broker.quarantine_served",
        Test {
            package: "tailway-broker",
            name: "partition::tests::damage_below_the_durable_point_is_neither_served_nor_cut",
        },
    ),
    (
        "broker.recovery_cuts_to_checkpoint",
        Test {
            package: "tailway-broker",
            name: "partition::crash_tests::a_resend_after_a_power_cut_is_recognised",
        },
    ),
    (
        "broker.recovery_trusts_page_cache",
        Test {
            package: "tailway-broker",
            name: "partition::tests::a_restart_after_a_failed_sync_serves_what_the_disk_has",
        },
    ),
    (
        "broker.recovery_without_crc",
        Test {
            package: "tailway-broker",
            name: "partition::tests::damage_found_at_the_start_keeps_the_partition_closed",
        },
    ),
    (
        "broker.segment_name_not_synced",
        Test {
            package: "tailway-broker",
            name: "partition::crash_tests::acknowledged_records_survive_a_power_cut_at_any_sync",
        },
    ),
    (
        "broker.shown_before_sync",
        Test {
            package: "tailway-broker",
            name: "partition::tests::the_high_watermark_waits_for_the_disk",
        },
    ),
    (
        "broker.syncfs_error_ignored",
        Test {
            package: "tailway-broker",
            name: "partition::commit_tests::a_failed_syncfs_acknowledges_nothing_and_is_never_asked_again",
        },
    ),
    (
        "broker.syncfs_used_after_error",
        Test {
            package: "tailway-broker",
            name: "partition::commit_tests::a_failed_syncfs_acknowledges_nothing_and_is_never_asked_again",
        },
    ),
    (
        "broker.unmentioned_deleted",
        Test {
            package: "tailway-broker",
            name: "api::tests::data_that_the_image_does_not_mention_is_left_alone",
        },
    ),
    (
        "coordinator.entry_acked_before_sync",
        Test {
            package: "tailway-coordinator",
            name: "quorum::crash_tests::acknowledged_records_survive_a_power_cut_at_every_operation",
        },
    ),
    (
        "storage.journal_bad_crc",
        Test {
            package: "tailway-storage",
            name: "journal::tests::damage_of_durable_records_is_an_error_that_names_file_and_offset",
        },
    ),
];

/// The packages with tests that bite, built together so that one build serves all.
const PACKAGES: [&str; 5] =
    ["tailway-storage", "tailway-broker", "tailway-coordinator", "tailway-client", "tailway-agent"];

/// Runs all, and writes the table.
pub(crate) fn run(root: &Path, recorded: bool) -> Result<()> {
    let bugs = bugs(root)?;
    if !recorded {
        crate::run(crate::cargo(root).args(crate::SIM).arg("--plants"))?;
    }
    let found = found_by_simulation(root)?;
    let (mut rows, mut blunt) = (Vec::new(), Vec::new());
    for bug in &bugs {
        let bites: Vec<Bite> =
            TEETH.iter().filter(|(of, _)| of == bug).map(|(_, bite)| *bite).collect();
        for bite in &bites {
            let held = bite.holds(root, bug)?;
            println!("{} {bug}: {}", if held { "bites " } else { "FAILED" }, bite.name());
            if !held {
                blunt.push(format!("{bug}: {}", bite.name()));
            }
        }
        let mut by: Vec<String> = bites.iter().map(|bite| bite.name()).collect();
        by.extend(found.get(bug).map(|seed| format!("sim: seed {seed}")));
        if by.is_empty() {
            blunt.push(format!("{bug}: nothing bites"));
        }
        rows.push((bug.clone(), by.join("<br>")));
    }
    std::fs::write(root.join("docs/evidence/teeth.md"), table(root, &rows)?)?;
    ensure!(blunt.is_empty(), "teeth that do not bite:\n{}", blunt.join("\n"));
    println!("{} bugs, every one bitten; wrote docs/evidence/teeth.md", bugs.len());
    Ok(())
}

impl Bite {
    fn name(self) -> String {
        match self {
            Test { package, name } => format!("test `{name}` of {package}"),
            Torture { args } => format!("`cargo x torture -- {}`", args.join(" ")),
        }
    }

    /// Whether it passes without the bug and fails with it, for the reason that it looks for.
    fn holds(self, root: &Path, bug: &str) -> Result<bool> {
        match self {
            Test { name, .. } => {
                let (clean, said) = test(root, name, None)?;
                ensure!(clean, "{name} fails without any bug:\n{said}");
                ensure!(said.contains("1 passed"), "there is no test {name}:\n{said}");
                let (passed, said) = test(root, name, Some(bug))?;
                // A build that fails or a crash elsewhere proves nothing.
                Ok(!passed
                    && (said.contains(&format!("test {name} ... FAILED"))
                        || said.contains("SIGABRT")))
            }
            Torture { args } => {
                let (clean, said) = torture(root, args, None)?;
                ensure!(clean, "this torture fails without any bug:\n{said}");
                let (passed, said) = torture(root, args, Some(bug))?;
                Ok(!passed && said.contains("not exactly once"))
            }
        }
    }
}

fn test(root: &Path, name: &str, bug: Option<&str>) -> Result<(bool, String)> {
    let mut command = crate::cargo(root);
    command.args([
        "test",
        "--locked",
        "-p",
        "tailway-faults",
        "--features",
        "tailway-faults/faults",
    ]);
    command.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    command.args(["--lib", "--no-fail-fast", "--", "--exact", name]);
    said(&mut command, bug)
}

fn torture(root: &Path, args: &[&str], bug: Option<&str>) -> Result<(bool, String)> {
    let mut command = crate::cargo(root);
    command.args(["run", "--quiet", "--release", "--locked", "-p", "tailway-e2e", "--", "torture"]);
    command.args(args).args(bug.iter().flat_map(|bug| ["--plant", bug]));
    said(&mut command, None)
}

/// Whether a command succeeded, and all that it said.
fn said(command: &mut Command, bug: Option<&str>) -> Result<(bool, String)> {
    if let Some(bug) = bug {
        command.env("TAILWAY_PLANT", bug);
    }
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), said))
}

/// The list as it stands in the source.
fn bugs(root: &Path) -> Result<Vec<String>> {
    let source = std::fs::read_to_string(root.join("crates/faults/src/lib.rs"))?;
    let list = source.split_once("pub const BUGS: &[&str] = &[").context("no list of bugs")?.1;
    let (list, _) = list.split_once("];").context("no end of the list of bugs")?;
    let bugs: Vec<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    ensure!(!bugs.is_empty(), "the list of bugs is empty");
    for (bug, _) in TEETH {
        if !bugs.iter().any(|known| known == bug) {
            bail!("there is a tooth for {bug}, but no such bug");
        }
    }
    Ok(bugs)
}

/// Which seed of the simulation found which bug, from the table that it wrote.
fn found_by_simulation(root: &Path) -> Result<BTreeMap<String, String>> {
    let table = std::fs::read_to_string(root.join("docs/evidence/planted-bugs.md"))?;
    let mut found = BTreeMap::new();
    for line in table.lines() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let bug = cells[0].strip_prefix("| `").and_then(|cell| cell.strip_suffix('`'));
        if let (Some(bug), Some(seed)) = (bug, cells.get(2))
            && seed.starts_with(|digit: char| digit.is_ascii_digit())
        {
            found.insert(bug.to_owned(), (*seed).to_owned());
        }
    }
    Ok(found)
}

fn table(root: &Path, rows: &[(String, String)]) -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["rev-parse", "--short=12", "HEAD"]);
    let (_, commit) = said(&mut git, None)?;
    let mut text = format!(
        "# Teeth\n\nWritten by `cargo x teeth` of commit {}. Each bug is one guarded line of production code behind the feature `faults`\n\
         (`crates/faults`); what bites is shown to fail with the bug planted and to pass without it. What each line does wrong, and what\n\
         the simulation's invariants said, is in [planted-bugs.md](planted-bugs.md).\n\n\
         | bug | what bites |\n| --- | --- |\n",
        commit.trim()
    );
    for (bug, by) in rows {
        writeln!(text, "| `{bug}` | {by} |")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Every bug of the list is hunted by the simulation, or has a tooth. That it is found is what the command shows.
    #[test]
    fn every_bug_has_a_tooth() {
        let root = crate::workspace_root();
        let plants = std::fs::read_to_string(root.join("sim/src/plants.rs")).unwrap();
        let plants: String = plants.split_whitespace().collect();
        let hunted = |bug: &str| {
            plants.contains(&format!("plant(\"{bug}\""))
                || plants.contains(&format!("directed(\"{bug}\""))
        };
        let toothless = bugs(&root)
            .unwrap()
            .into_iter()
            .filter(|bug| !hunted(bug) && !TEETH.iter().any(|(of, _)| of == bug));
        assert_eq!(toothless.collect::<Vec<_>>(), Vec::<String>::new());
    }

    /// A test that was renamed or moved to another package would end the command only after an hour of others.
    #[test]
    fn every_named_test_is_in_its_package() {
        let root = crate::workspace_root();
        for (bug, bite) in TEETH {
            let Test { package, name } = bite else { continue };
            let short = package.strip_prefix("tailway-").unwrap();
            let dirs = [root.join("crates").join(short).join("src"), root.join(short).join("src")];
            let dir = dirs.iter().find(|dir| dir.exists()).unwrap();
            let function = format!("fn {}(", name.rsplit("::").next().unwrap());
            let has_it =
                |path: &PathBuf| std::fs::read_to_string(path).unwrap().contains(&function);
            let mut files = Vec::new();
            crate::tidy::collect(dir, &mut files).unwrap();
            assert!(files.iter().any(has_it), "{bug}: {name}");
        }
    }

    #[test]
    fn the_record_of_the_simulation_is_read() {
        let found = found_by_simulation(&crate::workspace_root()).unwrap();
        assert!(found.contains_key("broker.ack_before_sync"), "{found:?}");
        assert!(!found.contains_key("bug"), "the head of the table is no bug");
    }
}
