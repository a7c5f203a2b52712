//! What the coordinator says and what this broker does about it.
//!
//! `session` keeps this broker registered, `follower` follows the record stream into a `ClusterImage`, `reconcile` opens and
//! creates the partitions that the image gives this broker, `saved_image` keeps the last image on disk so that a broker can
//! restart and serve while no coordinator answers. `controller` and `creator` send it what only the coordinator may decide,
//! `producer_ids` keeps a spare block of producer ids, `identity` is the data directory's.
//! Invariants: an image is published after it is on disk and after its partitions are open; partition data is deleted only
//! on a record that removes that very topic; nothing here waits for the coordinator without a deadline.

pub mod controller;
pub mod creator;
pub mod doors;
pub mod follower;
pub mod health;
pub mod identity;
pub mod link;
pub mod producer_ids;
pub mod reconcile;
pub mod routes;
pub mod saved_image;
pub mod session;
pub mod view;

pub use controller::{Controller, ControllerError};
pub use creator::TopicCreator;
pub use doors::{GroupDoor, PartitionDoor};
pub use routes::Routes;
pub use view::{ClusterView, Node};
