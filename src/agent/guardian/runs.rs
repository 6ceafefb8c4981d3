//! The guardian's table of runs: whose group is whose, which are being stopped, and which outlived their main process.

use std::collections::{BTreeSet, HashMap, HashSet};

use rustix::process::Pid;

use super::fence;
use super::proc_table;

/// Groups that outlived their main process are looked at this often; usually the end of an orphan says it sooner.
const LINGER_CHECK_MS: u64 = 50;
/// So long after its SIGKILL, a group is looked up in /proc as well: zombies whose parent has left the group and does not reap them count
/// as members for kill(2), but hold nothing back.
const ZOMBIE_CHECK_MS: u64 = 500;

/// One run from its spawn until its group is gone.
struct Run {
    group: Pid,
    kill_on_lease_end: bool,
    kill_grace_ms: u64,
    stopping: Stopping,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    Asked { kill_at_boot_ms: u64 },
    Killed { at_boot_ms: u64 },
}

/// All runs whose groups may still have members. Times are CLOCK_BOOTTIME in milliseconds.
#[derive(Default)]
pub(super) struct Runs {
    runs: HashMap<u64, Run>,
    /// Main processes that have not been reaped; such a pid can't be taken by another process.
    by_main: HashMap<Pid, u64>,
    /// (when to send SIGKILL, token)
    kills: BTreeSet<(u64, u64)>,
    /// Runs whose main process has ended and whose group has not, by group.
    lingering: HashMap<Pid, u64>,
    next_check_boot_ms: u64,
    next_zombie_check_boot_ms: u64,
}

impl Runs {
    pub fn contains(&self, token: u64) -> bool {
        self.runs.contains_key(&token)
    }

    pub fn groups(&self) -> impl Iterator<Item = Pid> {
        self.runs.values().map(|run| run.group)
    }

    /// A new run. Its pid is new, so a lingering group of that number is gone: then the token of that run is given back, taken out.
    pub fn insert(&mut self, token: u64, main: Pid, kill_on_lease_end: bool, kill_grace_ms: u64) -> Option<u64> {
        let gone = self.lingering.get(&main).copied();
        if let Some(gone) = gone {
            self.remove(gone);
        }
        self.by_main.insert(main, token);
        self.runs.insert(token, Run { group: main, kill_on_lease_end, kill_grace_ms, stopping: Stopping::No });
        gone
    }

    /// SIGTERM now and SIGKILL after the grace. Asked again, the earlier SIGKILL counts and there is no second SIGTERM.
    pub fn stop(&mut self, token: u64, grace_ms: u64, now: u64) {
        let Some(run) = self.runs.get_mut(&token) else { return };
        let mut kill_at_boot_ms = now.saturating_add(grace_ms);
        match run.stopping {
            Stopping::Killed { .. } => return,
            Stopping::Asked { kill_at_boot_ms: earlier } => {
                self.kills.remove(&(earlier, token));
                kill_at_boot_ms = kill_at_boot_ms.min(earlier);
            }
            Stopping::No => fence::terminate_group(run.group),
        }
        run.stopping = Stopping::Asked { kill_at_boot_ms };
        self.kills.insert((kill_at_boot_ms, token));
    }

    /// SIGKILL now.
    pub fn kill(&mut self, token: u64, now: u64) {
        let Some(run) = self.runs.get_mut(&token) else { return };
        if let Stopping::Asked { kill_at_boot_ms } = run.stopping {
            self.kills.remove(&(kill_at_boot_ms, token));
        }
        fence::kill_group(run.group);
        run.stopping = Stopping::Killed { at_boot_ms: now };
    }

    /// The lease is over: stops the runs that may not outlive it, each with its own grace.
    pub fn stop_marked(&mut self, now: u64) {
        let marked = self.runs.iter().filter(|(_, run)| run.kill_on_lease_end);
        let marked: Vec<(u64, u64)> = marked.map(|(token, run)| (*token, run.kill_grace_ms)).collect();
        for (token, grace_ms) in marked {
            self.stop(token, grace_ms, now);
        }
    }

