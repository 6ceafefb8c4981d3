//! The stack as people start it: the real Dockerfile and compose.yaml, on the real Docker Engine, with a witness that says what ran.
//!
//! - `walk` does what the README says, word by word.
//! - `faults` stops, kills, cuts off and recreates containers under load.
//! - `stack` is a fresh copy of what a build needs, and the containers that came of it; `override.yaml` adds the witness's folder.
//!
//! Where no registry of images can be reached, `base-images` makes stand-ins for the three that are built upon. These tests need the names
//! and ports of compose.yaml for themselves, so one runs at a time; without a Docker Engine the test command leaves them out, and says so.

#[allow(dead_code)] // of what is shared, not every target uses every word
#[path = "../support/api.rs"]
mod api;
#[allow(dead_code)]
#[path = "../support/audit.rs"]
mod audit;
#[allow(dead_code)]
#[path = "../support/wait.rs"]
mod wait;
#[allow(dead_code)]
#[path = "../support/witness.rs"]
mod witness;
#[allow(dead_code)]
#[path = "../cluster/work.rs"]
mod work;

mod cluster;
mod faults;
mod shell;
mod walk;
