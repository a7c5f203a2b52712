//! The life of a daemon that is a process of its own: arguments, configuration, start, ready, signal, stop, exit code.
//!
//! Order: arguments -> configuration (all problems, exit 78) -> logging -> runtime -> admin port -> start -> READY ->
//! signal or failure -> STOPPING -> stop within `STOP_DEADLINE` -> exit. The second signal ends the process at once.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};

use crate::daemon::{Context, Daemon, Runtime};
use crate::exit::Exit;
use crate::host::Hosted;
use crate::notify::Notify;
use crate::shutdown::Signals;
use crate::tasks::{Deadline, Stragglers};

/// What a clean stop may take before the stragglers are named and the process ends with 1.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Worker threads hold no deep recursion; small stacks keep the resident memory small.
const WORKER_STACK_BYTES: usize = 512 << 10;
/// Threads for blocking calls (file IO, DNS); they end after ten idle seconds.
const BLOCKING_THREADS_MAX: usize = 16;

/// `main` of the three daemons: `fn main() -> ExitCode { run_daemon::<Broker>(std::env::args_os()) }`.
pub fn run_daemon<D: Daemon>(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command::<D>().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            let asked_for = !error.use_stderr();
            // Printing to a closed pipe has nobody to tell.
            drop(error.print());
            return if asked_for { Exit::Ok.into() } else { Exit::Usage.into() };
        }
    };
    let (path, check_only) = match matches.subcommand() {
        Some(("check", check)) => (config_path(check), true),
        _ => (config_path(&matches), false),
    };
    let config = match D::load_config(&path) {
        Ok(config) => config,
        Err(problems) => {
            tell(&problems.to_string());
            let count = problems.len();
            let noun = if count == 1 { "problem" } else { "problems" };
            tell(&format!("{}: {count} {noun} in {}", D::NAME, path.display()));
            return Exit::Config.into();
        }
    };
    let loose = crate::config::writable_by_all(&path);
    if check_only {
        if let Some(loose) = loose {
            tell(&format!("warning: {loose}"));
        }
        tell(&format!("{}: {} is good", D::NAME, path.display()));
        return Exit::Ok.into();
    }
    run::<D>(config, loose).into()
}

/// The command line's definition.
pub fn command<D: Daemon>() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .default_value(D::CONFIG_PATH)
        .global(true)
        .help("The configuration file");
    let example = format!(
        "Example:\n  {name} check --config {path}\n  {name} --config {path}",
        name = D::NAME,
        path = D::CONFIG_PATH
    );
    let check = Command::new("check")
        .about("Check the configuration, print all its problems and exit (0 good, 78 not)")
        .after_help(format!("Example:\n  {} check --config {}", D::NAME, D::CONFIG_PATH));
    Command::new(D::NAME)
        .about(D::ABOUT)
        .version(crate::VERSION)
        .arg(config)
        .subcommand(check)
        .after_help(example)
}

fn config_path(matches: &ArgMatches) -> PathBuf {
    matches.get_one::<PathBuf>("config").cloned().unwrap_or_default()
}

/// For people, before logging is set up and after all else failed.
#[allow(clippy::print_stderr, reason = "the configuration decides how to log; this is before it")]
fn tell(text: &str) {
    eprintln!("{text}");
}

fn run<D: Daemon>(config: D::Config, loose: Option<String>) -> Exit {
    if let Err(error) = crate::logging::init(D::logging(&config)) {
        tell(&format!("{}: {error}", D::NAME));
        return Exit::Failure;
    }
    if let Some(loose) = loose {
        tracing::warn!("{loose}");
    }
    let runtime = match D::runtime(&config) {
        Runtime::CurrentThread => {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.thread_stack_size(WORKER_STACK_BYTES);
            builder
        }
        Runtime::Workers(count) => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(count.max(1)).thread_stack_size(WORKER_STACK_BYTES);
            builder
        }
    }
    .enable_all()
    .max_blocking_threads(BLOCKING_THREADS_MAX)
    .build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(live::<D>(config));
            // What did not stop was named; a blocking call must not hold the exit.
            runtime.shutdown_timeout(Duration::from_millis(100));
            exit
        }
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            Exit::Failure
        }
    }
}

