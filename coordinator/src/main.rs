//! `tailway-coordinator`.

use std::process::ExitCode;

// Asked for by name so that cargo links again when packages are made, by another linker (xtask/src/dist/programs.rs).
const _LINKED_FOR: Option<&str> = option_env!("TAILWAY_LINKED_FOR");

fn main() -> ExitCode {
    tailway_daemon::run_daemon::<tailway_coordinator::Coordinator>(std::env::args_os())
}
