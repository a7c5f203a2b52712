//! From a journal's records to the ledger that they add up to.
//!
//! A journal may remember a million files and nearly all of its records are then of files, many in
//! a row: they are gathered and put into the ledger at once, before the next record of another kind.
//! Nothing is looked at in another order than it was written.

use super::RegistryError;
use super::encoding::{Shared, decode_into};
use crate::machine::identity::Generation;
use crate::machine::ledger::{FileEntry, Ledger, Record};

/// A ledger in the making.
#[derive(Debug, Default)]
pub(super) struct Replay {
    ledger: Ledger,
    /// Files that come after all that the ledger knows.
    files: Vec<(Generation, Box<FileEntry>)>,
    shared: Shared,
    number: usize,
    failed: Option<RegistryError>,
}

impl Replay {
    /// Takes in the next record.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.apply(bytes).err();
        }
        self.number += 1;
    }

    fn apply(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        let number = self.number;
        let record = decode_into(bytes, &mut self.shared);
        match record.map_err(|cause| RegistryError::Decode { number, cause })? {
            Record::File(entry) => self.files.push((entry.generation, entry)),
            other => {
                self.settle_files();
                self.ledger.apply(other)?;
            }
        }
        Ok(())
    }

    fn settle_files(&mut self) {
        if !self.files.is_empty() {
            self.ledger.apply_files(std::mem::take(&mut self.files));
        }
    }

    /// The ledger; or what is wrong with the first record that does not fit.
    pub(super) fn finish(mut self) -> Result<Ledger, RegistryError> {
        self.settle_files();
        self.failed.map_or(Ok(self.ledger), Err)
    }
}
