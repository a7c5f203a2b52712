//! The partition log: Kafka's on-disk format.
