//! Places at which a test has the process die as kill -9 has it: `failpoint!("after-fsync")`. In debug builds only; a release build has
//! none, and knows nothing of the variable.
//!
//! `CHRONO_FLOW_FAILPOINT` names a file, which the test writes while the process runs: the name of a place. Whoever passes that place takes
//! the file away, and dies.

/// All places, in the order of a launch's life.
#[cfg(debug_assertions)]
pub const NAMES: &[&str] = &[
    "before-log-write",
    "before-log-commit",
    "after-log-commit",
    "after-apply",
    "before-stage",
    "worker-after-accepted",
    "after-stage",
    "worker-after-starting",
    "worker-after-spawn",
    "worker-after-ended",
    "before-close",
    "after-close",
    "worker-after-report",
    "worker-after-revoked",
    "before-record",
    "before-recorded",
    "after-recorded",
];

/// Passes a place, if the condition holds.
macro_rules! failpoint {
    ($name:literal) => {
        failpoint!($name, true)
    };
    ($name:literal, $is_here:expr) => {
        #[cfg(debug_assertions)]
        {
            if $is_here {
                crate::failpoint::pass($name);
            }
        }
    };
}

/// Dies, if it was told to die here.
#[cfg(debug_assertions)]
pub fn pass(name: &str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use rustix::process::{Signal, getpid, kill_process};

    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    debug_assert!(NAMES.contains(&name), "{name}");
    let Some(file) = FILE.get_or_init(|| std::env::var_os("CHRONO_FLOW_FAILPOINT").map(PathBuf::from)) else { return };
    let is_told = std::fs::read_to_string(file).is_ok_and(|told| told.trim() == name);
    if is_told && std::fs::remove_file(file).is_ok() {
        log::error!("dies at {name}, as it was told to");
        while kill_process(getpid(), Signal::KILL).is_ok() {
            std::thread::yield_now();
        }
    }
}
