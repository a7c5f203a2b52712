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
    /// All there are, in the order of their codes.
    pub const ALL: [Exit; 4] = [Exit::Ok, Exit::Failure, Exit::Usage, Exit::Config];

    /// For manuals.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "Done, or the answer is yes.",
            Exit::Failure => "Not done, or the answer is no: something failed while it ran.",
            Exit::Usage => "The command line is wrong.",
            Exit::Config => {
                "The configuration is wrong, or does not fit the data: starting again does not help."
            }
        }
    }

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
