//! A wall clock of its own for one node, which the test sets (libfaketime). BOOTTIME stays what it is, as when somebody sets a machine's
//! clock.

use std::path::{Path, PathBuf};

use crate::node::Node;

/// Where Debian's package `faketime` puts it, for any processor.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

pub struct Clock {
    path: PathBuf,
}

impl Clock {
    /// Gives a clock to a node, from its next start on; none, loudly, where libfaketime is missing.
    pub fn give(node: &mut Node) -> Option<Clock> {
        let clock = Clock { path: node.dir().join("clock") };
        let Some(library) = library() else {
            eprintln!("SKIPPED: libfaketime is missing: install the package `faketime`");
            return None;
        };
        clock.set(0);
        sweep();
        let yes = || PathBuf::from("1");
        node.env = vec![
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", clock.path.clone()),
            ("FAKETIME_NO_CACHE", yes()),
            ("DONT_FAKE_MONOTONIC", yes()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", yes()),
            ("NO_FAKE_STAT", yes()),
        ];
        Some(clock)
    }

    /// By how much it is ahead of everybody else's.
    pub fn set(&self, ahead_s: i64) {
        // Read anew each time somebody looks at the clock, so it is never half written.
        let next = self.path.with_extension("next");
        std::fs::write(&next, format!("{ahead_s:+}\n")).expect("a file");
        std::fs::rename(next, &self.path).expect("a file");
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        sweep();
    }
}

/// libfaketime shares memory under its process's number, and leaves it behind when that is killed; a later process of the same number would
/// stumble over it.
fn sweep() {
    for file in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("faketime_shm_").or_else(|| name.strip_prefix("sem.faketime_sem_"));
        if pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.chain([Path::new("/usr/lib").to_owned()]).map(|folder| folder.join(LIBRARY)).find(|path| path.exists())
}
