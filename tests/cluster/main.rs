//! The real cluster, end to end: controllers, workers and PostgreSQL as processes of this machine, their deaths and pauses; and a witness
//! that says what really ran.
//!
//! - `node` is one process, with its directory and its log; `cluster` is all of them, with the database between them.
//! - `witness` is a file to which jobs append what they are; `work` knows which jobs there are and when they should have run, and has
//!   `audit` compare that with the witness and with the history that every controller shows. Nothing here asks the program whether it was
//!   right.
//! - `storm` has random faults, from a seed that it prints.

#[allow(dead_code)] // of what is shared, not every target uses every word
#[path = "../support/api.rs"]
mod api;
#[allow(dead_code)]
#[path = "../support/audit.rs"]
mod audit;
mod cluster;
#[allow(dead_code)] // of what is shared, not every target uses every word
mod node;
#[allow(dead_code)]
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/wait.rs"]
mod wait;
#[allow(dead_code)]
#[path = "../support/witness.rs"]
mod witness;
mod work;

mod database;
mod edits;
mod first_steps;
mod leader;
mod members;
mod ready;
mod storm;
mod workers;
