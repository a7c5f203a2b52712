//! `tailway dev` as a newcomer uses it: exit codes, resuming, Ctrl-C, and what it says when something is wrong.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tailway_e2e::deployment::{DevJson, PATIENCE, start_dev, stop_by_ctrl_c};
use tailway_e2e::process::{Process, Signal, finish, run_with_input, wait_until};
use tailway_e2e::programs::Programs;

fn tailway(args: &[&str]) -> Output {
    let program = Programs::built().unwrap().path("tailway").unwrap();
    finish(Command::new(program).args(args), Duration::from_secs(90)).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn lines(count: usize) -> String {
    (0..count).flat_map(|n| ["line ".to_owned(), n.to_string(), "\n".to_owned()]).collect()
}

/// What `tailway tap` reads from the beginning of a topic, one document a line.
fn tap(dev: &DevJson, topic: &str, limit: usize) -> String {
    let paths = [&dev.ca, &dev.client_cert, &dev.client_key].map(|path| path.to_str().unwrap());
    let limit = limit.to_string();
    let output = tailway(&[
        "tap",
        topic,
        "--from",
        "beginning",
        "--limit",
        &limit,
        "--bootstrap",
        dev.tls(),
        "--tls-ca",
        paths[0],
        "--tls-cert",
        paths[1],
        "--tls-key",
        paths[2],
    ]);
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn expect_exits_0_at_the_count_and_1_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input) = (dir.path().join("data"), dir.path().join("app.log"));
    std::fs::write(&input, lines(100)).unwrap();
    // One data directory for all runs: the second and later find the 100 records there and must add none.
    for (expected, timeout, code) in
        [("100", "60", 0), ("99", "60", 1), ("101", "3", 1), ("100", "60", 0)]
    {
        let args = [
            "dev",
            path(&input),
            "--data",
            path(&data),
            "--expect",
            expected,
            "--timeout",
            timeout,
        ];
        let output = tailway(&args);
        assert_eq!(output.status.code(), Some(code), "--expect {expected}:\n{}", said(&output));
    }
}

#[test]
fn ctrl_c_is_quick_and_a_second_run_resumes_without_repeating() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input, output) =
        (dir.path().join("data"), dir.path().join("app.log"), dir.path().join("out"));
    std::fs::write(&input, lines(50)).unwrap();
    let (process, dev) = start_dev(&data, &input, &output).unwrap();
    assert_eq!(dev.topics.get(&input).map(String::as_str), Some("logs"));
    assert!(!dev.pids.is_empty());
    assert_eq!(tap(&dev, "logs", 50).lines().count(), 50);
    stop_by_ctrl_c(process).unwrap();

    let (process, again) = start_dev(&data, &input, &output).unwrap();
    assert_eq!(again.tls(), dev.tls(), "ports are kept");
    let mut file = std::fs::File::options().append(true).open(&input).unwrap();
    std::io::Write::write_all(&mut file, b"the last\n").unwrap();
    let documents = tap(&again, "logs", 51);
    assert!(documents.lines().nth(50).unwrap().contains("\"message\":\"the last\""), "{documents}");
    stop_by_ctrl_c(process).unwrap();
}

/// Who looks for a topic a moment before an agent's first line makes it need not look again.
#[test]
fn a_tap_waits_for_a_topic_that_is_about_to_appear() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input, output) =
        (dir.path().join("data"), dir.path().join("app.log"), dir.path().join("out"));
    std::fs::write(&input, lines(1)).unwrap();
    let (process, _dev) = start_dev(&data, &input, &output).unwrap();
    let command = |words: &[&str]| {
        let mut command = Command::new(Programs::built().unwrap().path("tailway").unwrap());
        command.args(words).args(["--data", path(&data)]);
        command
    };
    let seen = dir.path().join("seen");
    let tap = Process::start("tap", &mut command(&["tap", "late", "--limit", "1"]), &seen).unwrap();
    let tapped = || std::fs::read_to_string(&seen).unwrap();
    wait_until(PATIENCE, || Ok(tapped().contains("no topic `late` yet"))).unwrap();
    let created = finish(&mut command(&["topic", "create", "late"]), PATIENCE).unwrap();
    assert!(created.status.success(), "{}", said(&created));
    run_with_input(&mut command(&["produce", "late"]), b"a line\n", PATIENCE).unwrap();
    assert!(tap.wait(PATIENCE).unwrap().success(), "{}", tapped());
    assert!(tapped().ends_with("a line\n"), "{}", tapped());
    stop_by_ctrl_c(process).unwrap();
}

