//! The idempotence window of one partition.
