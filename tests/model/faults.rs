//! Time, the death of the worker's process, and the end of all faults.
//!
//! Messages need no faults of their own: one that was sent may arrive at any later time, any number of times, or never (`World::sent`). Nor
//! do pauses: whoever takes no step is paused, and everybody may, for as long as it likes.

use crate::protocol::Protocol;
use crate::rules::{LEASE, Tick};
use crate::world::{Spool, Weather, World};

impl Protocol {
    /// A moment passes. The worker's clock goes along (1), or its rate is off for once: it stands still (0) or goes two (2). The guardian
    /// ends what has outlived its lease; a guardian that is itself stopped is beyond the promises.
    pub fn tick(&self, world: &mut World, beats: Tick) -> bool {
        let clock_ahead = (world.worker.clock_ahead + beats).checked_sub(1);
        let Some(clock_ahead @ 0..=1) = clock_ahead else { return false };
        let is_last = world.now == self.scope.end || (world.is_stormy() && self.scope.calm_by == Some(world.now));
        if is_last || (!world.worker.up && world.worker.alive) {
            return false;
        }
        if beats != 1 {
            if world.left.changes_of_rate == 0 {
                return false;
            }
            world.left.changes_of_rate -= 1;
        }
        world.now += 1;
        world.worker.clock_ahead = clock_ahead;
        let is_over = world.worker_clock() >= world.worker.leased_from + LEASE;
        if is_over && world.worker.alive && self.scope.retry && self.rules.lease_kills {
            self.kill(world);
            world.worker.journal.starting = false;
            world.worker.spool = Spool::Killed;
        }
        true
    }

    fn kill(&self, world: &mut World) {
        world.worker.alive = false;
    }

    /// The agent's process dies. Its memory is gone; the command still runs, the journal and the spool are still there.
    pub fn crash(&self, world: &mut World) -> bool {
        if !world.worker.up || world.left.crashes == 0 {
            return false;
        }
        world.left.crashes -= 1;
        world.worker.up = false;
        world.worker.session = None;
        world.worker.has_asked = false;
        world.worker.held = None;
        true
    }

    /// The guardian finds the agent's pipe closed, and ends what runs, before the next moment.
    pub fn guardian_notices(&self, world: &mut World) -> bool {
        if world.worker.up || !world.worker.alive {
            return false;
        }
        self.kill(world);
        true
    }

    /// A new process on the same data directory makes sure that what may run is dead, and says that it may have run (PROTOCOL E2).
    pub fn restart(&self, world: &mut World) -> bool {
        if world.worker.up {
            return false;
        }
        if self.rules.kill_after_restart {
            self.kill(world);
        }
        let worker = &mut world.worker;
        worker.up = true;
        if worker.journal.starting && self.rules.report_maybe_started {
            worker.journal.starting = false;
            worker.spool = Spool::Killed;
        }
        true
    }

    /// No more faults: messages under way arrive or are lost, a worker that is down comes back or doesn't.
    pub fn calm(&self, world: &mut World, messages_lost: bool, worker_lost: bool) -> bool {
        if self.scope.calm_by.is_none() || (worker_lost && world.worker.up) {
            return false;
        }
        world.weather = if worker_lost { Weather::CalmWithoutWorker } else { Weather::Calm };
        world.left.crashes = 0;
        world.left.changes_of_rate = 0;
        world.left.grants = 0;
        if messages_lost {
            world.sent.clear();
        }
        true
    }
}
