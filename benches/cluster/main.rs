//! What a cluster on one machine does: three controllers, a worker and PostgreSQL, as processes of the release build.
//!
//! `cargo bench --bench cluster` runs all sections; names of sections as arguments run only those, and `quick` runs fewer and shorter
//! rounds: `cargo bench --bench cluster -- quick lateness`. PostgreSQL must be installed; each section has a server of its own.
//!
//! Everything shares the machine's processors: the controllers, the worker, its commands, the database, and this bench, which reads the
//! commands' starts. Rounds of ours and of the yardstick take turns.

mod api;
mod cluster;
mod database;
mod engine;
mod history;
mod jobs;
mod kills;
mod lateness;
#[allow(dead_code)] // of what is shared, not every target uses every word
#[path = "../../tests/support/postgres.rs"]
mod postgres;
mod process;
#[allow(dead_code)] // of what is shared, not every bench uses every word
#[path = "../support/mod.rs"]
mod support;
mod takeover;
mod throughput;

fn main() -> anyhow::Result<()> {
    support::run(&[
        ("engine", engine::run),
        ("history", history::run),
        ("lateness", lateness::run),
        ("throughput", throughput::run),
        ("kills", kills::run),
        ("jobs", jobs::run),
    ])
}
