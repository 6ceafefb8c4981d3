//! The real program, end to end: its processes, its HTTP, its files; and a witness that says what really ran.
//!
//! - `server` starts, kills and restarts the program, and reads its log; `api` is a plain HTTP client.
//! - `witness` is a file to which jobs append what they are; `audit` compares it with the schedule, which the tests reckon themselves,
//!   and with the history that the program shows. Nothing here asks the program whether it was right.

#[allow(dead_code)] // of what is shared, not every target uses every word
#[path = "../support/api.rs"]
mod api;
#[allow(dead_code)]
#[path = "../support/audit.rs"]
mod audit;
#[path = "../support/random.rs"]
mod random;
mod server;
#[path = "../support/wait.rs"]
mod wait;
#[allow(dead_code)]
#[path = "../support/witness.rs"]
mod witness;

mod crash;
mod damage;
mod downtime;
mod first_steps;
mod output;
mod restart;
mod second;
mod stop;
mod store_away;
mod workload;
