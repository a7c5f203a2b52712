//! The configurations' manuals: the commented files of `configs/`, which a test keeps equal to the defaults.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::DAEMONS;
use crate::pages::{MANUAL, Page, SOURCE, escaped, see_also, verbatim};

/// One page for each daemon.
pub(crate) fn pages() -> Result<Vec<Page>> {
    DAEMONS.iter().map(|(daemon, config)| page(daemon, Path::new(config))).collect()
}

fn page(daemon: &str, config: &Path) -> Result<Page> {
    let name = config.file_name().context("a configuration has a name")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name);
    let commented =
        fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let title = format!("{daemon}.yaml");
    let check = escaped(&format!("tailway check {}", config.display()));
    let head = format!(
        ".TH {title} 5 \"\" \"{SOURCE}\" \"{MANUAL}\"\n.SH NAME\n{} \\- configuration of {}\n.SH SYNOPSIS\n.I {}\n",
        escaped(&title),
        escaped(daemon),
        escaped(&config.display().to_string()),
    );
    let about = format!(
        ".SH DESCRIPTION\nYAML. What is left out has the default that is shown here; a key that is not shown is refused. \
         Sizes are written as 512KiB or 8MiB, times as 5ms, 30s, 10m, 1h or 7d. To see what is wrong with a file:\n\
         .PP\n.RS 4\n.nf\n{check}\n.fi\n.RE\n"
    );
    let keys = verbatim("\"KEYS AND DEFAULTS\"", commented.lines());
    let more = see_also(&[format!("{daemon}.8"), "tailway-check.1".to_owned()]);
    let text = [head, about, keys, more].concat();
    Ok(Page { file: format!("{title}.5"), text: text.into_bytes() })
}
