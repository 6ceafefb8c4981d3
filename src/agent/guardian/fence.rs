//! The fence itself: killing, by group and by descent.

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpgrp, getpid, kill_process, kill_process_group, test_kill_process_group, wait};

use super::proc_table;

/// How long to wait between two rounds of killing what is still there: doubling from the first to the second.
const ROUND_PAUSE_MS: (u64, u64) = (1, 64);

/// Kills these groups and then everything beneath this process, and returns when no child is left. It does not give up: a process that
/// can't be killed (it hangs in the kernel) keeps the guardian, and with it the lock, which is the truth.
pub(super) fn end_everything(groups: impl Iterator<Item = Pid>) {
    for group in groups {
        kill_group(group);
    }
    let mut pause_ms = ROUND_PAUSE_MS.0;
    while !reap_all() {
        kill_descendants();
        std::thread::sleep(Duration::from_millis(pause_ms));
        pause_ms = (pause_ms * 2).min(ROUND_PAUSE_MS.1);
    }
}

/// Asks a group to end. SIGCONT, because a stopped process does not see the request otherwise.
pub(super) fn terminate_group(group: Pid) {
    // It may have gone meanwhile, or have a member of another user: whether it is gone is always asked separately.
    let _ = kill_process_group(group, Signal::TERM);
    let _ = kill_process_group(group, Signal::CONT);
}

/// Ends a group.
pub(super) fn kill_group(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
}

/// Whether the group has a member, zombies included.
pub(super) fn group_exists(group: Pid) -> bool {
    test_kill_process_group(group) != Err(Errno::SRCH)
}

/// Reaps what has ended; true if no child is left.
fn reap_all() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true, // ECHILD; wait knows no other error for these arguments
        }
    }
}

/// Also by group: a kill of a group is one step against which its members can't fork.
fn kill_descendants() {
    let own_group = getpgrp();
    for process in proc_table::living_descendants(getpid().as_raw_nonzero().get()) {
        if let Some(group) = Pid::from_raw(process.group).filter(|group| *group != own_group) {
            kill_group(group);
        }
        if let Some(pid) = Pid::from_raw(process.pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
