//! Whether the process lives (`/healthz`), whether it does its part (`/readyz`), and a word of welcome (`/`).

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::problem::Problem;
use super::router::Answer;
use super::{Context, reply};

/// The code of the answer of a node that is not ready.
pub const NOT_READY: &str = "not_ready";
/// Seconds after which it is worth asking again.
const RETRY_S: u32 = 1;

/// `GET /`
pub async fn index() -> Answer {
    let paths = ["/jobs", "/runs", "/schedules/preview", "/workers", "/cluster", "/healthz", "/readyz"];
    reply::json(StatusCode::OK, &json!({"name": "chrono-flow", "version": env!("CARGO_PKG_VERSION"), "paths": paths}))
}

/// `GET /healthz`
pub async fn alive() -> Answer {
    reply::json(StatusCode::OK, &json!({"status": "ok"}))
}

/// `GET /readyz`: the reasons stand under the names of the parts that are not ready.
pub async fn ready(context: Arc<Context>) -> Answer {
    let readiness = context.engine.readiness();
    if readiness.is_ready() {
        return reply::json(StatusCode::OK, &json!({"status": "ready"}));
    }
    let mut reasons = serde_json::to_value(&readiness).map_err(Problem::internal)?;
    if let Value::Object(reasons) = &mut reasons {
        reasons.retain(|_, reason| !reason.is_null());
    }
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, NOT_READY, "this node can't do its part now");
    Err(problem.with("reasons", reasons).retry_after(RETRY_S))
}
