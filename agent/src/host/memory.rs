//! Memory and swap, from `/proc/meminfo`.
//!
//! As in Metricbeat, `used` counts caches as used, and `actual` does not (by `MemAvailable`).

use serde_json::{Value, json};

use super::{HostError, ProcFile, share_of};

/// `system.memory` from the text of `/proc/meminfo`; the name of the missing field otherwise.
pub fn parse(text: &str) -> Result<Value, &'static str> {
    let bytes = |name: &'static str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .ok_or(name)
    };
    let (total, free, cached) = (bytes("MemTotal")?, bytes("MemFree")?, bytes("Cached")?);
    let available = bytes("MemAvailable")?;
    let (swap_total, swap_free) = (bytes("SwapTotal")?, bytes("SwapFree")?);
    let used = |total: u64, free: u64| {
        let used = total.saturating_sub(free);
        json!({"bytes": used, "pct": share_of(used, total)})
    };
    Ok(json!({
        "total": total,
        "free": free,
        "cached": cached,
        "used": used(total, free),
        "actual": {"free": available, "used": used(total, available)},
        "swap": {"total": swap_total, "free": swap_free, "used": used(swap_total, swap_free)},
    }))
}

/// Samples `/proc/meminfo`.
#[derive(Debug)]
pub struct Memory {
    meminfo: ProcFile,
}

impl Default for Memory {
    fn default() -> Self {
        Self { meminfo: ProcFile::new("/proc/meminfo") }
    }
}

impl Memory {
    pub fn sample(&mut self) -> Result<Value, HostError> {
        let sample = parse(self.meminfo.read()?);
        sample.map_err(|field| HostError::Field { path: self.meminfo.path().into(), field })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "MemTotal:        1000 kB\nMemFree:          200 kB\n\
        MemAvailable:     600 kB\nBuffers:           50 kB\nCached:           300 kB\n\
        SwapCached:         7 kB\nSwapTotal:          0 kB\nSwapFree:           0 kB\n";

    #[test]
    fn used_counts_caches_and_actual_does_not() {
        let memory = parse(TEXT).unwrap();
        assert_eq!(memory["total"], 1_024_000);
        assert_eq!(memory["cached"], 307_200);
        assert_eq!(memory["used"], json!({"bytes": 819_200, "pct": 0.8}));
        assert_eq!(memory["actual"]["used"], json!({"bytes": 409_600, "pct": 0.4}));
        assert_eq!(memory["swap"]["used"], json!({"bytes": 0, "pct": 0.0}));
    }

    #[test]
    fn a_missing_field_is_named() {
        assert_eq!(parse(&TEXT.replace("MemAvailable", "Other")), Err("MemAvailable"));
    }

    #[test]
    fn this_host_has_memory() {
        let memory = Memory::default().sample().unwrap();
        assert!(memory["used"]["bytes"].as_u64().unwrap() > 0, "{memory}");
    }
}
