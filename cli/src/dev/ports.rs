//! The six ports of a dev directory: chosen once, kept in DIR/ports.json, checked before the start.
//!
//! Below 32768, because above lies the kernel's ephemeral range, where any client's end of a connection may hold one now
//! and then. Where the search begins depends on the directory, so that two of them rarely meet.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::Path;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tailway_daemon::holder;

const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ports {
    pub(crate) coordinator: u16,
    pub(crate) coordinator_admin: u16,
    pub(crate) broker_tls: u16,
    pub(crate) broker_plaintext: u16,
    pub(crate) broker_admin: u16,
    pub(crate) agent_admin: u16,
}

impl Ports {
    /// Six free ports in a row.
    pub(crate) fn choose(dir: &Path) -> Result<Ports> {
        let mut hasher = DefaultHasher::new();
        dir.hash(&mut hasher);
        let blocks = u64::from((LAST - FIRST) / 8);
        for attempt in 0..blocks {
            let block = u16::try_from((hasher.finish() + attempt) % blocks).unwrap_or(0);
            let ports = Ports::from(FIRST + block * 8);
            if ports.each().into_iter().all(|(_, port)| is_free(port)) {
                return Ok(ports);
            }
        }
        bail!("no six free ports in a row between {FIRST} and {LAST} on 127.0.0.1 (see: ss -ltn)")
    }

    fn from(first: u16) -> Ports {
        Ports {
            broker_tls: first,
            broker_plaintext: first + 1,
            broker_admin: first + 2,
            coordinator: first + 3,
            coordinator_admin: first + 4,
            agent_admin: first + 5,
        }
    }

    fn each(&self) -> [(&'static str, u16); 6] {
        [
            ("the broker's TLS listener", self.broker_tls),
            ("the broker's plaintext listener", self.broker_plaintext),
            ("the broker's admin port", self.broker_admin),
            ("the coordinator", self.coordinator),
            ("the coordinator's admin port", self.coordinator_admin),
            ("the agent's admin port", self.agent_admin),
        ]
    }

    /// What holds one of them, each as a line.
    pub(crate) fn held(&self, plaintext: bool) -> Vec<String> {
        self.each()
            .into_iter()
            .filter(|(_, port)| plaintext || *port != self.broker_plaintext)
            .filter(|(_, port)| !is_free(*port))
            .map(|(user, port)| format!("{user}: {}", holder::describe_held(loopback(port))))
            .collect()
    }
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// As a listener sees it: a connection in TIME_WAIT does not count.
fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ones_are_chosen_and_a_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ports = Ports::choose(dir.path()).unwrap();
        assert!(ports.each().iter().all(|(_, port)| (FIRST..=LAST).contains(port)));
        assert_eq!(ports.held(true), Vec::<String>::new());
        let holder = TcpListener::bind(loopback(ports.broker_plaintext)).unwrap();
        assert_eq!(ports.held(false), Vec::<String>::new(), "plaintext is not wanted");
        let held = ports.held(true);
        assert!(held[0].contains(&std::process::id().to_string()), "{held:?}");
        assert_ne!(Ports::choose(dir.path()).unwrap(), ports, "a held block is skipped");
        drop(holder);
    }
}
