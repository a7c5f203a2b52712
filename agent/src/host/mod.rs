//! The host's own metrics, in Metricbeat's shape.
//!
//! Each reader keeps its file under /proc open and reads it anew with one `pread`; what the text
//! means is decided by pure functions, tested on real text.

pub mod cpu;
pub mod load;
pub mod memory;
pub mod sampler;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Why a sample could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot read {path}: {cause}")]
    Read { path: PathBuf, cause: io::Error },
    #[error("{path} has no usable {field:?}")]
    Field { path: PathBuf, field: &'static str },
}

/// A file under /proc, read again and again from its start.
#[derive(Debug)]
pub struct ProcFile {
    path: PathBuf,
    file: Option<File>,
    text: Vec<u8>,
}

impl ProcFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, text: vec![0; 8192] }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first 8 KiB of the file as it is now.
    pub fn read(&mut self) -> Result<&str, HostError> {
        let fail = |cause| HostError::Read { path: self.path.clone(), cause };
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path).map_err(fail)?,
        };
        let len = file.read_at(&mut self.text, 0).map_err(fail)?;
        self.file = Some(file);
        let text = &self.text[..len];
        std::str::from_utf8(text)
            .map_err(|cause| fail(io::Error::new(io::ErrorKind::InvalidData, cause)))
    }
}

/// A share as Metricbeat writes it: four decimals.
fn share(part: f64) -> f64 {
    (part * 10_000.0).round() / 10_000.0
}

/// `part` of `whole`, as a share; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "a share with four decimals needs no 64 bits")]
fn share_of(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { share(part as f64 / whole as f64) }
}
