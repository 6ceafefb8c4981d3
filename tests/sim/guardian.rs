//! A worker's guardian and the processes that it holds, in virtual time: what `agent::guardian` promises, and no more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chrono_flow::agent::runs::{Exit, Launch, Token};
use chrono_flow::model::Epoch;

use crate::random::Random;

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

pub enum Order {
    Spawn { token: Token, launch: Arc<Launch>, epoch: Epoch, not_after_ms: i64 },
    Stop { token: Token, grace_ms: u64 },
    SetLease { permit_end_ms: i64, lease_end_ms: i64 },
}

#[derive(Clone, Copy, Debug)]
pub enum Notice {
    Spawned { token: Token },
    TooLate { token: Token },
    Exited { token: Token, exit: Exit },
    GroupGone { token: Token },
}

pub struct Process {
    pub launch: Arc<Launch>,
    ends_at_ms: i64,
    exit: Exit,
    /// Children outlive the main process by so much.
    lingers_ms: i64,
    kill_at_ms: Option<i64>,
    ignores_term: bool,
    has_exited: bool,
}

/// All times are the machine's BOOTTIME.
pub struct Guardian {
    orders: VecDeque<(i64, Order)>,
    pub notices: VecDeque<(i64, Notice)>,
    permit_end_ms: i64,
    lease_end_ms: i64,
    is_lease_end_handled: bool,
    /// It was killed: what it held goes on, and nobody is told.
    pub is_dead: bool,
    pub processes: BTreeMap<Token, Process>,
}

/// A process that began to live.
pub struct Started {
    pub launch: Arc<Launch>,
    pub epoch: Epoch,
}

impl Default for Guardian {
    fn default() -> Guardian {
        Guardian {
            orders: VecDeque::new(),
            notices: VecDeque::new(),
            permit_end_ms: i64::MIN,
            lease_end_ms: i64::MIN,
            is_lease_end_handled: true,
            is_dead: false,
            processes: BTreeMap::new(),
        }
    }
}

/// What a command does: "milliseconds, percent of failures, bytes of output".
pub fn habit(command: &str) -> [u64; 3] {
    let mut numbers = command.split(' ').map(|number| number.parse().expect("a habit"));
    std::array::from_fn(|_| numbers.next().expect("three numbers"))
}

impl Guardian {
    pub fn order(&mut self, boot_ms: i64, random: &mut Random, order: Order) {
        let due_ms = boot_ms + random.below(3) as i64;
        let due_ms = self.orders.back().map_or(due_ms, |(last, _)| due_ms.max(*last));
        self.orders.push_back((due_ms, order));
    }

    fn tell(&mut self, boot_ms: i64, random: &mut Random, notice: Notice) {
        let due_ms = boot_ms + random.below(3) as i64;
        let due_ms = self.notices.back().map_or(due_ms, |(last, _)| due_ms.max(*last));
        self.notices.push_back((due_ms, notice));
    }

    pub fn next_due_ms(&self) -> Option<i64> {
        let process = |process: &Process| {
            let end_ms = if process.has_exited { process.ends_at_ms + process.lingers_ms } else { process.ends_at_ms };
            end_ms.min(process.kill_at_ms.unwrap_or(i64::MAX))
        };
        let lease = (!self.is_lease_end_handled && !self.is_dead).then_some(self.lease_end_ms + 1);
        let processes = self.processes.values().map(process).min();
        [self.orders.front().map(|(due_ms, _)| *due_ms), lease, processes].into_iter().flatten().min()
    }

