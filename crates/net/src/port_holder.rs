//! Who holds a TCP port on this host, for the error of a bind that failed.
//!
//! Best effort, from /proc: the listening socket's inode, then the process that has it open.
//! Without permission to look into other users' processes the answer is just unknown.

use std::fs;
use std::path::Path;

/// The most processes looked at: an error message is not worth a long search.
const PROCESSES_MAX: usize = 20_000;

/// `pid 1234 (kafka)`, if it can be found out.
pub fn port_holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    for process in processes.take(PROCESSES_MAX) {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if has_socket(&process.path().join("fd"), &links) {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("pid {pid} ({})", comm.trim()));
        }
    }
    None
}

fn has_socket(fds: &Path, links: &[String]) -> bool {
    let Ok(entries) = fs::read_dir(fds) else { return false };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
}

/// Inodes of sockets that listen on `port`: column 2 is `ADDRESS:PORT` in hex, 4 the state
/// (0A = listening), 10 the inode.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split_ascii_whitespace();
            let local = columns.nth(1)?;
            let state = columns.nth(1)?;
            let inode = columns.nth(5)?;
            let (_, hex) = local.rsplit_once(':')?;
            let matches = u16::from_str_radix(hex, 16).ok()? == port && state == "0A";
            matches.then(|| inode.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = port_holder(socket.local_addr().unwrap().port()).unwrap();
        assert!(holder.starts_with(&format!("pid {} (", std::process::id())), "{holder}");
    }

    #[test]
    fn only_listeners_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 77 1 0\n\
            1: 0100007F:2384 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0  0 78 1 0\n\
            broken\n";
        assert_eq!(listening_inodes(table, 0x2384), ["77"]);
        assert!(listening_inodes(table, 1).is_empty());
    }
}
