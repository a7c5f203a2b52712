//! The agent as a process of its own: `tailway-agent --config FILE`.

use std::process::ExitCode;

use tailway_agent::Agent;

// Asked for by name so that cargo links again when packages are made, by another linker (xtask/src/dist/programs.rs).
const _LINKED_FOR: Option<&str> = option_env!("TAILWAY_LINKED_FOR");

fn main() -> ExitCode {
    tailway_daemon::run_daemon::<Agent>(std::env::args_os())
}
