//! The HTTP API (DESIGN section 8): JSON over warp, any controller serves all of it.
//!
//! `server` accepts connections and bounds them, `router` finds the handler of a request and turns whatever comes of it into an answer,
//! one file for each noun holds its handlers. What a handler can't do is a [`problem::Problem`], and nothing else is.
//!
//! Invariants:
//! - Every byte that a client sends is bounded in number and in time before it is looked at, and so is every wait for a client.
//! - No request ends a connection other than by an answer, and none panics the process' thread: a panic is answered with 500.
//! - Reads go on while the store is away, from the ledger; writes are then refused with 503, never queued.
//!
//! Left out: authentication and TLS (a proxy's work in this version), the UI, and events.

mod cluster;
mod connection;
#[doc(hidden)]
pub mod fuzz;
mod health;
mod history;
mod job_fields;
mod job_json;
mod jobs;
mod json;
mod origin;
mod output;
mod problem;
mod query;
mod reply;
mod request;
mod router;
mod runs;
mod schedules;
mod server;
mod sse;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::engine::api::Engine;
use crate::model::UnixMs;
use crate::store::Store;

pub use server::Server;

/// Connections that are served at once; one more is answered 503 and closed.
pub const CONNECTIONS_MAX_DEFAULT: usize = 512;
/// A connection without a request for so long is closed, and a request's head must have come within as long.
pub const IDLE_MS_DEFAULT: u64 = 30_000;
/// A request's body must have come within so long after its head.
pub const BODY_MS_DEFAULT: u64 = 30_000;
/// A client that takes nothing of its answer for so long is cut off.
pub const WRITE_STALL_MS_DEFAULT: u64 = 30_000;
/// How long a stopping server waits for answers that are under way.
pub const DRAIN_MS_DEFAULT: u64 = 5_000;
/// A followed output that prints nothing gets a comment this often, so that nobody in between takes the connection for dead.
pub const FOLLOW_COMMENT_MS_DEFAULT: u64 = 15_000;
/// How long a write waits for the ledger to have it before it answers `"applied": false` (PROTOCOL A4).
pub(crate) const APPLIED_MS_MAX: u64 = 1_000;

/// What an operator may set of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub connections_max: usize,
    pub idle_ms: u64,
    pub body_ms: u64,
    pub write_stall_ms: u64,
    pub drain_ms: u64,
    pub follow_comment_ms: u64,
    /// Names (without port) that a `Host` header may have on a server that listens on loopback, beside `localhost` and IP addresses.
    pub allowed_hosts: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            connections_max: CONNECTIONS_MAX_DEFAULT,
            idle_ms: IDLE_MS_DEFAULT,
            body_ms: BODY_MS_DEFAULT,
            write_stall_ms: WRITE_STALL_MS_DEFAULT,
            drain_ms: DRAIN_MS_DEFAULT,
            follow_comment_ms: FOLLOW_COMMENT_MS_DEFAULT,
            allowed_hosts: Vec::new(),
        }
    }
}

/// What the API speaks for.
#[derive(Clone)]
pub struct Services {
    pub store: Arc<dyn Store>,
    pub engine: Arc<dyn Engine>,
}

/// What every handler may use.
pub(crate) struct Context {
    pub store: Arc<dyn Store>,
    pub engine: Arc<dyn Engine>,
    pub settings: Settings,
    /// The server listens on a loopback address: only this machine's own names are its names.
    pub is_loopback: bool,
    /// Cancelled when the server stops: streams that would go on for long end.
    pub stopping: CancellationToken,
}

impl Context {
    /// The time for what is only shown; decisions take `engine.checked_now()` and refuse where it is not sure.
    pub fn now_to_show(&self) -> UnixMs {
        self.engine.now().unwrap_or_else(|_| {
            let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
            UnixMs(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
        })
    }
}
