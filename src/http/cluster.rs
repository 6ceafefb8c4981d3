//! `/workers` and `/cluster`: who takes part.

use std::sync::Arc;

use hyper::StatusCode;

use super::router::Answer;
use super::{Context, reply};

/// `GET /workers`
pub async fn workers(context: Arc<Context>) -> Answer {
    reply::json(StatusCode::OK, &context.engine.workers())
}

/// `GET /cluster`
pub async fn cluster(context: Arc<Context>) -> Answer {
    reply::json(StatusCode::OK, &context.engine.cluster())
}
