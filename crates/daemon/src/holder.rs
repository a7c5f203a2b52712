//! Who holds a TCP port on this machine: turns "address in use" into a name.
//!
//! Reads /proc/net/tcp{,6} for the listening socket's inode and looks for it under /proc/<pid>/fd. Processes of other
//! users cannot be looked into without privilege; then the answer is only that somebody does.

use std::fmt;
use std::fs;
use std::net::SocketAddr;

/// A process that holds something we want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// Its command line, cut to 120 characters.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

impl Holder {
    /// The process with this id, if it lives.
    pub fn of_pid(pid: u32) -> Option<Holder> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
        let command = String::from_utf8_lossy(&words.join(&b' ')).chars().take(120).collect();
        Some(Holder { pid, command })
    }
}

/// The process that listens on this TCP port, if it can be found.
pub fn of_port(port: u16) -> Option<Holder> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let pids = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            if inodes.iter().any(|inode| target.as_os_str() == inode.as_str()) {
                return Holder::of_pid(pid);
            }
        }
    }
    None
}

/// "127.0.0.1:9092 is held by process 12 (kafka)" or as much of it as can be found out.
pub fn describe_held(address: SocketAddr) -> String {
    match of_port(address.port()) {
        Some(holder) => format!("{address} is held by {holder}"),
        None => format!("{address} is held by a process that this user cannot see (try: ss -ltnp)"),
    }
}

/// Inodes of the sockets in /proc/net/tcp that listen on `port`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = fields.get(1)?.rsplit(':').next()?;
            let listens = fields.get(3) == Some(&LISTEN);
            let same = u16::from_str_radix(local, 16) == Ok(port);
            (listens && same).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_listener_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let holder = of_port(address.port()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(describe_held(address).contains("is held by process"), "{holder}");
        drop(listener);
        assert_eq!(of_port(address.port()), None);
    }
}
