//! The agent as a process of its own: `tailway-agent --config FILE`.

use std::process::ExitCode;

use tailway_agent::Agent;

fn main() -> ExitCode {
    tailway_daemon::run_daemon::<Agent>(std::env::args_os())
}
