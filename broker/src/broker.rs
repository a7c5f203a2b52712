//! Wiring: what starts in which order, and stops in the reverse.
