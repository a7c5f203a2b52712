//! The operator's command as a program; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tailway::main()
}
