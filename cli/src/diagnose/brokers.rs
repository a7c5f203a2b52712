//! Looking at a cluster from outside: each address that somebody wrote, then each that a broker advertises.

use std::collections::BTreeSet;

use tailway_client::probe::{Ask, Described, End, Probed, probe};
use tailway_client::{ClientConfig, HostPort};
use tailway_daemon::Clock;

use super::Finding;
use super::verdict::{Origin, judge};

/// Addresses that are tried at a time.
const AT_A_TIME: usize = 16;

/// What was found, and how the cluster describes itself, if any of the written addresses tells.
pub(crate) async fn look(
    config: &ClientConfig,
    ask: &Ask,
    clock: &Clock,
) -> (Vec<Finding>, Option<Described>) {
    let written = config.bootstrap.iter().map(|address| (Origin::Configured, address.clone()));
    let (mut findings, seen) = try_all(config, written.collect(), ask, clock).await;
    let described = seen.into_iter().find_map(|probed| match probed.end {
        End::Serves { metadata: Some(Ok(described)), .. } => Some(described),
        _ => None,
    });
    let tried: BTreeSet<&HostPort> = config.bootstrap.iter().collect();
    let advertised = described.iter().flat_map(|described| described.cluster.brokers.values());
    let advertised = advertised
        .filter(|broker| !tried.contains(&broker.address))
        .map(|broker| (Origin::Advertised(broker.id), broker.address.clone()));
    findings.extend(try_all(config, advertised.collect(), &Ask::Nothing, clock).await.0);
    (findings, described)
}

async fn try_all(
    config: &ClientConfig,
    addresses: Vec<(Origin, HostPort)>,
    ask: &Ask,
    clock: &Clock,
) -> (Vec<Finding>, Vec<Probed>) {
    let (mut findings, mut seen) = (Vec::new(), Vec::new());
    for some in addresses.chunks(AT_A_TIME) {
        let trying: Vec<_> = some
            .iter()
            .map(|(origin, address)| {
                let (config, address, ask) = (config.clone(), address.clone(), ask.clone());
                let probing = async move { probe(&config, &address, &ask).await };
                (*origin, tailway_runtime::spawn(probing))
            })
            .collect();
        for (origin, probing) in trying {
            // A probe neither panics nor is aborted.
            let Ok(probed) = probing.await else { continue };
            findings.extend(judge(&probed, origin, clock.wall()));
            seen.push(probed);
        }
    }
    (findings, seen)
}
