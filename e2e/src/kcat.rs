//! kcat (Debian's, on librdkafka 2.0.2) as a witness: it counts, lists and produces; we only start it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::deployment::DevJson;
use crate::process::{run, run_with_input};

const PATIENCE: Duration = Duration::from_secs(90);

/// How a client reaches the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Plaintext,
    Tls,
}

/// Both, for a check that runs over each.
pub const TRANSPORTS: [Transport; 2] = [Transport::Plaintext, Transport::Tls];

/// A kcat command with its connection settings, e.g. for `-L`.
pub fn command(dev: &DevJson, transport: Transport) -> Result<Command> {
    let mut command = Command::new("kcat");
    match transport {
        Transport::Plaintext => command.args(["-b", dev.plaintext()?]),
        Transport::Tls => command
            .args(["-b", dev.tls(), "-X", "security.protocol=ssl"])
            .arg("-X")
            .arg(format!("ssl.ca.location={}", dev.ca.display()))
            .arg("-X")
            .arg(format!("ssl.certificate.location={}", dev.client_cert.display()))
            .arg("-X")
            .arg(format!("ssl.key.location={}", dev.client_key.display())),
    };
    Ok(command)
}

/// The sum of the ends of a topic's first `partitions`: how many records it was given.
/// `kcat` has its connection settings.
pub fn ends(mut kcat: Command, topic: &str, partitions: u32) -> Result<u64> {
    kcat.arg("-Q");
    for partition in 0..partitions {
        kcat.args(["-t", &format!("{topic}:{partition}:-1")]);
    }
    let said = run(&mut kcat, PATIENCE)?;
    let ends: Option<Vec<u64>> =
        said.lines().map(|line| line.rsplit_once(" offset ")?.1.trim().parse().ok()).collect();
    Ok(ends.with_context(|| format!("kcat -Q printed another form:\n{said}"))?.iter().sum())
}

/// `kcat -L`, as printed.
pub fn list(dev: &DevJson, transport: Transport) -> Result<String> {
    run(command(dev, transport)?.arg("-L"), PATIENCE)
}

/// Everything in a topic from its beginning to its end now, one message a line.
pub fn consume(dev: &DevJson, transport: Transport, topic: &str) -> Result<String> {
    run(command(dev, transport)?.args(["-C", "-q", "-e", "-o", "beginning", "-t", topic]), PATIENCE)
}

/// How many messages a topic holds now, as kcat counts them (messages must not hold newlines).
pub fn count(dev: &DevJson, transport: Transport, topic: &str) -> Result<usize> {
    Ok(consume(dev, transport, topic)?.lines().count())
}

/// Produces each line of `input` as a message with acks=all.
pub fn produce(
    dev: &DevJson,
    transport: Transport,
    topic: &str,
    extra: &[&str],
    input: &str,
) -> Result<String> {
    let mut command = command(dev, transport)?;
    command
        .args(["-P", "-t", topic, "-X", "acks=all", "-X", "message.timeout.ms=30000"])
        .args(extra);
    run_with_input(&mut command, input.as_bytes(), PATIENCE)
}
