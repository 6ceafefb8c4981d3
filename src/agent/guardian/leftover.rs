//! What a guardian left behind that was killed itself: its runs then belong to init and know no fence. The journal has their process ids.

use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::fence;
use super::proc_table::{self, Process};

/// How long to wait for a killed group to go.
const GONE_WAIT: Duration = Duration::from_secs(5);
const GONE_POLL: Duration = Duration::from_millis(5);

/// What [`kill_leftover`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing of that run was alive.
    Gone,
    /// Its group was alive, was killed, and is gone.
    Killed,
    /// It was killed, but some of it is still there after 5 s (it hangs in the kernel, or belongs to another user).
    Remains,
}

/// Makes sure that the group of a run of an earlier life is dead (PROTOCOL E2). `pid` and `start_time_ticks` are those of
/// [`super::Spawned`]; a process that merely got the same number later is left alone. Call it when no other guardian lives on the data
/// directory, and on the same boot of the machine: after another boot nothing is left. It blocks, up to 5 s.
pub fn kill_leftover(pid: u32, start_time_ticks: u64) -> Leftover {
    let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Leftover::Gone };
    if !is_ours(group, start_time_ticks) {
        return Leftover::Gone;
    }
    let started = Instant::now();
    while started.elapsed() < GONE_WAIT {
        fence::kill_group(group);
        if living_members(group).next().is_none() {
            return Leftover::Killed;
        }
        std::thread::sleep(GONE_POLL);
    }
    Leftover::Remains
}

/// Whether the group of that number is the run's. While its main process is there, the start time says so.
///
/// While a group has a member, no new process gets its number. So if the main process has gone, a group of that number is the run's, or
/// that of a later process with the number which has also gone. The run's is told by its members: they started no earlier, and they are in
/// the session of a guardian, which is not led by them and whose leader is dead.
fn is_ours(group: Pid, start_time_ticks: u64) -> bool {
    let number = group.as_raw_nonzero().get();
    if let Some(main) = proc_table::process(number)
        && (!main.is_dead || main.start_time_ticks != start_time_ticks)
    {
        return main.start_time_ticks == start_time_ticks && main.group == number;
    }
    let is_from_dead_guardian = |member: Process| {
        let is_led = proc_table::process(member.session).is_some();
        member.start_time_ticks >= start_time_ticks && member.session != number && !is_led
    };
    living_members(group).next().is_some_and(is_from_dead_guardian)
}

fn living_members(group: Pid) -> impl Iterator<Item = Process> {
    let number = group.as_raw_nonzero().get();
    proc_table::processes().filter(move |process| process.group == number && !process.is_dead)
}
