//! What waits between the shipper's steps: a thread, or in a simulation a task.
//!
//! Both do the same: a first scan, then a step whenever the inbox or the shipper's own calendar asks
//! for one.

use super::{ShipError, Shipper, Step};

/// Drives the shipper until it is told to stop; `ready` is called after the first scan. Blocks.
pub fn drive(mut shipper: Shipper, ready: impl FnOnce()) -> Result<(), ShipError> {
    shipper.start()?;
    ready();
    while let Step::Wait(patience) = shipper.step()? {
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
