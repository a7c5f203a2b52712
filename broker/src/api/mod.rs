//! One file per Kafka API: decode, decide, encode.
