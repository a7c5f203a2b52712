//! `tailway-coordinator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tailway_daemon::run_daemon::<tailway_coordinator::Coordinator>(std::env::args_os())
}
