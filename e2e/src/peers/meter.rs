//! What a process costs, by the kernel's account of it: nothing here asks the process itself.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::process::{memory_field, status_field, wait_until};

/// Clients and shippers run on the one core, brokers on the other, so that neither pays for the other.
pub const CLIENT_CORE: usize = 0;
pub const BROKER_CORE: usize = 1;

/// User and system time of these processes so far, in seconds. A process that has ended and was not waited for counts.
pub fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        ticks += ticks_of(&stat).with_context(|| format!("{path} has another form: {stat}"))?;
    }
    #[allow(clippy::cast_precision_loss, reason = "ticks of a benchmark are few")]
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Fields 14 and 15 of proc(5)'s stat; the name in parentheses may hold spaces.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Peak resident memory in MiB, of all together.
pub fn peak_rss_mib(pids: &[u32]) -> Result<f64> {
    let mut bytes = 0;
    for pid in pids {
        bytes += memory_field(*pid, "VmHWM:")?;
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(bytes as f64 / f64::from(1 << 20))
}

/// The cores that a process may run on, as the kernel lists them.
pub fn cores_of(pid: u32) -> Result<String> {
    status_field(pid, "Cpus_allowed_list:")
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// The share of all cores that anything used while we waited, in per cent.
pub fn busy_percent(over: Duration) -> Result<f64> {
    let read = || -> Result<(f64, f64)> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> =
            line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
        ensure!(ticks.len() > 4, "/proc/stat has another form: {line}");
        Ok((ticks.iter().sum(), ticks[3] + ticks[4]))
    };
    let (all, idle) = read()?;
    std::thread::sleep(over);
    let (all_after, idle_after) = read()?;
    Ok(100.0 * (1.0 - (idle_after - idle) / (all_after - all).max(1.0)))
}

/// `taskset -c CORE PROGRAM`: what is added to it are the program's arguments.
pub fn pinned(core: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// A child whose cost is read before it is reaped.
#[derive(Debug)]
pub struct Metered {
    child: Child,
    began: Instant,
}

/// What it came to.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub cpu_seconds: f64,
    pub seconds: f64,
    pub peak_rss_mib: f64,
}

impl Metered {
    /// Starts it, its output into `log`.
    pub fn start(command: &mut Command, stdin: Stdio, log: &Path) -> Result<Metered> {
        let file = std::fs::File::create(log).with_context(|| log.display().to_string())?;
        command.stdin(stdin).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Metered { child, began: Instant::now() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_exited(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The cost so far.
    pub fn cost(&self) -> Result<Cost> {
        let pids = [self.pid()];
        let seconds = self.began.elapsed().as_secs_f64();
        // Of one that has ended the kernel keeps the times, not the memory.
        let peak_rss_mib = peak_rss_mib(&pids).unwrap_or(f64::NAN);
        Ok(Cost { cpu_seconds: cpu_seconds(&pids)?, seconds, peak_rss_mib })
    }

    /// Waits for its end, which must be a success, and says what it cost.
    pub fn finish(mut self, deadline: Duration) -> Result<Cost> {
        let pid = Pid::from_child(&self.child);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let ended = wait_until(deadline, || Ok(waitid(WaitId::Pid(pid), options)?.is_some()));
        let cost = self.cost();
        if ended.is_err() {
            self.child.kill()?;
        }
        let status = self.child.wait()?;
        ended.with_context(|| format!("process {} takes too long", pid.as_raw_nonzero()))?;
        ensure!(status.success(), "process {} ended with {status}", pid.as_raw_nonzero());
        cost
    }

    /// Ends it by SIGTERM, or by SIGKILL when it does not listen.
    pub fn stop(mut self, deadline: Duration) -> Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), rustix::process::Signal::TERM)?;
        if wait_until(deadline, || Ok(self.child.try_wait()?.is_some())).is_err() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The middle one; of an even number the lower of the two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_stand_behind_a_name_with_spaces() {
        let stat = "17 (a (b) c) S 1 17 17 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 1 0 9 0 0";
        assert_eq!(ticks_of(stat), Some(300));
        assert_eq!(ticks_of("17 (short) S 1"), None);
    }

    #[test]
    fn the_cost_of_a_child_that_has_ended_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut spin = Command::new("sh");
        spin.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
        let child = Metered::start(&mut spin, Stdio::null(), &dir.path().join("log")).unwrap();
        let cost = child.finish(Duration::from_mins(1)).unwrap();
        assert!(cost.cpu_seconds > 0.0 && cost.cpu_seconds <= cost.seconds + 0.02, "{cost:?}");
        let failing =
            Metered::start(&mut Command::new("false"), Stdio::null(), &dir.path().join("log"));
        assert!(failing.unwrap().finish(Duration::from_mins(1)).is_err());
    }

    #[test]
    fn medians() {
        for (values, middle) in
            [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0][..], 1.0), (&[7.0][..], 7.0)]
        {
            assert!((median(values) - middle).abs() < f64::EPSILON);
        }
        assert!(median(&[]).is_nan());
    }
}
