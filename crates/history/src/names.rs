//! Names as small numbers, given in the order in which they first appear.

use std::collections::BTreeMap;

/// Strings by number and back.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_name: BTreeMap<String, u32>,
    names: Vec<String>,
}

impl Names {
    /// The number of a name, new or known.
    pub(crate) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        // A history of four billion different names does not fit into memory.
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.by_name.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }

    /// The name behind a number that `number` gave out.
    pub(crate) fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("?", String::as_str)
    }
}
