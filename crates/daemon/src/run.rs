//! The life of a daemon that is a process of its own: arguments, configuration, start, ready, signal, stop, exit code.
//!
//! Order: arguments -> configuration (all problems, exit 78) -> logging -> runtime -> admin port -> start -> READY ->
//! signal or failure -> STOPPING -> stop within `STOP_DEADLINE` -> exit. The second signal ends the process at once.

use std::convert::Infallible;
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
/// While its data is opened, which may take long, a program asks for so much more time, three times as often.
const START_EXTENSION: Duration = Duration::from_mins(1);
/// Up to here.
const START_MAX: Duration = Duration::from_mins(30);

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
    if notify.watchdog_interval().is_some() {
        context.tasks.pulses().watch();
    }
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
        started = opened(&notify, Hosted::<D>::start(config, context.clone())) => started,
    };
    let hosted = match started {
        Ok(hosted) => hosted,
        Err(error) => {
            tracing::error!(program = D::NAME, "{error}");
            return error.exit();
        }
    };
    tracing::info!(program = D::NAME, admin = %hosted.admin(), "started");
    let end = serve(&context, &notify, &mut signals).await;
    notify.stopping(end.why());
    signals.exit_on_next();
    let exit = told(fed(&notify, hosted.stop(Deadline::after(STOP_DEADLINE))).await);
    if let End::Failed(cause) = end {
        tracing::error!(program = D::NAME, cause, "stopped because it could not go on");
        return context.tasks.exit();
    }
    exit
}

/// Awaits a start, and asks for more time while it lasts.
async fn opened<F: Future>(notify: &Notify, start: F) -> F::Output {
    let mut asks = tokio::time::interval(START_EXTENSION / 3);
    let (mut start, until) = (std::pin::pin!(start), Deadline::after(START_MAX));
    loop {
        tokio::select! {
            biased;
            started = &mut start => return started,
            _ = asks.tick(), if notify.is_heard() && !until.remaining().is_zero() => {
                notify.starting("opening its data", START_EXTENSION);
            }
        }
    }
}

/// Awaits a stop, which has a deadline of its own, and keeps the watchdog quiet meanwhile.
async fn fed<F: Future>(notify: &Notify, stop: F) -> F::Output {
    let Some(interval) = notify.watchdog_interval() else { return stop.await };
    let (mut feed, mut stop) = (tokio::time::interval(interval), std::pin::pin!(stop));
    loop {
        tokio::select! {
            biased;
            stopped = &mut stop => return stopped,
            _ = feed.tick() => notify.watchdog(),
        }
    }
}

/// Why a program stops.
enum End {
    /// It was told to, by this signal.
    Signal(&'static str),
    /// It cannot go on, for this cause.
    Failed(String),
}

impl End {
    fn why(&self) -> &str {
        match self {
            End::Signal(signal) => signal,
            End::Failed(cause) => cause,
        }
    }
}

/// Until a signal or a failure.
async fn serve(context: &Context, notify: &Notify, signals: &mut Signals) -> End {
    tokio::select! {
        biased;
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            End::Signal(signal)
        }
        cause = context.tasks.failed() => End::Failed(cause),
        never = tell_systemd(context, notify) => match never {},
    }
}

/// READY once it is ready, then what it says of itself when that changes, and that its main loops turn.
async fn tell_systemd(context: &Context, notify: &Notify) -> Infallible {
    // Without a watchdog nothing wakes up here.
    let watchdog = notify.watchdog_interval();
    let mut feed = tokio::time::interval(watchdog.unwrap_or(STOP_DEADLINE));
    feed.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut told_ready, mut said) = (false, String::new());
    loop {
        tokio::select! {
            biased;
            line = context.ready.line_other_than(&said) => {
                notify.status(&line);
                said = line;
            }
            () = context.ready.wait(), if !told_ready => {
                told_ready = true;
                tracing::info!(after_ms = context.clock.mono().as_millis(), "ready");
                notify.ready();
            }
            _ = feed.tick(), if watchdog.is_some() => feed_watchdog(context, notify),
        }
    }
}

fn feed_watchdog(context: &Context, notify: &Notify) {
    let late = context.tasks.pulses().ask();
    if late.is_empty() {
        notify.watchdog();
        return;
    }
    let (loops, count) = (late.iter().take(5).cloned().collect::<Vec<_>>().join(", "), late.len());
    tracing::error!(
        loops,
        count,
        "main loops do not answer; the watchdog is not fed, and will end this process if they stay away"
    );
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
    use std::os::unix::net::UnixDatagram;
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

    /// What arrives at the socket within this time, as a list of datagrams.
    fn heard(socket: &UnixDatagram, within: Duration) -> Vec<String> {
        socket.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 500];
        let next = || socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec());
        let texts = std::iter::from_fn(next).map(|bytes| String::from_utf8(bytes).unwrap());
        texts.take(50).collect()
    }

    /// The loops run on a runtime of their own, where a thread may be stopped without stopping this test.
    #[test]
    fn the_watchdog_starves_when_a_main_loop_hangs_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        // Fed every 5 ms.
        let limit = Duration::from_millis(20);
        let notify = Notify::to(&dir.path().join("notify"), Some(limit)).unwrap();
        let context = Context::default();
        context.tasks.pulses().watch();
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
        let (hang, hangs) = std::sync::mpsc::channel::<()>();
        let (wake, woken) = tokio::sync::oneshot::channel::<()>();
        runtime.block_on(async {
            context.tasks.spawn_watched("stuck", |mut stop| async move {
                stop.unless(woken).await;
                // As a write to a disk that does not answer.
                hangs.recv().ok();
                stop.requested().await;
            });
            context.tasks.spawn_watched("idle", |mut stop| async move { stop.requested().await });
            let told = context.clone();
            tailway_runtime::spawn(async move { match tell_systemd(&told, &notify).await {} });
        });
        context.ready.condition("data", "2 of 3 logs are open").holds();
        let said = heard(&socket, Duration::from_secs(5));
        for expected in ["READY=1\nSTATUS=ready", "WATCHDOG=1"] {
            assert!(said.iter().any(|line| line == expected), "{expected} is not in {said:?}");
        }
        wake.send(()).unwrap();
        // What was sent before it hung, and then nothing for many times the interval.
        let starved = (0..200).any(|_| heard(&socket, limit * 10).is_empty());
        assert!(starved, "the watchdog is fed although a loop hangs");
        hang.send(()).unwrap();
        assert_eq!(heard(&socket, Duration::from_secs(5))[0], "WATCHDOG=1", "it turns again");
        runtime.shutdown_background();
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