async fn live<D: Daemon>(config: D::Config) -> Exit {
    let context = Context::default();
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals");
            return Exit::Failure;
        }
    };
    let notify = Notify::from_env();
    tracing::info!(
        program = D::NAME,
        version = crate::VERSION,
        pid = std::process::id(),
        "starting"
    );
    let started = tokio::select! {
        biased;
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the start was complete");
            let deadline = Deadline::after(STOP_DEADLINE);
            return told(context.tasks.stop(deadline).await);
        }
        started = Hosted::<D>::start(config, context.clone()) => started,
    };
    let hosted = match started {
        Ok(hosted) => hosted,
        Err(error) => {
            tracing::error!(program = D::NAME, "{error}");
            return error.exit();
        }
    };
    tracing::info!(program = D::NAME, admin = %hosted.admin(), "started");
    let cause = serve(&context, &notify, &mut signals).await;
    notify.stopping();
    signals.exit_on_next();
    let exit = told(hosted.stop(Deadline::after(STOP_DEADLINE)).await);
    if let Some(cause) = cause {
        tracing::error!(program = D::NAME, cause, "stopped because it could not go on");
        return context.tasks.exit();
    }
    exit
}

/// Until a signal (`None`) or a failure (its cause).
async fn serve(context: &Context, notify: &Notify, signals: &mut Signals) -> Option<String> {
    // Without a watchdog nothing wakes up here.
    let watchdog = notify.watchdog_interval();
    let mut feed = tokio::time::interval(watchdog.unwrap_or(STOP_DEADLINE));
    feed.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told_ready = false;
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                return None;
            }
            cause = context.tasks.failed() => return Some(cause),
            () = context.ready.wait(), if !told_ready => {
                told_ready = true;
                tracing::info!(after_ms = context.clock.mono().as_millis(), "ready");
                notify.ready();
            }
            _ = feed.tick(), if watchdog.is_some() => notify.watchdog(),
        }
    }
}

fn told(stopped: Result<(), Stragglers>) -> Exit {
    match stopped {
        Ok(()) => {
            tracing::info!("stopped");
            Exit::Ok
        }
        Err(late) => {
            tracing::error!("{late}");
            Exit::Failure
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::common::{AdminConfig, LoggingConfig};
    use crate::{Problems, StartError};

    struct Nothing;

    impl Daemon for Nothing {
        const NAME: &'static str = "tailway-nothing";
        const ABOUT: &'static str = "Does nothing";
        const CONFIG_PATH: &'static str = "/etc/tailway/nothing.yaml";
        type Config = (AdminConfig, LoggingConfig);

        fn load_config(path: &Path) -> Result<Self::Config, Problems> {
            crate::config::load::<LoggingConfig>(path)
                .and_then(|(logging, problems)| problems.finish((AdminConfig::on_port(0), logging)))
        }

        fn logging(config: &Self::Config) -> &LoggingConfig {
            &config.1
        }

        fn admin(config: &Self::Config) -> &AdminConfig {
            &config.0
        }

        async fn start(_: Self::Config, context: Context) -> Result<Nothing, StartError> {
            context.ready.condition("nothing", "starting").holds();
            context.tasks.fail("there is nothing to do");
            Ok(Nothing)
        }

        async fn stop(self, _: Deadline) -> Result<(), Stragglers> {
            Ok(())
        }
    }

    fn code(args: &[&str]) -> String {
        let args = ["tailway-nothing"].iter().chain(args).map(Into::into);
        format!("{:?}", run_daemon::<Nothing>(args))
    }

    #[test]
    fn exit_codes_are_those_that_units_rely_on() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("good.yaml"), dir.path().join("bad.yaml"));
        std::fs::write(&good, "level: warn\n").unwrap();
        std::fs::write(&bad, "levle: warn\n").unwrap();
        let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
        let expect = |exit: Exit| format!("{:?}", ExitCode::from(exit));
        assert_eq!(code(&["check", "--config", good]), expect(Exit::Ok));
        assert_eq!(code(&["--config", bad, "check"]), expect(Exit::Config));
        assert_eq!(code(&["--config", bad]), expect(Exit::Config));
        assert_eq!(code(&["--config", "/nonexistent.yaml"]), expect(Exit::Config));
        assert_eq!(code(&["--colour", "blue"]), expect(Exit::Usage));
        assert_eq!(code(&["--version"]), expect(Exit::Ok));
        // It starts, says that it cannot go on, and is stopped.
        assert_eq!(code(&["--config", good]), expect(Exit::Failure));
    }

    #[test]
    fn every_help_ends_with_an_example() {
        let command = command::<Nothing>();
        command.clone().debug_assert();
        for inner in std::iter::once(&command).chain(command.get_subcommands()) {
            let help = inner.get_after_help().unwrap().to_string();
            assert!(help.starts_with("Example:\n  tailway-nothing"), "{help}");
            for line in help.lines().skip(1) {
                let words = line.trim().split(' ');
                assert!(command.clone().try_get_matches_from(words).is_ok(), "{line}");
            }
        }
    }
}