    /// The process was reaped. The token of the run whose main process it was; None for an orphan.
    pub fn reaped(&mut self, pid: Pid) -> Option<u64> {
        self.by_main.remove(&pid)
    }

    /// The run's main process has ended: is its group gone with it? If not, it is stopped with the run's own grace.
    pub fn is_gone_with_main(&mut self, token: u64, now: u64) -> bool {
        let Some(&Run { group, kill_grace_ms, .. }) = self.runs.get(&token) else { return true };
        if !fence::group_exists(group) {
            self.remove(token);
            return true;
        }
        self.stop(token, kill_grace_ms, now);
        if self.lingering.is_empty() {
            self.next_check_boot_ms = now.saturating_add(LINGER_CHECK_MS);
        }
        self.lingering.insert(group, token);
        false
    }

    pub fn has_lingering(&self) -> bool {
        !self.lingering.is_empty()
    }

    /// Takes out the lingering runs whose groups are gone.
    pub fn take_gone(&mut self, now: u64) -> Vec<u64> {
        let living = self.living_groups_if_due(now);
        let is_zombies_only = |group: Pid, token: u64| {
            let living = living.as_ref().filter(|_| self.was_killed_long_ago(token, now));
            living.is_some_and(|living| !living.contains(&group.as_raw_nonzero().get()))
        };
        let lingering = self.lingering.iter().map(|(group, token)| (*group, *token));
        let gone = lingering.filter(|&(group, token)| !fence::group_exists(group) || is_zombies_only(group, token));
        let gone: Vec<u64> = gone.map(|(_, token)| token).collect();
        for token in &gone {
            self.remove(*token);
        }
        self.next_check_boot_ms = now.saturating_add(LINGER_CHECK_MS);
        gone
    }

    /// Reading all of /proc is dear: only when a killed group does not go, and not often.
    fn living_groups_if_due(&mut self, now: u64) -> Option<HashSet<i32>> {
        let is_due = now >= self.next_zombie_check_boot_ms && self.lingering.values().any(|token| self.was_killed_long_ago(*token, now));
        is_due.then(|| {
            self.next_zombie_check_boot_ms = now.saturating_add(ZOMBIE_CHECK_MS);
            proc_table::living_groups()
        })
    }

    fn was_killed_long_ago(&self, token: u64, now: u64) -> bool {
        let stopping = self.runs.get(&token).map(|run| run.stopping);
        matches!(stopping, Some(Stopping::Killed { at_boot_ms }) if now >= at_boot_ms.saturating_add(ZOMBIE_CHECK_MS))
    }

    /// Sends the SIGKILLs that are due.
    pub fn kill_due(&mut self, now: u64) {
        while let Some((at, token)) = self.kills.pop_first() {
            if at > now {
                self.kills.insert((at, token));
                return;
            }
            self.kill(token, now);
        }
    }

    pub fn is_check_due(&self, now: u64) -> bool {
        self.has_lingering() && self.next_check_boot_ms <= now
    }

    /// When something is due next.
    pub fn next_due_boot_ms(&self) -> Option<u64> {
        let kill = self.kills.first().map(|(at, _)| *at);
        let check = self.has_lingering().then_some(self.next_check_boot_ms);
        kill.into_iter().chain(check).min()
    }

    /// Forgets a run: its group is gone.
    pub fn remove(&mut self, token: u64) {
        let Some(run) = self.runs.remove(&token) else { return };
        if let Stopping::Asked { kill_at_boot_ms } = run.stopping {
            self.kills.remove(&(kill_at_boot_ms, token));
        }
        // The number may already be another run's group; it lingers only if it is this one's.
        if self.lingering.get(&run.group) == Some(&token) {
            self.lingering.remove(&run.group);
        }
    }
}
