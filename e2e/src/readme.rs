//! The code blocks of README.md, taken from the file, so that what is run in the checks is what a reader copies.

use anyhow::{Context, Result};

use crate::programs::repository;

/// The text of README.md.
#[derive(Debug)]
pub struct Readme(String);

impl Readme {
    /// Reads it from this repository.
    pub fn read() -> Result<Self> {
        Ok(Self(std::fs::read_to_string(repository().join("README.md"))?))
    }

    /// The one fenced block that contains `part`.
    pub fn block(&self, part: &str) -> Result<&str> {
        let mut inside = self.0.split("\n```").skip(1).step_by(2);
        let block = inside.find(|block| block.contains(part));
        let block = block.with_context(|| format!("README.md has no block with `{part}`"))?;
        // Behind the fence stands the language.
        Ok(block.split_once('\n').map_or("", |(_, text)| text))
    }

    /// The one line with `part` in a block, without the `# ` of a comment.
    pub fn line(&self, part: &str) -> Result<&str> {
        let line = self.block(part)?.lines().find(|line| line.contains(part));
        Ok(line.context("a line of the block")?.trim_start_matches('#').trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_what_they_say() {
        let readme =
            Readme("a\n```sh\none \\\n two\n```\nb three\n```yaml\n# three: 3\n```\n".into());
        assert_eq!(readme.block("two").unwrap(), "one \\\n two");
        assert_eq!(readme.block("three").unwrap(), "# three: 3");
        assert_eq!(readme.line("three").unwrap(), "three: 3");
        assert!(readme.block("b three").is_err(), "not a block");
    }
}
