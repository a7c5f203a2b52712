//! One partition's leader: high watermark, acks.