    /// Obeys, and lets the time of its processes go on. Answers what has started.
    pub fn run(&mut self, boot_ms: i64, random: &mut Random) -> Vec<Started> {
        let mut started = Vec::new();
        if self.is_dead {
            self.processes.retain(|_, process| !process.has_ended(boot_ms));
            return started;
        }
        while let Some((_, order)) = self.orders.pop_front_if(|(due_ms, _)| *due_ms <= boot_ms) {
            match order {
                Order::Spawn { token, launch, epoch, not_after_ms } => {
                    if boot_ms > not_after_ms || boot_ms > self.permit_end_ms || boot_ms > self.lease_end_ms {
                        self.tell(boot_ms, random, Notice::TooLate { token });
                        continue;
                    }
                    started.push(Started { launch: launch.clone(), epoch });
                    self.processes.insert(token, Process::new(launch, boot_ms, random));
                    self.tell(boot_ms, random, Notice::Spawned { token });
                }
                Order::Stop { token, grace_ms } => {
                    if let Some(process) = self.processes.get_mut(&token) {
                        process.stop(boot_ms, grace_ms, random);
                    }
                }
                Order::SetLease { permit_end_ms, lease_end_ms } => {
                    (self.permit_end_ms, self.lease_end_ms) = (permit_end_ms, lease_end_ms);
                    self.is_lease_end_handled = false;
                }
            }
        }
        if !self.is_lease_end_handled && boot_ms > self.lease_end_ms {
            self.is_lease_end_handled = true;
            for process in self.processes.values_mut().filter(|process| process.launch.task.ends_with_lease) {
                process.stop(boot_ms, process.launch.task.kill_grace_ms, random);
            }
        }
        self.end_processes(boot_ms, random);
        started
    }

    fn end_processes(&mut self, boot_ms: i64, random: &mut Random) {
        let mut notices = Vec::new();
        self.processes.retain(|token, process| {
            if process.kill_at_ms.is_some_and(|at_ms| at_ms <= boot_ms) {
                if !process.has_exited && process.ends_at_ms > boot_ms {
                    (process.ends_at_ms, process.exit) = (boot_ms, Exit::Signal(SIGKILL));
                }
                process.lingers_ms = 0;
            }
            if !process.has_exited && process.ends_at_ms <= boot_ms {
                process.has_exited = true;
                notices.push(Notice::Exited { token: *token, exit: process.exit });
            }
            let is_gone = process.has_exited && process.ends_at_ms + process.lingers_ms <= boot_ms;
            if is_gone {
                notices.push(Notice::GroupGone { token: *token });
            }
            !is_gone
        });
        notices.into_iter().for_each(|notice| self.tell(boot_ms, random, notice));
    }

    /// It is killed itself: its children belong to nobody, and do what they have begun.
    pub fn die(&mut self) {
        self.is_dead = true;
        self.orders.clear();
        for process in self.processes.values_mut() {
            process.kill_at_ms = None;
        }
    }

    /// The session may have started something, or may have something alive, up to here.
    pub fn lease_end_ms(&self) -> i64 {
        self.lease_end_ms
    }

    /// The agent has died: nothing that it started lives on.
    pub fn end_everything(&mut self) {
        *self = Guardian::default();
    }
}

impl Process {
    fn new(launch: Arc<Launch>, boot_ms: i64, random: &mut Random) -> Process {
        let [lasts_ms, fail_percent, _] = habit(&launch.task.command);
        let lasts_ms = (lasts_ms / 2 + random.below(lasts_ms + 1)) as i64;
        let exit = if random.chance(fail_percent) { Exit::Code(1) } else { Exit::Code(0) };
        let lingers_ms = if random.chance(5) { random.below(2_000) as i64 } else { 0 };
        let ends_at_ms = boot_ms + lasts_ms;
        Process { launch, ends_at_ms, exit, lingers_ms, kill_at_ms: None, ignores_term: random.chance(25), has_exited: false }
    }

    /// With all its children, by itself.
    pub fn has_ended(&self, boot_ms: i64) -> bool {
        self.ends_at_ms + self.lingers_ms <= boot_ms
    }

    fn stop(&mut self, boot_ms: i64, grace_ms: u64, random: &mut Random) {
        let kill_at_ms = boot_ms + grace_ms as i64;
        self.kill_at_ms = Some(self.kill_at_ms.unwrap_or(i64::MAX).min(kill_at_ms));
        let obeys_at_ms = boot_ms + random.below(grace_ms + 1) as i64;
        if !self.has_exited && !self.ignores_term && obeys_at_ms < self.ends_at_ms {
            (self.ends_at_ms, self.exit) = (obeys_at_ms, Exit::Signal(SIGTERM));
        }
    }
}
