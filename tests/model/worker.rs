//! The worker modelled whole: agent, guardian, journal and spool; and in a few lines the second one, which never fails.

use crate::protocol::Protocol;
use crate::rules::{LEASE, MARGIN, PERMIT, Tick};
use crate::world::{Elsewhere, Fate, Message, Place, Proposal, Session, Spool, Weather, World};

/// As if a lease were never over.
const NO_END: Tick = 100;

impl Protocol {
    /// An order has arrived, for the first time or again.
    pub fn obey(&self, world: &mut World, message: Message) -> bool {
        let (term, to) = match message {
            Message::Stage { term, session, .. } | Message::Revoke { term, session, .. } | Message::Grant { term, session, .. } => {
                (term, session)
            }
            Message::Recorded => return self.forget_result(world),
            Message::Opened { previous, session } => return self.enter(world, previous, session),
            Message::NotStarted { .. } | Message::Open { .. } => return false,
        };
        let clock = world.worker_clock();
        let Some(session) = &mut world.worker.session else { return false };
        if (session.id != to && self.rules.sessions) || (term < session.term_seen && self.rules.term_check) {
            return false;
        }
        let is_lower = term < session.term_seen;
        session.term_seen = session.term_seen.max(term);
        let has_obeyed = match message {
            Message::Stage { epoch, .. } => self.hold(world, epoch),
            Message::Revoke { epoch, .. } => self.give_back(world, epoch),
            Message::Grant { sent_at, .. } => {
                let counts_from = if self.rules.lease_from_sending { sent_at } else { clock };
                let is_longer = session.granted_at.is_none_or(|at| at < counts_from);
                session.granted_at = session.granted_at.max(Some(counts_from));
                world.worker.leased_from = world.worker.leased_from.max(counts_from);
                is_longer
            }
            _ => false,
        };
        world.seen.lower_term_obeyed |= is_lower && has_obeyed;
        true
    }

    fn hold(&self, world: &mut World, epoch: u8) -> bool {
        let worker = &mut world.worker;
        let Some(session) = &worker.session else { return false };
        let was_given_back = epoch <= session.tombstone && self.rules.tombstone;
        let has_started = session.started && self.rules.started_stays_known;
        let is_busy = worker.alive || worker.journal.starting || worker.held >= Some(epoch);
        if was_given_back || has_started || is_busy {
            return false;
        }
        worker.held = Some(epoch);
        worker.journal.accepted = Some(epoch);
        true
    }

    /// What was not begun yet, or has not even come, is given back: from now on it is refused.
    fn give_back(&self, world: &mut World, epoch: u8) -> bool {
        let worker = &mut world.worker;
        let Some(session) = &mut worker.session else { return false };
        if worker.alive || worker.journal.starting || worker.spool != Spool::Empty || worker.held > Some(epoch) {
            return false;
        }
        worker.held = None;
        worker.journal.accepted = None;
        session.tombstone = session.tombstone.max(epoch);
        self.say_not_started(world, epoch);
        true
    }

    fn say_not_started(&self, world: &mut World, epoch: u8) {
        world.send(Message::NotStarted { epoch });
        world.seen.not_started_said = world.seen.not_started_said.max(epoch);
    }

    /// Permit and session, on the worker's own clock.
    fn may_start(&self, world: &World) -> bool {
        let clock = world.worker_clock();
        let permit = |session: &Session| session.granted_at.is_some_and(|at| clock < at + PERMIT);
        let has_permit = world.worker.session.as_ref().is_some_and(permit);
        world.worker.up && clock >= self.scope.start && (has_permit || !self.rules.start_permit)
    }

    /// The instant has come: `starting` goes into the journal.
    pub fn begin(&self, world: &mut World) -> bool {
        if world.worker.held.is_none() || world.worker.journal.starting || !self.may_start(world) || !self.rules.journal_before_spawn {
            return false;
        }
        world.worker.journal.starting = true;
        true
    }

    /// The guardian checks once more and spawns, in one step.
    pub fn spawn(&self, world: &mut World) -> bool {
        let has_begun = world.worker.journal.starting || !self.rules.journal_before_spawn;
        let is_checked = !self.rules.check_with_spawn || self.may_start(world);
        if !(world.worker.up && has_begun && is_checked) || world.worker.alive {
            return false;
        }
        let Some(epoch) = world.worker.held.take() else { return false };
        world.worker.alive = true;
        if let Some(session) = &mut world.worker.session {
            session.started = true;
        }
        let seen = &mut world.seen;
        seen.starts = (seen.starts + 1).min(2);
        seen.started_after_saying_so |= epoch <= seen.not_started_said;
        seen.started_after_permit |= world.now >= world.leader.granted_at + PERMIT + MARGIN;
        true
    }

