//! The client commands: the real program against the real server, as people and scripts use them.

#[allow(dead_code, reason = "shared with the tests of the server")]
#[path = "../standalone/api.rs"]
mod api;
#[allow(dead_code, reason = "shared with the tests of the server")]
#[path = "../standalone/server.rs"]
mod server;
mod shell;

mod docs;
mod jobs;
mod members;
mod runs;
mod schedules;
mod servers;
