//! What a process has used, by the kernel's account of it (proc(5)).

use std::fs;

use anyhow::{Context, Result};

/// At one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// User and system time.
    pub(super) cpu_seconds: f64,
    pub(super) rss_bytes: u64,
    /// The most there was so far.
    pub(super) peak_rss_bytes: u64,
    pub(super) descriptors: usize,
    pub(super) threads: u64,
}

impl Usage {
    pub(super) fn of(pid: u32) -> Result<Usage> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).context(path)
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        parse(&stat, &status, descriptors)
            .with_context(|| format!("/proc/{pid} has another form than proc(5) says"))
    }
}

fn parse(stat: &str, status: &str, descriptors: usize) -> Option<Usage> {
    // The name in parentheses may hold spaces; times are the fields 14 and 15.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let number = |name: &str| -> Option<u64> {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some(Usage {
        cpu_seconds,
        rss_bytes: number("VmRSS:")? << 10,
        peak_rss_bytes: number("VmHWM:")? << 10,
        descriptors,
        threads: number("Threads:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn procs_files_are_read() {
        let stat = "17 (a (b) c) S 1 17 17 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 1 0 9 0 0";
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
        let usage = parse(stat, status, 7).unwrap();
        #[allow(clippy::cast_precision_loss, reason = "a hundred or so")]
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        assert!((usage.cpu_seconds * ticks_per_second - 300.0).abs() < 1e-6, "{usage:?}");
        let rest = (usage.rss_bytes, usage.peak_rss_bytes, usage.descriptors, usage.threads);
        assert_eq!(rest, (1 << 20, 2 << 20, 7, 3));
        assert!(parse("17 (a) S 1", status, 7).is_none() && parse(stat, "", 7).is_none());
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0 && usage.descriptors > 0 && usage.threads > 0, "{usage:?}");
    }
}
