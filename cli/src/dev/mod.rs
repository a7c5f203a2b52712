//! `tailway dev FILE_OR_GLOB...`: coordinator, broker and agent in one process, with the configuration structures, sockets,
//! TLS and disks of production; and `tailway dev export`, which writes the same configurations for three processes.
//!
//! Order: look at the inputs -> lock and prepare the directory -> start -> dev.json -> show progress -> stop in reverse.
//! Invariant: dev.json is there exactly while everything runs and was ready.

mod certs;
pub(crate) mod configs;
pub(crate) mod dir;
mod expect;
mod files;
mod hints;
pub(crate) mod inputs;
pub(crate) mod ports;
mod progress;
pub(crate) mod published;
mod screen;
pub(crate) mod sinks;
pub(crate) mod system;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tailway_client::{Client, ClientTlsFiles, HostPort};
use tailway_daemon::exit::Exit;
use tailway_daemon::logging::{self, Level};
use tailway_daemon::shutdown::Signals;
use tailway_daemon::{Clock, Deadline};

use self::dir::DevDir;
use self::expect::Counted;
use self::inputs::Inputs;
use self::ports::loopback;
use self::screen::{Mode, Reporter, Screen};
use self::system::{BadConfig, System};
use crate::args::{DevArgs, DevCommand};
use crate::output::{Output, complain};
use crate::target;

/// Ctrl-C ends everything in under five seconds; this leaves some of them for the runtime.
const STOP_DEADLINE: Duration = Duration::from_millis(4_500);
const WORKERS_MAX: usize = 4;
const WORKER_STACK_BYTES: usize = 512 << 10;
/// How often the progress is looked at.
const TICK: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How a count ended.
#[derive(Debug, Serialize)]
struct Outcome {
    expected: u64,
    as_expected: bool,
    text: String,
}

pub(crate) fn run(args: DevArgs, output: Output) -> Result<Exit> {
    if let Some(DevCommand::Export { dir, inputs, plaintext }) = &args.command {
        return export(dir, inputs, *plaintext, output);
    }
    let clock = Clock::new();
    let inputs = Inputs::look(&args.inputs)?;
    inputs.notes().iter().for_each(|note| complain(note));
    if inputs.patterns().is_empty() {
        bail!(
            "none of these can be followed\n  next: name a file or a glob, for example tailway dev '/var/log/*.log'"
        );
    }
    let dir = DevDir::open(&args.data, args.fresh, &clock)?;
    let on_stderr = if args.quiet { Level::ERROR } else { Level::WARN };
    let log = dir.log();
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    logging::init_with_file(file, on_stderr)?;
    must_be_free(&dir, args.plaintext)?;
    configs::write(&dir, &inputs, args.plaintext, &args.sinks)?;
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(WORKERS_MAX));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_stack_size(WORKER_STACK_BYTES)
        .enable_all()
        .build()?;
    let done = runtime.block_on(live(&args, output, &inputs, &dir, &clock));
    // What did not stop was named; a blocking call must not hold the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match done {
        Err(error) if error.is::<BadConfig>() => {
            complain(&error.to_string());
            Ok(Exit::Config)
        }
        done => done,
    }
}

fn export(dir: &Path, inputs: &[PathBuf], plaintext: bool, output: Output) -> Result<Exit> {
    let inputs = Inputs::look(inputs)?;
    inputs.notes().iter().for_each(|note| complain(note));
    if inputs.patterns().is_empty() {
        bail!(
            "none of these can be followed\n  next: name a file or a glob, for example tailway dev export ./run '/var/log/*.log'"
        );
    }
    let dir = DevDir::open(dir, false, &Clock::new())?;
    configs::write(&dir, &inputs, plaintext, &[])?;
    let published = configs::published(&dir, &inputs, plaintext);
    published.write(&dir.path)?;
    output.whole(&published, |_| {
        let path = dir.path.display();
        let mut lines = vec![format!(
            "wrote {path}/{{coordinator,broker,agent}}.yaml, tls/ and dev.json; start them with:"
        )];
        lines.extend(["coordinator", "broker", "agent"].map(|daemon| {
            let config = dir.config(daemon).display().to_string();
            format!("  tailway-{daemon} --config {}", crate::output::quoted(&config))
        }));
        lines
    })?;
    Ok(Exit::Ok)
}

fn must_be_free(dir: &DevDir, plaintext: bool) -> Result<()> {
    let held = dir.identity.ports.held(plaintext);
    if held.is_empty() {
        return Ok(());
    }
    bail!(
        "a port of this dev directory is not free:\n  {}\n  next: stop that process, or run once with --fresh to choose other ports",
        held.join("\n  ")
    )
}

