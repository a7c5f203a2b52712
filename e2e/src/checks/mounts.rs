//! File systems of one's own for a check: an image on a loop device, whose power can be cut, and a small tmpfs. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::text;
use crate::group::need;
use crate::process::{run, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    pub at: PathBuf,
    /// Of a loop mount: what is mounted again.
    image: Option<PathBuf>,
}

impl Mount {
    /// Makes a file system (`ext4` or `xfs`) in a sparse file below `dir` and mounts it.
    pub fn image(kind: &str, dir: &Path, size: &str) -> Result<Self> {
        root()?;
        need("xfs_io", "xfsprogs")?;
        need(&format!("mkfs.{kind}"), if kind == "xfs" { "xfsprogs" } else { "e2fsprogs" })?;
        let (image, at) = (dir.join(format!("{kind}.img")), dir.join(kind));
        std::fs::create_dir(&at)?;
        run(Command::new("truncate").args(["-s", size]).arg(&image), PATIENCE)?;
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image), PATIENCE)?;
        let mount = Self { at, image: Some(image) };
        mount.mount()?;
        Ok(mount)
    }

    /// A tmpfs of this size.
    pub fn tmpfs(dir: &Path, size: &str) -> Result<Self> {
        root()?;
        let at = dir.join("tmpfs");
        std::fs::create_dir(&at)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at);
        run(&mut mount, PATIENCE)?;
        Ok(Self { at, image: None })
    }

    fn mount(&self) -> Result<()> {
        let Some(image) = &self.image else { return Ok(()) };
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop"]).arg(image).arg(&self.at), PATIENCE).map(drop)
    }

    /// From here on nothing reaches the disk any more: what is not there now never will be.
    pub fn cut_power(&self) -> Result<()> {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown", text(&self.at)?]), PATIENCE)
            .map(drop)
    }

    /// What the next boot does: whoever used it must be dead.
    pub fn mount_again(&self) -> Result<()> {
        // A process that was killed a moment ago may still be closing its files.
        wait_until(PATIENCE, || Ok(run(Command::new("umount").arg(&self.at), PATIENCE).is_ok()))?;
        self.mount()
    }

    /// A copy of the image, mounted at `at`; whoever used this one must have ended.
    pub fn copied(&self, at: &Path) -> Result<Self> {
        let copy = Self { at: at.into(), image: Some(at.with_extension("img")) };
        let (Some(image), Some(copied)) = (&self.image, &copy.image) else {
            bail!("a tmpfs has no image");
        };
        wait_until(PATIENCE, || Ok(run(Command::new("umount").arg(&self.at), PATIENCE).is_ok()))?;
        run(Command::new("cp").arg("--sparse=always").arg(image).arg(copied), PATIENCE)?;
        std::fs::create_dir(at)?;
        self.mount()?;
        copy.mount()?;
        Ok(copy)
    }

    /// Takes the space that is left but for these bytes, by a file that is not ours.
    pub fn fill(&self, left: u64) -> Result<PathBuf> {
        let path = self.at.join("somebody-elses");
        let stat = rustix::fs::statvfs(&self.at)?;
        let blocks = stat.f_bavail - (left / stat.f_frsize).min(stat.f_bavail);
        let mut fill = Command::new("dd");
        fill.args(["if=/dev/zero", &format!("of={}", text(&path)?)]);
        fill.args([format!("bs={}", stat.f_frsize), format!("count={blocks}")]);
        run(&mut fill, PATIENCE * 2)?;
        Ok(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(run(Command::new("umount").arg("--lazy").arg(&self.at), PATIENCE));
    }
}

fn root() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "mounting needs root");
    Ok(())
}
