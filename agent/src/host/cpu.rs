//! CPU time by state, from `/proc/stat`, as shares between two samples.
//!
//! As in Metricbeat, `pct` is summed over cores (2 busy cores are 2.0) and `norm.pct` is not.

use serde_json::{Value, json};

use super::{HostError, ProcFile, share};

/// The states of `/proc/stat` that add up to all time (guest time is in user time already).
const STATES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// Ticks since boot, by state, over all cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    by_state: [u64; STATES.len()],
    cores: u32,
}

impl Ticks {
    /// Reads the text of `/proc/stat`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut fields = lines.next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        let mut by_state = [0; STATES.len()];
        for ticks in &mut by_state {
            *ticks = fields.next()?.parse().ok()?;
        }
        let cores = lines.take_while(|line| line.starts_with("cpu")).count();
        Some(Self { by_state, cores: u32::try_from(cores).ok()?.max(1) })
    }

    /// `system.cpu` for the time between `before` and now.
    #[expect(clippy::cast_precision_loss, reason = "ticks of an interval fit")]
    pub fn since(&self, before: &Self) -> Value {
        let spent: Vec<u64> = self
            .by_state
            .iter()
            .zip(before.by_state)
            .map(|(now, before)| now.saturating_sub(before))
            .collect();
        let all = spent.iter().sum::<u64>().max(1) as f64;
        let cores = f64::from(self.cores);
        let pcts = |part: f64| json!({"pct": share(part * cores), "norm": {"pct": share(part)}});
        let mut cpu = serde_json::Map::new();
        for (state, ticks) in STATES.iter().zip(&spent) {
            cpu.insert((*state).to_owned(), pcts(*ticks as f64 / all));
        }
        let idle = (spent[3] + spent[4]) as f64;
        cpu.insert("total".to_owned(), pcts((all - idle) / all));
        cpu.insert("cores".to_owned(), json!(self.cores));
        Value::Object(cpu)
    }
}

/// Samples `/proc/stat`; the first sample only sets the mark.
#[derive(Debug)]
pub struct Cpu {
    stat: ProcFile,
    before: Option<Ticks>,
}

impl Default for Cpu {
    fn default() -> Self {
        Self { stat: ProcFile::new("/proc/stat"), before: None }
    }
}

impl Cpu {
    pub fn sample(&mut self) -> Result<Option<Value>, HostError> {
        let ticks = Ticks::parse(self.stat.read()?);
        let Some(ticks) = ticks else {
            return Err(HostError::Field { path: self.stat.path().into(), field: "cpu" });
        };
        let before = self.before.replace(ticks);
        Ok(before.map(|before| ticks.since(&before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  1000 10 500 8000 100 0 20 5 0 0\n\
        cpu0 500 5 250 4000 50 0 10 2 0 0\ncpu1 500 5 250 4000 50 0 10 3 0 0\nintr 12345\n";
    const AFTER: &str = "cpu  1040 10 520 8110 120 0 25 10 0 0\n\
        cpu0 520 5 260 4055 60 0 12 5 0 0\ncpu1 520 5 260 4055 60 0 13 5 0 0\nintr 12399\n";

    #[test]
    fn shares_are_summed_over_cores() {
        let before = Ticks::parse(BEFORE).unwrap();
        let cpu = Ticks::parse(AFTER).unwrap().since(&before);
        assert_eq!(cpu["cores"], 2);
        assert_eq!(cpu["user"], json!({"pct": 0.4, "norm": {"pct": 0.2}}));
        assert_eq!(cpu["system"], json!({"pct": 0.2, "norm": {"pct": 0.1}}));
        assert_eq!(cpu["idle"], json!({"pct": 1.1, "norm": {"pct": 0.55}}));
        assert_eq!(cpu["iowait"]["norm"]["pct"], 0.1);
        assert_eq!(cpu["total"], json!({"pct": 0.7, "norm": {"pct": 0.35}}));
    }

    #[test]
    fn text_that_is_not_stat_is_refused() {
        for text in ["", "cpu", "cpu  1 2 3", "cpu  a b c d e f g h", "memory 1 2 3 4 5 6 7 8 9"] {
            assert_eq!(Ticks::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn this_host_has_a_cpu() {
        let mut cpu = Cpu::default();
        assert_eq!(cpu.sample().unwrap(), None);
        let sample = cpu.sample().unwrap().unwrap();
        assert!(sample["cores"].as_u64().unwrap() >= 1, "{sample}");
    }
}