async fn live(
    args: &DevArgs,
    output: Output,
    inputs: &Inputs,
    dir: &DevDir,
    clock: &Clock,
) -> Result<Exit> {
    let mut signals = Signals::new()?;
    let mut system = System::default();
    let ended = tokio::select! {
        biased;
        signal = signals.next() => Ok(Ended::Signal(signal)),
        ended = start_and_show(args, output, inputs, dir, clock, &mut system) => ended,
    };
    // From here on a second Ctrl-C ends the process at once.
    signals.exit_on_next();
    // A program reads one object, and nothing around it.
    let mut screen = Screen::new(Mode::of(args.quiet || !output.is_table()));
    if let Ok(Ended::Signal(signal)) = &ended {
        // The terminal may be what went away: nobody to tell, and the stop is to be clean all the same.
        drop(screen.line(&format!("{signal}: stopping")));
    }
    let unpublished = dir.unpublish();
    let stopped = system.stop(Deadline::after(STOP_DEADLINE)).await;
    let exit = match ended? {
        Ended::Signal(_) => Exit::Ok,
        Ended::Failed(cause) => {
            complain(&format!("tailway: {cause}; its log is {}", dir.log().display()));
            Exit::Failure
        }
        Ended::Counted(counted, expected) => {
            let timeout = Duration::from_secs(args.timeout);
            let (text, as_expected) = (counted.text(expected, timeout), counted.is_as_expected());
            if output.is_table() {
                screen.result(&text)?;
            } else {
                output.line(&Outcome { expected, as_expected, text }, "")?;
            }
            if as_expected { Exit::Ok } else { Exit::Failure }
        }
    };
    unpublished?;
    stopped?;
    Ok(exit)
}

/// Why a run ends.
enum Ended {
    Signal(&'static str),
    /// One of the three cannot go on.
    Failed(String),
    Counted(Counted, u64),
}

async fn start_and_show(
    args: &DevArgs,
    output: Output,
    inputs: &Inputs,
    dir: &DevDir,
    clock: &Clock,
    system: &mut System,
) -> Result<Ended> {
    if !args.sinks.is_empty() {
        sinks::set_up(dir).await;
    }
    system.start(dir, clock).await?;
    let client = client(dir)?;
    // So that the commands work as printed, also where no line has come yet.
    client.topic_or_create(configs::TOPIC).await.context("cannot create the topic")?;
    let mut published = configs::published(dir, inputs, args.plaintext);
    let own = std::process::id();
    published.pids = ["coordinator", "broker", "agent"].map(|d| (d.to_owned(), own)).into();
    published.write(&dir.path)?;
    let mode = Mode::of(args.quiet || !output.is_table());
    if !output.is_table() && args.expect.is_none() {
        output.line(&published, "")?;
    }
    let mut screen = Screen::new(mode);
    for line in opening(args, inputs, dir, clock)? {
        screen.line(&line)?;
    }
    let expectation = async {
        match args.expect {
            Some(expected) => {
                let timeout = Duration::from_secs(args.timeout);
                let left = || progress::of(system).is_some_and(|progress| progress.lag == 0);
                let counted =
                    expect::count(client, configs::TOPIC, expected, timeout, left).await?;
                Ok(Ended::Counted(counted, expected))
            }
            None => std::future::pending().await,
        }
    };
    let shown = async {
        let mut reporter = Reporter::new(mode, clock.mono());
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            if let Some(now) = progress::of(system) {
                let show = reporter.tick(clock.mono(), now, || progress::why(system, inputs));
                screen.show(show)?;
            }
        }
    };
    tokio::select! {
        biased;
        cause = system.failed() => Ok(Ended::Failed(cause)),
        ended = expectation => ended,
        failed = shown => failed,
    }
}

/// What is said once everything runs.
fn opening(args: &DevArgs, inputs: &Inputs, dir: &DevDir, clock: &Clock) -> Result<Vec<String>> {
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    let mut lines: Vec<String> = dir.made.iter().map(|made| format!("made {made}")).collect();
    lines.extend(hints::places(dir, inputs, args.plaintext));
    lines.push(format!("ready after {} ms; in another terminal:", clock.mono().as_millis()));
    lines.extend(hints::commands(dir, &program).into_iter().map(|command| format!("  {command}")));
    lines.push("Ctrl-C stops it; the next run goes on where this one stopped.".to_owned());
    Ok(lines)
}

fn client(dir: &DevDir) -> Result<Client> {
    let broker = loopback(dir.identity.ports.broker_tls);
    let files = ClientTlsFiles {
        ca: dir.certificates.ca(),
        cert: Some(dir.certificates.cert("admin")),
        key: Some(dir.certificates.key("admin")),
        server_name: None,
    };
    let broker = HostPort::new(broker.ip().to_string(), broker.port());
    target::connect(vec![broker], Some(files), REQUEST_TIMEOUT)
}
