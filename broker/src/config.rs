//! The broker's configuration: what was typed and what it means.
