//! The engine decides what is launched, when and where, and sees it through to history.
//!
//! `core`, `timers`, `policy`, `placement`, `staging`, `leases` and `clock` are pure: the ledger, what is known of the workers, and the
//! time go in; commands and orders come out. `driver` does what they say. `api` is what the HTTP side sees of it.

pub mod api;
pub mod clock;
pub mod core;
pub mod driver;
pub mod leases;
pub mod placement;
pub mod policy;
pub mod staging;
pub mod timers;
