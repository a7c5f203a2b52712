//! Records what real clients send: a proxy in front of the broker, which advertises the proxy's address.

#![allow(clippy::print_stdout, reason = "prints what it measured")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::hostile::recording;
use super::numbered;
use crate::deployment::Deployment;
use crate::kafka::{Kafka, NEWEST, client_properties};
use crate::kcat::{Transport, command, consume, produce};
use crate::process::run as run_command;
use crate::{deployment::PATIENCE, python};

/// Frames longer than this are left out: they add weight, not variety.
const FRAME_MAX: usize = 4_096;
/// Frames kept per API key and version.
const PER_KIND: usize = 6;

/// Frames seen, by (API key, version).
type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

/// Starts a broker behind a proxy, drives it with real clients, writes the recording.
pub fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("unused.log");
    std::fs::write(&input, "")?;
    let mut deployment = Deployment::export(&dir.path().join("run"), &[super::text(&input)?])?;
    let behind = deployment.dev.plaintext()?.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let front = listener.local_addr()?.to_string();
    let config = deployment.dir.join("broker.yaml");
    let yaml = std::fs::read_to_string(&config)?;
    let advertised = yaml.replace(&format!("advertise: {behind}"), &format!("advertise: {front}"));
    let advertised =
        advertised.replace(&format!("advertise: \"{behind}\""), &format!("advertise: \"{front}\""));
    ensure!(advertised != yaml, "broker.yaml has no `advertise: {behind}` to change:\n{yaml}");
    std::fs::write(&config, advertised)?;
    let seen = Seen::default();
    thread::spawn({
        let (seen, behind) = (seen.clone(), behind.clone());
        move || proxy(&listener, &behind, &seen)
    });
    deployment.start_daemon("coordinator")?;
    deployment.start_daemon("broker")?;
    deployment.dev.brokers[0].plaintext = Some(front);
    drive(&deployment, dir.path())?;
    deployment.stop()?;

    let seen = seen.lock().map_err(|_| anyhow::anyhow!("the proxy panicked"))?;
    let mut kept: Vec<&Vec<u8>> = Vec::new();
    let mut kinds = BTreeSet::new();
    for frame in seen.iter().filter(|frame| frame.len() >= 12 && frame.len() <= FRAME_MAX) {
        let kind = frame[4..8].to_vec();
        if kept.iter().filter(|other| other[4..8] == kind[..]).count() < PER_KIND
            && !kept.contains(&frame)
        {
            kinds.insert(kind);
            kept.push(frame);
        }
    }
    let bytes: Vec<u8> = kept.iter().flat_map(|frame| frame.iter().copied()).collect();
    let path = recording();
    std::fs::create_dir_all(path.parent().context("a parent")?)?;
    std::fs::write(&path, bytes)?;
    println!("{} frames of {} kinds in {}", kept.len(), kinds.len(), path.display());
    Ok(())
}

fn drive(deployment: &Deployment, dir: &std::path::Path) -> Result<()> {
    let dev = &deployment.dev;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        produce(dev, Transport::Plaintext, "recorded", &["-z", codec], &numbered(20, 10))?;
    }
    consume(dev, Transport::Plaintext, "recorded")?;
    let mut kcat = command(dev, Transport::Plaintext)?;
    run_command(
        kcat.args([
            "-q",
            "-X",
            "auto.offset.reset=earliest",
            "-c",
            "100",
            "-G",
            "recorders",
            "recorded",
        ]),
        PATIENCE,
    )?;
    for script in ["confluent_trip.py", "kafka_python_trip.py"] {
        python::script(script, dev, Transport::Plaintext, &["recorded-trip", "50"])?;
    }
    let kafka = Kafka::version(NEWEST);
    let (_, address) = client_properties(dev, Transport::Plaintext, dir)?;
    let bootstrap = ["--bootstrap-server", address.as_str()];
    let tool = |args: &[&str]| kafka.tool(&[&args[..1], &bootstrap[..], &args[1..]].concat());
    tool(&["kafka-topics", "--create", "--topic", "by-java", "--partitions", "2"])?;
    let producer =
        [&["kafka-console-producer"][..], &bootstrap[..], &["--topic", "by-java"]].concat();
    kafka.tool_with_input(&producer, &numbered(20, 10))?;
    tool(&[
        "kafka-console-consumer",
        "--topic",
        "by-java",
        "--group",
        "java",
        "--from-beginning",
        "--max-messages",
        "20",
    ])?;
    tool(&["kafka-get-offsets", "--topic", "by-java"])?;
    tool(&["kafka-consumer-groups", "--list"])?;
    tool(&["kafka-consumer-groups", "--describe", "--group", "java"])?;
    tool(&["kafka-configs", "--describe", "--all", "--topic", "by-java"])?;
    tool(&["kafka-topics", "--describe"])?;
    tool(&["kafka-topics", "--delete", "--topic", "by-java"])?;
    Ok(())
}

fn proxy(listener: &TcpListener, behind: &str, seen: &Seen) {
    for client in listener.incoming().flatten() {
        let Ok(server) = TcpStream::connect(behind) else { continue };
        let (Ok(mut back), Ok(mut answers)) = (client.try_clone(), server.try_clone()) else {
            continue;
        };
        thread::spawn(move || std::io::copy(&mut answers, &mut back));
        let seen = seen.clone();
        thread::spawn(move || relay(client, server, &seen));
    }
}

/// Passes requests on frame by frame, keeping a copy of each.
fn relay(mut client: TcpStream, mut server: TcpStream, seen: &Seen) -> Option<()> {
    loop {
        let mut prefix = [0; 4];
        client.read_exact(&mut prefix).ok()?;
        let mut frame = prefix.to_vec();
        frame.resize(4 + u32::from_be_bytes(prefix) as usize, 0);
        client.read_exact(&mut frame[4..]).ok()?;
        server.write_all(&frame).ok()?;
        seen.lock().ok()?.push(frame);
    }
}