    /// The guardian would not: the permit was over by then.
    pub fn refuse(&self, world: &mut World) -> bool {
        let has_begun = world.worker.up && world.worker.journal.starting && world.worker.held.is_some();
        if !has_begun || self.may_start(world) || !self.rules.check_with_spawn {
            return false;
        }
        world.worker.journal.starting = false;
        world.worker.held = None;
        true
    }

    /// The journal, when it is late.
    pub fn note_started(&self, world: &mut World) -> bool {
        if self.rules.journal_before_spawn || !world.worker.up || !world.worker.alive {
            return false;
        }
        world.worker.journal.starting = true;
        true
    }

    /// The command ends by itself.
    pub fn finish(&self, world: &mut World) -> bool {
        if !(world.worker.up && world.worker.alive) {
            return false;
        }
        world.worker.alive = false;
        world.worker.journal.starting = false;
        world.worker.spool = Spool::Ended;
        true
    }

    /// The result is recorded: the spool may go.
    fn forget_result(&self, world: &mut World) -> bool {
        let has_result = matches!(world.worker.spool, Spool::Ended | Spool::Killed);
        if !(world.worker.up && has_result) {
            return false;
        }
        world.worker.spool = Spool::Deleted;
        true
    }

    /// Asks for a session when the last one is over: with the process, by the worker's own clock, or by the leader's word. What was held is
    /// dropped first. The request says what the journal knows of the run. Who has asked and hears nothing, or is refused, asks again: by
    /// then it has been told which session is the newest.
    pub fn register(&self, world: &mut World) -> bool {
        let clock = world.worker_clock();
        let is_over = |session: &Session| session.granted_at.is_some_and(|at| clock >= at + LEASE) || world.is_over(session.id);
        if !world.worker.up || !world.worker.session.as_ref().is_none_or(is_over) {
            return false;
        }
        let worker = &mut world.worker;
        if worker.journal.starting && worker.held.is_some() && !worker.alive {
            return false; // The guardian has not answered yet.
        }
        let is_new_process = worker.session.is_none() && !worker.has_asked;
        let newest = if worker.has_asked && self.rules.newest_is_told { world.ledger.session } else { worker.newest };
        let is_answered = |message: &Message| matches!(message, Message::Opened { previous, .. } if *previous == worker.newest);
        let is_bound = match world.weather {
            Weather::Stormy => newest >= self.scope.sessions,
            _ => worker.has_asked && world.sent.iter().any(is_answered), // It waits for that.
        };
        if is_bound {
            return false;
        }
        worker.newest = newest;
        if self.rules.drop_unstarted {
            worker.held = None;
        }
        if is_new_process && !self.rules.fresh_stage_after_restart {
            worker.held = worker.journal.accepted;
        }
        worker.journal.accepted = worker.held;
        worker.session = None;
        worker.has_asked = true;
        let open = Message::Open { previous: worker.newest, has_started: worker.has_started() };
        world.send(open);
        true
    }

    /// A session was opened. Only the answer to the latest request counts: who has asked again is beyond the others.
    fn enter(&self, world: &mut World, previous: u8, id: u8) -> bool {
        let worker = &mut world.worker;
        if !(worker.up && worker.has_asked) || previous != worker.newest {
            return false;
        }
        worker.session = Some(Session { started: worker.has_started(), ..Session::new(id) });
        worker.has_asked = false;
        worker.newest = id;
        if !self.rules.lease_outlives_session {
            worker.leased_from = NO_END;
        }
        true
    }

    /// The second worker starts what it was given, at its instant.
    pub fn start_elsewhere(&self, world: &mut World) -> bool {
        let applied = match world.ledger.fate {
            Fate::Given { to: Place::Elsewhere, attempt, .. } => Some(attempt),
            _ => None,
        };
        let is_proposed = !self.rules.stage_after_commit && world.proposals.contains(&Proposal::Decide(Place::Elsewhere));
        let Some(attempt) = applied.or(is_proposed.then_some(1)) else { return false };
        if world.elsewhere != Elsewhere::Idle || world.now < self.scope.start {
            return false;
        }
        world.elsewhere = Elsewhere::Running { attempt };
        if attempt == 1 {
            world.seen.starts = (world.seen.starts + 1).min(2);
        }
        true
    }

    pub fn finish_elsewhere(&self, world: &mut World) -> bool {
        if !matches!(world.elsewhere, Elsewhere::Running { .. }) {
            return false;
        }
        world.elsewhere = Elsewhere::Done;
        if matches!(world.ledger.fate, Fate::Given { to: Place::Elsewhere, .. }) {
            world.ledger.fate = Fate::Closed;
        }
        true
    }
}
