//! Producing: the driver of one partition's pipeline, and a batching producer on top of it.

mod producer;
mod sender;
mod worker;

pub use producer::{Delivered, Delivery, DeliveryError, Producer, ProducerOptions, ProducerRecord};
pub use sender::{PartitionSender, SenderEvent, SenderOptions, SenderStopped};
