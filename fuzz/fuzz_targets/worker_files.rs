#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chrono_flow_fuzz::worker_files::run(bytes));
