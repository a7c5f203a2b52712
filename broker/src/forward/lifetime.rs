//! When a partition's forwarding ends: with the broker, or when the partition is another's or another one.

use tailway_daemon::Stop;
use tokio::sync::watch;

/// Held by who decides that a lane ends; dropping it ends the lane as well.
#[derive(Debug)]
pub(super) struct End {
    tell: watch::Sender<bool>,
    /// Closed once the lane has ended.
    ended: watch::Receiver<()>,
}

/// Held by the lane.
pub(super) struct Lifetime {
    stop: Stop,
    told: watch::Receiver<bool>,
    /// The lane before this one, which may still have commits under way.
    former: Option<watch::Receiver<()>>,
    _alive: watch::Sender<()>,
}

/// What a lane gets before there is a task of it.
pub(super) struct Beginning {
    told: watch::Receiver<bool>,
    former: Option<watch::Receiver<()>>,
    alive: watch::Sender<()>,
}

impl End {
    /// A lane that begins after `former` has ended.
    pub(super) fn new(former: Option<End>) -> (End, Beginning) {
        let (tell, told) = watch::channel(false);
        let (alive, ended) = watch::channel(());
        let former = former.map(|end| end.ended);
        (End { tell, ended }, Beginning { told, former, alive })
    }

    pub(super) fn tell(&self) {
        self.tell.send_replace(true);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.has_changed().is_err()
    }
}

impl Beginning {
    pub(super) fn live(self, stop: Stop) -> Lifetime {
        let Self { told, former, alive } = self;
        Lifetime { stop, told, former, _alive: alive }
    }
}

impl Lifetime {
    /// Waits for the lane before this one. Cancel-safe.
    pub(super) async fn begun(&mut self) {
        if let Some(former) = &mut self.former {
            // An error means that it has ended: nothing is ever sent there.
            while former.changed().await.is_ok() {}
        }
        self.former = None;
    }

    /// Returns when it is time to end. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        let Self { stop, told, .. } = self;
        tokio::select! {
            biased;
            () = stop.requested() => {}
            _ = told.wait_for(|told| *told) => {}
        }
    }

    /// Awaits `future` unless it is time to end (`None`).
    pub(super) async fn unless<F: Future>(&mut self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.ended() => None,
            output = future => Some(output),
        }
    }
}
