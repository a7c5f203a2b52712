//! What waits between the shipper's steps: a thread, or in a simulation a task.
//!
//! Both do the same: a first scan, then a step whenever the inbox or the shipper's own calendar asks
//! for one.

use tailway_daemon::Pulse;

use super::{ShipError, Shipper, Step};

/// Drives the shipper until it is told to stop; `ready` is called after the first scan. Blocks. Each step is a beat of the
/// pulse, if there is one: they are never further apart than the shipper's housekeeping.
pub fn drive(
    mut shipper: Shipper,
    ready: impl FnOnce(),
    mut pulse: Option<Pulse>,
) -> Result<(), ShipError> {
    shipper.start()?;
    ready();
    while let Step::Wait(patience) = shipper.step()? {
        if let Some(pulse) = &mut pulse {
            pulse.beat();
        }
        shipper.inbox().wait(patience);
    }
    Ok(())
}

/// As `drive`, on simulated time: a step takes none, waiting takes as long as it says.
#[cfg(feature = "sim")]
pub async fn drive_simulated(mut shipper: Shipper, ready: impl FnOnce()) -> Result<(), ShipError> {
    shipper.start()?;
    ready();
    while let Step::Wait(patience) = shipper.step()? {
        shipper.inbox().wait_simulated(patience).await;
    }
    Ok(())
}
