//! What follows on this host when the cluster's CAs change: the enrolment listener shows those that are trusted, and the
//! keys of those that are not are removed.
//!
//! The coordinator's own certificate and its file of CAs are kept with those of every program
//! (`tailway_daemon::certificates`). Invariant: the key of a CA is removed only once its end is committed.

use std::sync::Arc;

use tailway_daemon::{Stop, Tasks};
use tailway_metadata::ClusterImage;
use tailway_metadata::authority::AuthorityState;
use tailway_metadata::security::{Security, Sha256};
use tailway_net::ServerTls;
use tokio::sync::watch;

use crate::api::service::Service;
use crate::authorities::Authorities;

/// Follows the state from here on, as a task.
pub(crate) fn follow(service: &Service, shown: Option<ServerTls>, tasks: &Tasks) {
    let Some(authorities) = service.authorities.clone() else { return };
    let images = service.feed.subscribe();
    tasks.spawn("authorities", |stop| run(authorities, shown, images, stop));
}

async fn run(
    authorities: Arc<Authorities>,
    shown: Option<ServerTls>,
    mut images: watch::Receiver<Arc<ClusterImage>>,
    mut stop: Stop,
) {
    let mut done = Security::default().authorities;
    loop {
        let security = Arc::clone(&images.borrow_and_update().security);
        if security.authorities != done {
            done.clone_from(&security.authorities);
            let (authorities, shown) = (Arc::clone(&authorities), shown.clone());
            let following = move || apply(&authorities, shown.as_ref(), &security);
            let followed = tailway_runtime::spawn_blocking(following);
            let Some(Ok(())) = stop.unless(followed).await else { return };
        }
        let Some(Ok(())) = stop.unless(images.changed()).await else { return };
    }
}

/// Blocks.
fn apply(authorities: &Authorities, shown: Option<&ServerTls>, security: &Security) {
    if let Some(tls) = shown {
        tls.show(authorities.shown(security));
        if let Err(error) = tls.reload() {
            tracing::error!(%error, "hosts with a token are still shown the CAs of before");
        }
    }
    let over = security.authorities.values().filter(|ca| ca.state == AuthorityState::Retired);
    let over: Vec<Sha256> = over.map(|ca| ca.sha256).collect();
    for sha256 in over {
        if let Err(error) = authorities.forget(&sha256) {
            tracing::warn!(%error, %sha256, "the key of a retired CA is still there");
        }
    }
}
