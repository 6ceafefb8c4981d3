//! The HTTP API from outside: the real server on a free port, the real store, and an engine in memory that the tests steer.

mod client;
mod cluster;
mod connections;
mod engine;
mod hostile;
mod jobs;
mod output;
mod requests;
mod runs;
mod server;
mod store;
