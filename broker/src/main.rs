//! The broker as a process of its own: `tailway-broker --config FILE`.

use std::process::ExitCode;

use tailway_broker::Broker;

fn main() -> ExitCode {
    tailway_daemon::run_daemon::<Broker>(std::env::args_os())
}
