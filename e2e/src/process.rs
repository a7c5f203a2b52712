//! One child process: its output in a file, signals by name, and every wait with a deadline.
//!
//! A process that is still alive when its handle is dropped is killed, so that a failed test leaves nothing behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// How often a condition is looked at while waiting.
const POLL: Duration = Duration::from_millis(10);

/// A running child whose stdout and stderr go to one file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command`, appending what it prints to `output`.
    pub fn start(name: &str, command: &mut Command, output: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(output)
            .with_context(|| output.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { name: name.into(), child, output: output.into() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has printed so far, from this and earlier starts into the same file.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// The lines that it has printed whole: of one that is being written, nothing yet.
    pub fn lines(&self) -> Vec<String> {
        let printed = self.printed();
        let (whole, _) = printed.rsplit_once('\n').unwrap_or_default();
        whole.lines().map(str::to_owned).collect()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot send {signal:?} to {} ({})", self.name, self.pid()))
    }

    /// Waits for the exit; on the deadline the process is killed and its last words are in the error.
    pub fn wait(mut self, deadline: Duration) -> Result<ExitStatus> {
        let ended = wait_until(deadline, || Ok(self.child.try_wait()?.is_some()));
        match ended {
            Ok(()) => Ok(self.child.wait()?),
            Err(_) => bail!(
                "{} did not exit within {deadline:?}; it printed:\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// SIGTERM, then `wait`; an exit other than 0 is an error.
    pub fn stop(self, deadline: Duration) -> Result<()> {
        let (name, output) = (self.name.clone(), self.output.clone());
        self.signal(Signal::TERM)?;
        let status = self.wait(deadline)?;
        if !status.success() {
            bail!("{name} exited with {status} after SIGTERM; it printed:\n{}", tail(&output));
        }
        Ok(())
    }

    /// SIGKILL, and the corpse reaped.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// True once it has exited by itself.
    pub fn has_exited(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The last lines that it printed.
    pub fn tail(&self) -> String {
        tail(&self.output)
    }

    /// Resident memory in bytes now, from /proc.
    pub fn rss_bytes(&self) -> Result<u64> {
        memory_field(self.pid(), "VmRSS:")
    }

    /// Highest resident memory in bytes so far.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        memory_field(self.pid(), "VmHWM:")
    }
}

/// A field of proc(5)'s status: `VmHWM:`, in bytes.
pub fn memory_field(pid: u32, name: &str) -> Result<u64> {
    let value = status_field(pid, name)?;
    let kib: u64 = value.split_whitespace().next().context("no number")?.parse()?;
    Ok(kib * 1024)
}

/// What stands behind `name` in proc(5)'s status.
pub fn status_field(pid: u32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("{path} has no {name}"))?.trim().to_owned())
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Polls until the condition holds; an error that says the deadline otherwise.
pub fn wait_until(deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    loop {
        if condition()? {
            return Ok(());
        }
        if begin.elapsed() >= deadline {
            bail!("the condition did not hold within {deadline:?}");
        }
        sleep(POLL);
    }
}

/// Runs a command to its end with a deadline and gives back stdout; anything but exit 0 is an error with both outputs.
pub fn run(command: &mut Command, deadline: Duration) -> Result<String> {
    let output = finish(command, deadline)?;
    if !output.status.success() {
        bail!(
            "{command:?} failed with {}\nstdout:\n{}\nstderr:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end with a deadline; whatever its exit code.
pub fn finish(command: &mut Command, deadline: Duration) -> Result<std::process::Output> {
    let dir = tempfile::tempdir()?;
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    if wait_until(deadline, || Ok(child.try_wait()?.is_some())).is_err() {
        child.kill()?;
        child.wait()?;
        bail!(
            "{command:?} did not end within {deadline:?}\nstdout:\n{}\nstderr:\n{}",
            tail(&out),
            tail(&err)
        );
    }
    Ok(std::process::Output {
        status: child.wait()?,
        stdout: std::fs::read(&out)?,
        stderr: std::fs::read(&err)?,
    })
}

/// Like `run`, with text given on standard input.
pub fn run_with_input(command: &mut Command, input: &[u8], deadline: Duration) -> Result<String> {
    let mut file = tempfile::tempfile()?;
    std::io::Write::write_all(&mut file, input)?;
    std::io::Seek::rewind(&mut file)?;
    let dir = tempfile::tempdir()?;
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let mut child = command
        .stdin(file)
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    if wait_until(deadline, || Ok(child.try_wait()?.is_some())).is_err() {
        child.kill()?;
        child.wait()?;
        bail!("{command:?} did not end within {deadline:?}\n{}\n{}", tail(&out), tail(&err));
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{command:?} failed with {status}\n{}\n{}", tail(&out), tail(&err));
    }
    Ok(std::fs::read_to_string(&out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that looks while `read 3 17` is half written must not see `read 3 1`, nor `read`.
    #[test]
    fn a_line_that_is_being_written_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let mut half = Command::new("printf");
        half.arg("a\\nb c\\nread 3 1");
        let mut process = Process::start("half", &mut half, &dir.path().join("out")).unwrap();
        wait_until(Duration::from_secs(10), || process.has_exited()).unwrap();
        assert_eq!(process.lines(), ["a", "b c"]);
    }
}
