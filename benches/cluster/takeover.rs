//! A leader is killed; somebody else takes over. When, as the survivors' own API tells it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono_flow::model::UnixMs;

use crate::api::Api;
use crate::cluster::Cluster;
use crate::support::figures::percentile;
use crate::support::now;

/// The time-out that controllers have by default; the longest is twice that.
pub const ELECTION_TIMEOUT_MS: u64 = 500;
/// A survivor is asked so often; that is how exact the figures are.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Takeover {
    /// When the leader was killed.
    pub at: UnixMs,
    pub killed_at: Instant,
    pub leader: u64,
    /// From the kill until the next leader has applied an entry of its own term.
    pub applied_ms: f64,
}

/// Kills whoever leads, and waits for the next one. The dead process is not started again.
pub fn kill_leader(cluster: &mut Cluster) -> Result<Takeover> {
    let old = cluster.wait_ready()?;
    let (is_over, (sender, found)) = (AtomicBool::new(false), mpsc::channel());
    let mut survivors = Vec::new();
    for id in cluster.controllers.keys().copied().filter(|id| *id != old) {
        let api = cluster.api(id);
        let term = api.cluster()?["term"].as_u64().context("a term")?;
        survivors.push((id, api, term));
    }
    let (at, killed_at, next) = std::thread::scope(|scope| {
        for (id, api, term) in survivors {
            let (sender, is_over) = (sender.clone(), &is_over);
            scope.spawn(move || {
                if let Some(at) = watch(&api, id, term, is_over) {
                    let _ = sender.send((id, at));
                }
            });
        }
        let (at, killed_at) = (now(), Instant::now());
        let next = cluster.controllers[&old].kill().and_then(|()| found.recv_timeout(PATIENCE).context("nobody takes over"));
        is_over.store(true, Ordering::Relaxed);
        (at, killed_at, next)
    });
    cluster.controller(old)?.bury();
    let (leader, applied_at) = next?;
    Ok(Takeover { at, killed_at, leader, applied_ms: ms(applied_at.duration_since(killed_at)) })
}

/// Waits until the controller leads a later term and has applied more than it had before. No survivor applies anything between the death of
/// the old leader and the first entry of the new one's term, so that is it.
fn watch(api: &Api, id: u64, term: u64, is_over: &AtomicBool) -> Option<Instant> {
    let mut applied_before = u64::MAX;
    while !is_over.load(Ordering::Relaxed) {
        if let Ok(view) = api.cluster() {
            let seen_at = Instant::now();
            let number = |name: &str| view[name].as_u64().unwrap_or(0);
            let leads = number("term") > term && view["leader"] == id;
            if leads && number("applied") > applied_before {
                return Some(seen_at);
            }
            if !leads {
                applied_before = number("applied");
            }
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    None
}

pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The middle, the worst but one in twenty, and the worst.
pub fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (percentile(&values, 50.0), percentile(&values, 95.0), percentile(&values, 100.0))
}

/// What a takeover may take: one and a half times the shortest election time-out, and a little.
pub fn bound_ms(election_timeout_ms: u64) -> f64 {
    1.5 * election_timeout_ms as f64 + 100.0
}
