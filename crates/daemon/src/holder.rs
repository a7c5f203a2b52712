//! Who has what we want: names the process behind a pid or a port, for errors that say what to stop.

use std::fmt;
use std::fs;
use std::net::SocketAddr;

use tailway_net::port_holder::port_holder;

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

/// "127.0.0.1:9092 is held by pid 12 (kafka)" or as much of it as can be found out.
pub fn describe_held(address: SocketAddr) -> String {
    match port_holder(address.port()) {
        Some(holder) => format!("{address} is held by {holder}"),
        None => format!("{address} is held by a process that this user cannot see (try: ss -ltnp)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_named_as_the_holder_of_our_own_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = std::process::id();
        let text = describe_held(listener.local_addr().unwrap());
        assert!(text.contains(&format!("is held by pid {own} (")), "{text}");
        assert_eq!(Holder::of_pid(own).unwrap().pid, own);
        assert_eq!(Holder::of_pid(u32::MAX), None);
    }
}
