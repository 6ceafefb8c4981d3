//! What machines do to a cluster, done to real processes: networks that part, clocks that jump, disks that fill or flip a bit, deaths at
//! the worst moment, and commands that know no measure. The harness is that of `tests/cluster`, and so is the judge: after each fault every
//! fire is accounted for.
//!
//! - `network` gives each node a network namespace of its own; `clock` gives one a wall clock of its own; `disk` a small disk.
//! - They need root, and what they are made with: `ip` and `iptables`, libfaketime. Where those are missing, a test says SKIPPED, and why.

#[allow(dead_code)] // of what is shared, not every target uses every word
#[path = "../support/api.rs"]
mod api;
#[allow(dead_code)]
#[path = "../support/audit.rs"]
mod audit;
#[allow(dead_code)]
#[path = "../cluster/cluster.rs"]
mod cluster;
#[allow(dead_code)]
#[path = "../cluster/node.rs"]
mod node;
#[allow(dead_code)]
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/wait.rs"]
mod wait;
#[allow(dead_code)]
#[path = "../support/witness.rs"]
mod witness;
#[allow(dead_code)]
#[path = "../cluster/work.rs"]
mod work;

mod clock;
mod disk;
mod network;

mod bits;
mod clocks;
mod deaths;
mod disks;
mod loads;
mod partitions;
mod pauses;
mod standby;