/// A terminal that closes sends SIGHUP; `nohup` asks to go on.
#[test]
fn a_hangup_is_a_clean_stop_unless_it_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input, output) =
        (dir.path().join("data"), dir.path().join("app.log"), dir.path().join("out"));
    std::fs::write(&input, lines(5)).unwrap();
    let start_under = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(Programs::built().unwrap().path("tailway").unwrap());
        command.args(["dev", path(&input), "--data", path(&data)]);
        let process = Process::start(words[0], &mut command, &output).unwrap();
        wait_until(PATIENCE, || Ok(data.join("dev.json").exists())).unwrap();
        process
    };
    // Whoever runs this test may ignore the signal, and a program inherits that.
    let process = start_under(&["env", "--default-signal=HUP"]);
    process.signal(Signal::HUP).unwrap();
    let status = process.wait(Duration::from_secs(5)).unwrap();
    assert!(status.success(), "{status}: {}", std::fs::read_to_string(&output).unwrap());
    assert!(!data.join("dev.json").exists(), "it is there only while everything runs");

    let mut process = start_under(&["nohup"]);
    process.signal(Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(!process.has_exited().unwrap(), "{}", process.tail());
    stop_by_ctrl_c(process).unwrap();
}

#[test]
fn quiet_prints_the_result_only() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input) = (dir.path().join("data"), dir.path().join("app.log"));
    std::fs::write(&input, lines(20)).unwrap();
    let expect = ["--expect", "20", "--timeout", "60", "--quiet"];
    let output =
        tailway(&[&["dev", path(&input), "--data", path(&data)][..], &expect[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let said = said(&output);
    assert!(said.lines().count() == 1 && said.contains("20"), "{said}");
}

#[test]
fn a_second_dev_in_the_same_directory_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input, output) =
        (dir.path().join("data"), dir.path().join("app.log"), dir.path().join("out"));
    std::fs::write(&input, lines(1)).unwrap();
    let (process, _) = start_dev(&data, &input, &output).unwrap();
    let second = tailway(&["dev", path(&input), "--data", path(&data)]);
    assert!(!second.status.success());
    assert!(said(&second).contains(&process.pid().to_string()), "{}", said(&second));
    stop_by_ctrl_c(process).unwrap();
}

#[test]
fn a_running_agent_tells_of_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input, output) =
        (dir.path().join("data"), dir.path().join("app.log"), dir.path().join("out"));
    std::fs::write(&input, lines(20)).unwrap();
    let size = std::fs::metadata(&input).unwrap().len();
    let (process, _) = start_dev(&data, &input, &output).unwrap();
    let files = ["agent", "files", "--data", path(&data)];
    wait_until(PATIENCE, || {
        let told = tailway(&[&files[..], &["-o", "json"]].concat());
        anyhow::ensure!(told.status.success(), "{}", said(&told));
        let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
        let file = &told[0];
        Ok(file["path"] == path(&input) && file["acked"] == size && file["plans_open"] == 0)
    })
    .unwrap();
    let table = tailway(&files);
    let table = String::from_utf8(table.stdout).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    let [heading, row] = rows[..] else { panic!("{table}") };
    assert!(heading.starts_with("PATH ") && heading.ends_with("GUARANTEE"), "{table}");
    assert!(row.starts_with(path(&input)) && row.ends_with("exactly once"), "{table}");
    stop_by_ctrl_c(process).unwrap();
    let gone = tailway(&files);
    assert_eq!(gone.status.code(), Some(78), "{}", said(&gone));
    assert!(said(&gone).contains("next: tailway agent files --config"), "{}", said(&gone));
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input) = (dir.path().join("data"), dir.path().join("app.log"));
    std::fs::write(&input, lines(3)).unwrap();
    let missing = dir.path().join("missing.log");
    let unmatched = dir.path().join("none-*.log");
    let args = [
        "dev",
        path(&input),
        path(&missing),
        path(&unmatched),
        path(dir.path()),
        "--data",
        path(&data),
    ];
    let output = tailway(&[&args[..], &["--expect", "3", "--timeout", "60"]].concat());
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for named in [path(&missing), path(&unmatched), path(dir.path())] {
        assert!(said.contains(named), "{named} is not named:\n{said}");
    }
    let alone =
        tailway(&["dev", path(&missing), "--data", path(&data), "--expect", "1", "--timeout", "3"]);
    assert_eq!(alone.status.code(), Some(1));
}

#[test]
fn silence_is_explained_after_ten_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input, output) =
        (dir.path().join("data"), dir.path().join("app.log"), dir.path().join("out"));
    std::fs::write(&input, "").unwrap();
    let (process, _) = start_dev(&data, &input, &output).unwrap();
    // Nothing was read, but the commands that it printed work.
    let described = tailway(&["topic", "describe", "logs", "--data", path(&data)]);
    assert!(described.status.success(), "{}", said(&described));
    wait_until(Duration::from_secs(20), || Ok(process.printed().contains("no records"))).unwrap();
    assert!(process.printed().contains("app.log"), "{}", process.printed());
    stop_by_ctrl_c(process).unwrap();
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
