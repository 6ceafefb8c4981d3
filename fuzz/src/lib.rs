//! What the fuzz targets do: each is a function that takes any bytes at all, and panics only if the program has broken a promise.
//!
//! libFuzzer calls them through `fuzz_targets/`; `tests/fuzz` calls the same functions with the corpus, and with random changes of it.

pub mod consensus_frame;
pub mod job_json;
pub mod ledger_entry;
pub mod ledger_snapshot;
pub mod rpc_frames;
pub mod rpc_handshake;
pub mod schedule;
pub mod script;
pub mod worker_files;
pub mod worker_orders;

pub type Target = fn(&[u8]);

/// By name; the name is also that of the corpus' folder.
pub const TARGETS: [(&str, Target); 9] = [
    ("consensus_frame", consensus_frame::run),
    ("job_json", job_json::run),
    ("ledger_entry", ledger_entry::run),
    ("ledger_snapshot", ledger_snapshot::run),
    ("rpc_frames", rpc_frames::run),
    ("rpc_handshake", rpc_handshake::run),
    ("schedule", schedule::run),
    ("worker_files", worker_files::run),
    ("worker_orders", worker_orders::run),
];

/// The first byte chooses what the rest is read as.
fn split(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest))
}
