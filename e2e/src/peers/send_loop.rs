//! The least that giving bytes to a client can cost: a loop that reads a file and writes it to a loopback socket.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::meter::{BROKER_CORE, CLIENT_CORE, Metered, pinned};

const CHUNK: usize = 64 << 10;
const BYTES: u64 = 1_000_000_000;
const PATIENCE: Duration = Duration::from_mins(2);

/// Seconds of one core per GB, by a process of its own on the brokers' core, to `cat` on the clients'.
pub fn cpu_per_gb(dir: &Path) -> Result<f64> {
    let file = dir.join("send-loop");
    let mut out = File::create(&file)?;
    let block = vec![b'x'; CHUNK];
    for _ in 0..BYTES.div_ceil(CHUNK as u64) {
        out.write_all(&block)?;
    }
    out.sync_data()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let mut sender = pinned(BROKER_CORE, std::env::current_exe()?);
    sender.args(["send-loop", &address]).arg(&file);
    let sender = Metered::start(&mut sender, Stdio::null(), &dir.join("send-loop.log"))?;
    let (socket, _) = listener.accept()?;
    let mut reader: Command = pinned(CLIENT_CORE, "cat");
    let reader = reader.stdin(std::os::fd::OwnedFd::from(socket)).stdout(Stdio::null()).status()?;
    ensure!(reader.success(), "cat ended with {reader}");
    let cost = sender.finish(PATIENCE)?;
    std::fs::remove_file(&file)?;
    #[allow(clippy::cast_precision_loss, reason = "1e9 is exact")]
    Ok(cost.cpu_seconds / (BYTES as f64 / 1e9))
}

/// The process that sends.
pub fn send(address: &str, file: &Path) -> Result<()> {
    let mut socket = TcpStream::connect(address).with_context(|| address.to_owned())?;
    let mut file = File::open(file)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            read => socket.write_all(&chunk[..read])?,
        }
    }
}
