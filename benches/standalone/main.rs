//! What the standalone process costs and how exact it is, beside a bare loop that starts the same commands in the same way.
//!
//! `cargo bench --bench standalone` runs all sections; names of sections as arguments run only those, and `quick` runs fewer and shorter
//! rounds: `cargo bench --bench standalone -- quick lateness`.
//!
//! Rounds of ours and of the bare loop take turns, so that a machine that has other work too slows both. Figures are medians of rounds.

mod guardian;
mod jobs;
mod lateness;
mod server;
#[path = "../support/mod.rs"]
#[allow(dead_code)] // of what is shared, not every bench uses every word
mod support;
mod throughput;

fn main() -> anyhow::Result<()> {
    support::run(&[("guardian", guardian::run), ("throughput", throughput::run), ("lateness", lateness::run), ("jobs", jobs::run)])
}
