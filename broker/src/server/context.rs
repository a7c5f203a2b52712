//! Who asks, on which listener, and what a handler may use to answer.
//!
//! `Services` is only taken apart in `dispatch`: a handler gets the two or three parts it needs, so that its test needs
//! no broker.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::access::Principal;
use super::budget::Budget;
use super::refusals::Refusals;
use crate::cluster::producer_ids::ProducerIds;
use crate::cluster::{ClusterView, Controller, GroupDoor, Routes, TopicCreator};
use crate::config::Limits;
use crate::metrics::BrokerMetrics;

/// Everything that handlers answer from.
pub struct Services {
    pub view: ClusterView,
    pub routes: Routes,
    pub groups: GroupDoor,
    pub controller: Controller,
    pub creator: TopicCreator,
    pub producer_ids: ProducerIds,
    pub facts: BrokerFacts,
    pub limits: Limits,
    pub requests: Budget,
    pub responses: Budget,
    pub refusals: Refusals,
    pub metrics: BrokerMetrics,
}

/// What DescribeConfigs shows of the broker itself: Kafka's name of each setting that acts, and its value.
#[derive(Debug, Clone)]
pub struct BrokerFacts {
    pub settings: Vec<(&'static str, String)>,
    /// Topic configs that this broker's file sets for all topics.
    pub topic_defaults: std::collections::BTreeMap<String, String>,
}

/// What a client says it is (ApiVersions version 3 and newer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Software {
    pub name: String,
    pub version: String,
}

/// One connection's other end.
#[derive(Debug)]
pub struct Peer {
    /// Unique in this process.
    pub connection: u64,
    pub address: SocketAddr,
    /// The listener's name: Metadata answers with the addresses of the same one.
    pub listener: Arc<str>,
    /// Who it is, and so what it may ask.
    pub principal: Principal,
    software: OnceLock<Software>,
}

impl Peer {
    pub fn new(
        connection: u64,
        address: SocketAddr,
        listener: Arc<str>,
        principal: Principal,
    ) -> Self {
        Self { connection, address, listener, principal, software: OnceLock::new() }
    }

    pub fn software(&self) -> Option<&Software> {
        self.software.get()
    }

    /// What it says first stays.
    pub fn set_software(&self, software: Software) {
        // A second ApiVersions on the same connection changes nothing.
        drop(self.software.set(software));
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self::new(1, ([127, 0, 0, 1], 40_000).into(), "plain".into(), Principal::insecure())
    }
}

/// Tells long polls that nobody waits for their answer any more, or that the broker stops.
#[derive(Debug, Clone)]
pub struct Closing {
    told: watch::Receiver<bool>,
}

impl Closing {
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (tell, told) = watch::channel(false);
        (tell, Self { told })
    }

    /// Returns once the connection closes. Cancel-safe.
    pub async fn closed(&mut self) {
        // An error means that the connection's task is gone: as good as told.
        drop(self.told.wait_for(|told| *told).await);
    }

    pub fn is_closed(&self) -> bool {
        *self.told.borrow() || self.told.has_changed().is_err()
    }
}
