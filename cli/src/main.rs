//! The operator's command as a program; all of it is in the library.

use std::process::ExitCode;

// Asked for by name so that cargo links again when packages are made, by another linker (xtask/src/dist/programs.rs).
const _LINKED_FOR: Option<&str> = option_env!("TAILWAY_LINKED_FOR");

fn main() -> ExitCode {
    tailway::main()
}
