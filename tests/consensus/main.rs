//! The consensus part from outside: recovery on disks that lose what was not synced, damaged directories, groups of several members in
//! virtual time, and the real thread.
//!
//! Random tests run a fixed list of seeds, and one more from CHRONO_FLOW_SEED if that is set.

mod cluster;
mod damage;
mod disk;
mod driver;
mod machine;
#[path = "../support/random.rs"]
mod random;
mod recovery;
mod sim;
mod storms;
