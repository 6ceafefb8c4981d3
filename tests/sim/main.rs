//! The whole cluster in one thread and virtual time: real consensus nodes, ledgers, engines and workers' tables of runs, on disks that
//! forget, a network that loses, a store that fails and clocks that lie. One seed is one history. What must always be true is checked at
//! every step; then the faults heal, and what must come true in the end has to.
//!
//! Repeat a failing seed with CHRONO_FLOW_SEED; CHRONO_FLOW_TRACE=1 tells its story, CHRONO_FLOW_SHRINK=1 leaves out what it doesn't need.

#[path = "../consensus/disk.rs"]
#[allow(dead_code)]
mod disk;
#[path = "../support/random.rs"]
mod random;

mod checks;
mod clocks;
mod controller;
mod faults;
mod guardian;
mod history;
mod leaving;
mod links;
mod mutations;
mod network;
mod outside;
mod plots;
mod shrink;
mod sim;
mod store;
mod suite;
mod tasks;
mod users;
mod witness;
mod worker;
mod worker_calls;
