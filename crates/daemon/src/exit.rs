//! The exit codes that scripts and systemd units may rely on.

use std::process::ExitCode;

/// Why the process ends; its number is the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went as asked.
    Ok,
    /// It failed at run time: start refused by the outside world, a task died, stragglers at the stop, an answer of "no".
    Failure,
    /// The command line was wrong.
    Usage,
    /// The configuration is wrong (EX_CONFIG): restarting cannot help, so the units set `RestartPreventExitStatus=78`.
    Config,
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Config => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
