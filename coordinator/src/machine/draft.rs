//! The image with the records of a batch that is being decided on top: later decisions of the batch see earlier ones.

use tailway_metadata::{ClusterImage, MetadataRecord, Offset};

/// Cheap while nothing changes: the image is copied with the first record.
#[derive(Debug)]
pub struct Draft<'a> {
    base: &'a ClusterImage,
    changed: Option<ClusterImage>,
    records: Vec<MetadataRecord>,
}

impl<'a> Draft<'a> {
    pub fn new(base: &'a ClusterImage) -> Draft<'a> {
        Draft { base, changed: None, records: Vec::new() }
    }

    /// The cluster as it will be when the records so far are committed.
    pub fn image(&self) -> &ClusterImage {
        self.changed.as_ref().unwrap_or(self.base)
    }

    /// The offset that the next record gets.
    pub fn next_offset(&self) -> Offset {
        self.image().offset
    }

    pub fn push(&mut self, record: MetadataRecord) {
        let image = self.changed.get_or_insert_with(|| self.base.clone());
        if let Err(error) = image.apply(&record) {
            // The decision was made on this very image: it does not know its own rules.
            panic!("a decision contradicts the image it was made on: {error}");
        }
        self.records.push(record);
    }

    /// How many records there are so far.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// The records and the image after them, if there are any.
    pub fn finish(self) -> Option<(Vec<MetadataRecord>, ClusterImage)> {
        Some((self.records, self.changed?))
    }
}
