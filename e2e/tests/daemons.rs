//! The three daemons as processes: they stop in any order, refuse bad config as a whole, and tell systemd when ready.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use tailway_e2e::deployment::{DAEMONS, Deployment, PATIENCE};
use tailway_e2e::process::{finish, wait_until};
use tailway_e2e::programs::Programs;

/// Long enough for any drain, far below the 103 to 306 s that others need when their controller is gone.
const STOP_MAX: Duration = Duration::from_secs(10);

#[test]
fn they_stop_cleanly_in_each_of_six_orders() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("app.log");
    std::fs::write(&input, "one\ntwo\n").unwrap();
    let mut deployment =
        Deployment::export(&dir.path().join("run"), &[input.to_str().unwrap()]).unwrap();
    for order in orders {
        for daemon in DAEMONS {
            deployment.start_daemon(daemon).unwrap();
        }
        for index in order {
            let process = deployment.take(DAEMONS[index]).unwrap();
            process
                .stop(STOP_MAX)
                .unwrap_or_else(|error| panic!("{order:?}, {}: {error:#}", DAEMONS[index]));
        }
    }
}

/// What nobody has to look at is no warning: starts in the usual order, and goodbyes.
#[test]
fn a_life_without_trouble_warns_of_nothing_but_plaintext() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("app.log");
    std::fs::write(&input, "one\ntwo\n").unwrap();
    let run = dir.path().join("run");
    for _ in 0..2 {
        let deployment = Deployment::start(&run, &[input.to_str().unwrap()]).unwrap();
        for address in [deployment.dev.tls(), &deployment.dev.coordinators[0].address] {
            // A port check, and a client that is stopped while it connects.
            drop(TcpStream::connect(address).unwrap());
            TcpStream::connect(address).unwrap().write_all(b"\x16\x03\x01").unwrap();
        }
        deployment.stop().unwrap();
    }
    for daemon in DAEMONS {
        let log = std::fs::read_to_string(run.join(format!("{daemon}.log"))).unwrap();
        assert!(log.contains("INFO"), "{daemon} logs otherwise than this test believes:\n{log}");
        let loud = |line: &&str| line.contains("WARN") || line.contains("ERROR");
        let unexpected: Vec<&str> =
            log.lines().filter(loud).filter(|line| !line.contains("plaintext")).collect();
        assert!(unexpected.is_empty(), "{daemon}: {unexpected:#?}");
    }
}

#[test]
fn three_mistakes_are_three_lines_with_positions_and_exit_78() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("app.log");
    std::fs::write(&input, "").unwrap();
    let run = dir.path().join("run");
    let deployment = Deployment::export(&run, &[input.to_str().unwrap()]).unwrap();
    for daemon in DAEMONS {
        let config = run.join(format!("{daemon}.yaml"));
        let good = std::fs::read_to_string(&config).unwrap();
        let bad = good.clone()
            + "colour: blue\n"
            + "loging: { level: info }\n"
            + "admni: { address: \"127.0.0.1:1\" }\n";
        std::fs::write(&config, bad).unwrap();
        let starts = |args: &[&str]| {
            let program = Programs::built().unwrap().path(&format!("tailway-{daemon}")).unwrap();
            let mut command = Command::new(program);
            finish(command.args(args).arg("--config").arg(&config), PATIENCE).unwrap()
        };
        for args in [&[][..], &["check"]] {
            let output = starts(args);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{daemon} {args:?}: {said}");
            let first_bad_line = good.lines().count() + 1;
            for (offset, key) in ["colour", "loging", "admni"].iter().enumerate() {
                let position = format!("{daemon}.yaml:{}:1: ", first_bad_line + offset);
                let line = said.lines().find(|line| line.contains(&position) && line.contains(key));
                assert!(
                    line.is_some(),
                    "{daemon} {args:?} does not name {key} at {position}:\n{said}"
                );
            }
            assert!(
                said.contains("did you mean") && said.contains("logging"),
                "no did-you-mean:\n{said}"
            );
        }
        std::fs::write(&config, good).unwrap();
        assert_eq!(starts(&["check"]).status.code(), Some(0), "{daemon}: a good config is refused");
    }
    drop(deployment);
}

#[test]
fn systemd_is_told_when_they_are_ready_and_when_they_stop() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("app.log");
    std::fs::write(&input, "").unwrap();
    let mut deployment =
        Deployment::export(&dir.path().join("run"), &[input.to_str().unwrap()]).unwrap();
    for daemon in DAEMONS {
        let address = dir.path().join(format!("{daemon}.notify"));
        let socket = UnixDatagram::bind(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut command = deployment.command(daemon).unwrap();
        command.env("NOTIFY_SOCKET", &address);
        deployment.start_command(daemon, command).unwrap();
        let mut told = String::new();
        let mut hear = |what: &str| {
            wait_until(PATIENCE, || {
                let mut buffer = [0; 1024];
                while let Ok(n) = socket.recv(&mut buffer) {
                    told += &String::from_utf8_lossy(&buffer[..n]);
                    told.push('\n');
                }
                Ok(told.contains(what))
            })
            .unwrap_or_else(|_| panic!("{daemon} did not say {what}: {told}"));
        };
        hear("READY=1");
        if daemon == "agent" {
            deployment.stop_daemon(daemon).unwrap();
            hear("STOPPING=1");
        }
    }
}
