//! Load averages, from `/proc/loadavg`; `norm` is per core.

use serde_json::{Value, json};

use super::{HostError, ProcFile, share};

/// `system.load` from the text of `/proc/loadavg`.
pub fn parse(text: &str, cores: u32) -> Option<Value> {
    let mut fields = text.split_ascii_whitespace();
    let mut next = || fields.next()?.parse::<f64>().ok();
    let (one, five, fifteen) = (next()?, next()?, next()?);
    let per_core = |load: f64| share(load / f64::from(cores.max(1)));
    Some(json!({
        "1": one, "5": five, "15": fifteen, "cores": cores,
        "norm": {"1": per_core(one), "5": per_core(five), "15": per_core(fifteen)},
    }))
}

/// Samples `/proc/loadavg`.
#[derive(Debug)]
pub struct Load {
    loadavg: ProcFile,
    cores: u32,
}

impl Load {
    pub fn new(cores: u32) -> Self {
        Self { loadavg: ProcFile::new("/proc/loadavg"), cores }
    }

    pub fn sample(&mut self) -> Result<Value, HostError> {
        let cores = self.cores;
        let sample = parse(self.loadavg.read()?, cores);
        sample.ok_or(HostError::Field { path: self.loadavg.path().into(), field: "load" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_loads_per_core() {
        let load = parse("1.20 0.80 0.40 3/190 41234\n", 2).unwrap();
        let expected = json!({"1": 1.2, "5": 0.8, "15": 0.4, "cores": 2,
            "norm": {"1": 0.6, "5": 0.4, "15": 0.2}});
        assert_eq!(load, expected);
        assert_eq!(parse("1.20 0.80", 2), None);
        assert_eq!(parse("a b c", 2), None);
    }

    #[test]
    fn this_host_has_a_load() {
        assert!(Load::new(2).sample().unwrap()["1"].is_f64());
    }
}
