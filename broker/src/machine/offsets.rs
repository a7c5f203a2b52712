//! Committed offsets of the groups of one offsets partition.
