//! What the cluster is: ids, topics, the records that change it and the image they add up to. Pure: bytes and decisions, no
//! IO and no clock.

pub mod time;
