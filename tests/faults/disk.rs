//! A small disk: a file system in memory, which a test fills, and frees again.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{StatVfs, statvfs};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What a file of the filler's is at most.
const CHUNK_BYTES: usize = 64 * 1024;

/// Dropped before the directory that it is mounted on.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts it on a directory, which is made if it is missing; none, loudly, where that is not allowed. What is started by this thread
    /// from now on sees it, and nobody else: it is gone with them.
    pub fn mount(path: &Path, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(path).expect("a directory");
        if let Err(error) = see_mounts_alone() {
            eprintln!("SKIPPED: a tmpfs can't be mounted here (it takes root): {error}");
            return None;
        }
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk { path: path.to_owned() }),
            _ => {
                eprintln!("SKIPPED: a tmpfs can't be mounted here: {mounted:?}");
                None
            }
        }
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.filler()).expect("a file");
        for size in [CHUNK_BYTES, 4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("it was full");
    }

    pub fn free_bytes(&self) -> u64 {
        let StatVfs { f_bavail, f_frsize, .. } = statvfs(&self.path).expect("it is mounted");
        f_bavail * f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Gives this thread a table of mounts of its own.
fn see_mounts_alone() -> rustix::io::Result<()> {
    // SAFETY: descriptors stay shared; only what is mounted where is this thread's own.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let made = Command::new("mount").args(["--make-rprivate", "/"]).status();
    if made.is_ok_and(|status| status.success()) { Ok(()) } else { Err(rustix::io::Errno::PERM) }
}
