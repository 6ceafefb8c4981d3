//! The fuzz targets without a fuzzer: the committed corpus, and a bounded number of random changes of it, on every run of the suite.
//! `scripts/fuzz` runs the same targets under libFuzzer, and adds what it finds to the corpus.

mod memory;
mod mutate;
mod seeds;
#[path = "../support/random.rs"]
mod support;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use memory::Counted;
use mutate::Mutator;
use support::{OnPanic, Random, seeds};
use targets::{TARGETS, Target};

/// Bytes of an input, at most.
const INPUT_BYTES_MAX: usize = 4_096;
/// Files of a corpus, at most: a corpus is to be read through in no time.
const CORPUS_FILES_MAX: usize = 60;
/// Bytes that one input may make the program hold at once.
const MEMORY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The same where a known peer announces a frame, or raft's protobuf a field: room is made for it, and not more than it may have.
const FRAME_BYTES_MAX: usize = MEMORY_BYTES_MAX + 16 * 1024 * 1024;
/// The same before a peer is known: a page or two.
const STRANGER_BYTES_MAX: usize = 16 * 1024;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn target(name: &str) -> Target {
    TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name").1
}

/// Name and bytes of each file, in the order of their names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder(target))
        .unwrap_or_else(|error| panic!("{target} has no corpus: {error}"))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Runs a target, and says what it was given if it panics; counts what it holds.
fn run(name: &str, bytes: &[u8], origin: &str) {
    struct Given<'a>(&'a str, &'a [u8]);
    impl Drop for Given<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let hex: String = self.1.iter().map(|byte| format!("{byte:02x}")).collect();
                eprintln!("{}: {hex}", self.0);
            }
        }
    }
    let given = Given(origin, bytes);
    let counted = Counted::start();
    target(name)(bytes);
    let held = counted.most_held();
    let limit = match name {
        "rpc_handshake" => STRANGER_BYTES_MAX,
        "rpc_frames" | "consensus_frame" => FRAME_BYTES_MAX,
        _ => MEMORY_BYTES_MAX,
    };
    assert!(held <= limit, "{name} held {held} bytes for an input of {}", bytes.len());
    drop(given);
}

/// The committed corpus, and so many random changes of it for each seed.
fn fuzz(name: &str, changes: usize) {
    let corpus = corpus(name);
    assert!((1..=CORPUS_FILES_MAX).contains(&corpus.len()), "{name} has {} files", corpus.len());
    // Once before anything is counted: what is made once and kept counts for nobody.
    target(name)(&corpus[0].1);
    for (file, bytes) in &corpus {
        run(name, bytes, file);
    }
    for seed in seeds(1) {
        let _named = OnPanic(seed);
        let mut mutator = Mutator::new(name, Random(seed), &corpus, INPUT_BYTES_MAX);
        for number in 0..changes {
            run(name, mutator.next(), &format!("change {number} of seed {seed}"));
        }
    }
}

#[test]
fn consensus_frames_of_any_bytes_are_read_or_dropped() {
    fuzz("consensus_frame", 300_000);
}

#[test]
fn bodies_and_queries_of_any_bytes_are_read_or_refused() {
    fuzz("job_json", 60_000);
}

#[test]
fn entries_of_any_bytes_are_refused_or_applied() {
    fuzz("ledger_entry", 80_000);
}

#[test]
fn snapshots_of_any_bytes_are_refused_or_lived_in() {
    fuzz("ledger_snapshot", 100_000);
}

#[test]
fn rpc_frames_of_any_bytes_are_read_or_end_the_connection() {
    fuzz("rpc_frames", 60_000);
}

#[test]
fn handshakes_of_any_bytes_are_refused_and_hold_a_page_at_most() {
    fuzz("rpc_handshake", 100_000);
}

#[test]
fn schedules_of_any_text_are_refused_or_fire_in_order() {
    fuzz("schedule", 300_000);
}

#[test]
fn journals_and_spools_of_any_bytes_are_read_as_far_as_they_are_whole() {
    fuzz("worker_files", 20_000);
}

#[test]
fn orders_that_make_no_sense_are_refused_or_obeyed() {
    fuzz("worker_orders", 300_000);
}

#[test]
fn the_seeds_are_what_the_program_writes_today() {
    for (name, _) in TARGETS {
        let update = std::env::var_os("UPDATE_GOLDENFILES").is_some();
        if update {
            fs::create_dir_all(folder(name)).unwrap();
            let old = fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path());
            old.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seed-"))
                .for_each(|path| fs::remove_file(path).unwrap());
        }
        let seeds = seeds::of(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (file, bytes) in &seeds {
            let path = folder(name).join(format!("seed-{file}"));
            if update {
                fs::write(&path, bytes).unwrap();
            }
            assert!(fs::read(&path).is_ok_and(|found| found == *bytes), "{} is not up to date: UPDATE_GOLDENFILES=1", path.display());
        }
        let found = corpus(name).iter().filter(|(file, _)| file.starts_with("seed-")).count();
        assert_eq!(found, seeds.len(), "{name} has seeds of an older version");
    }
}
