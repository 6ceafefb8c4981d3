//! The leader that the quorum follows, and the ledger.
//!
//! There are two leaders, and never more than one that can get something applied. The first one, once deposed, needs few steps of its own:
//! what it proposed is void or was applied before; what it sends late is a message of old that arrives late; and what it could do by its
//! out-of-date view, it could have done before. Only its answers to new heartbeats are new (`grant_deposed`).
//!
//! Entries other than decisions and closes are proposed and applied in one step, as `apply` checks their conditions anyway.

use crate::protocol::Protocol;
use crate::rules::{LEASE, MARGIN, PERMIT};
use crate::world::{Fate, Message, Place, Proposal, Spool, TERMS, Weather, World};

impl Protocol {
    /// Decides the fire, by the watermark in the applied state; again, if it hears nothing of its proposal.
    pub fn propose(&self, world: &mut World, to: Place) -> bool {
        let is_open = to == Place::Elsewhere || world.ledger.session_open;
        if world.ledger.fate != Fate::Undecided || !is_open || world.proposals.len() == self.scope.proposals {
            return false;
        }
        if !world.is_stormy() && !world.proposals.is_empty() {
            return false;
        }
        world.proposals.push(Proposal::Decide(to));
        true
    }

    /// A quorum has the next proposal on its disks.
    pub fn apply(&self, world: &mut World) -> bool {
        if world.proposals.is_empty() {
            return false;
        }
        match world.proposals.remove(0) {
            Proposal::Decide(to) if world.ledger.fate == Fate::Undecided || !self.rules.compare_and_set => {
                let is_gone = matches!(to, Place::Worker(session) if world.is_over(session));
                world.ledger.fate = match is_gone {
                    true => Fate::Free { epoch: 1, attempt: 1 },
                    false => Fate::Given { to, epoch: 1, attempt: 1 },
                };
            }
            Proposal::Decide(_) => {}
            Proposal::Close { killed } => self.close(world, killed),
        }
        true
    }

    /// The first attempt has ended on the worker. A late outcome, after a second attempt was given out, is just noted.
    fn close(&self, world: &mut World, killed: bool) {
        world.ledger.outcome_known = true;
        match world.ledger.fate {
            Fate::Given { epoch, attempt: 1, .. } | Fate::Free { epoch, attempt: 1 } if killed && self.scope.retry => {
                world.ledger.fate = Fate::Free { epoch, attempt: 2 };
            }
            Fate::Given { attempt: 1, .. } | Fate::Free { .. } if !(killed && self.scope.retry) => world.ledger.fate = Fate::Closed,
            _ => {}
        }
        world.send(Message::Recorded);
    }

    /// Gives the worker what it is to hold. Repeated, to the same session only.
    pub fn stage(&self, world: &mut World) -> bool {
        let term = world.ledger.term;
        let applied = match world.ledger.fate {
            Fate::Given { to: Place::Worker(session), epoch, attempt: 1 } if !world.ledger.edited => Some((session, epoch)),
            _ => None,
        };
        let proposed = world.proposals.iter().find_map(|proposal| match proposal {
            Proposal::Decide(Place::Worker(session)) if !self.rules.stage_after_commit => Some((*session, 1)),
            _ => None,
        });
        let Some((session, epoch)) = applied.or(proposed) else { return false };
        world.send(Message::Stage { term, session, epoch });
        true
    }

    /// Asks for the run of the old revision back.
    pub fn revoke(&self, world: &mut World) -> bool {
        let Fate::Given { to: Place::Worker(session), epoch, attempt: 1 } = world.ledger.fate else { return false };
        if !world.ledger.edited {
            return false;
        }
        world.send(Message::Revoke { term: world.ledger.term, session, epoch });
        true
    }

    /// Answers a heartbeat that has just arrived, with the quorum's word that this leader still leads. The heartbeat is taken as sent this
    /// very moment: it can't be younger, and an older one is worth less.
    pub fn grant(&self, world: &mut World) -> bool {
        let Some(sent_at) = self.heartbeat(world) else { return false };
        if !world.ledger.session_open && self.rules.no_grant_after_end {
            return false;
        }
        world.leader.granted_at = world.now;
        self.answer(world, world.ledger.term, sent_at)
    }

    /// The same by a leader that was paused, wakes up, and asks no quorum.
    pub fn grant_deposed(&self, world: &mut World) -> bool {
        let Some(sent_at) = self.heartbeat(world) else { return false };
        if self.rules.grant_after_quorum || world.ledger.term == TERMS[0] {
            return false;
        }
        self.answer(world, TERMS[0], sent_at)
    }

    /// The worker's clock, if it sends a heartbeat now.
    fn heartbeat(&self, world: &World) -> Option<u8> {
        let session = world.worker.session.as_ref()?;
        let clock = world.worker_clock();
        let lives = session.id == world.ledger.session && session.granted_at.is_none_or(|at| clock < at + LEASE);
        lives.then_some(clock)
    }

    fn answer(&self, world: &mut World, term: u8, sent_at: u8) -> bool {
        if world.is_stormy() {
            if world.left.grants == 0 {
                return false;
            }
            world.left.grants -= 1;
        }
        let grant = Message::Grant { term, session: world.ledger.session, sent_at };
        let is_new = !world.sent.contains(&grant);
        world.send(grant);
        is_new
    }

    /// Opens a session, if the request knows the newest one. What the worker's journal says of the run lets it move (PROTOCOL D1), or keeps
    /// it with the worker. Both are one entry.
    pub fn open(&self, world: &mut World, message: Message) -> bool {
        let Message::Open { previous, has_started } = message else { return false };
        let is_overtaken = previous < world.ledger.session && self.rules.open_compare_and_set;
        let session = world.ledger.session + 1;
        if is_overtaken || (world.is_stormy() && session > self.scope.sessions) {
            return false;
        }
        world.ledger.session = session;
        world.ledger.session_open = true;
        if let Fate::Given { to: Place::Worker(_), epoch, attempt: 1 } = world.ledger.fate {
            if has_started {
                world.ledger.fate = Fate::Given { to: Place::Worker(session), epoch, attempt: 1 };
            } else {
                world.ledger.fate = Fate::Free { epoch, attempt: 1 };
                world.seen.not_started_said = world.seen.not_started_said.max(epoch);
            }
        }
        world.send(Message::Opened { previous, session });
        true
    }

    /// Gives up on a session: in a storm, whenever the leader has heard nothing of it.
    pub fn end_session(&self, world: &mut World) -> bool {
        let is_silent = world.is_stormy() || (!world.worker.up && world.now >= world.leader.granted_at + LEASE + MARGIN);
        if !is_silent || !world.ledger.session_open {
            return false;
        }
        world.ledger.session_open = false;
        true
    }

    /// The session that has the run may not start it any more: its permit is over before the run's instant (PROTOCOL D1).
    pub fn prove_permit_over(&self, world: &mut World) -> bool {
        let Fate::Given { to: Place::Worker(session), epoch, attempt: 1 } = world.ledger.fate else { return false };
        let margin = if self.rules.margin { MARGIN } else { 0 };
        let is_proved = world.is_over(session) && self.scope.start >= world.leader.granted_at + PERMIT + margin;
        if !is_proved && self.rules.proof_before_move {
            return false;
        }
        world.ledger.fate = Fate::Free { epoch, attempt: 1 };
        true
    }

    /// The worker has said that what it was given has not started, and won't (PROTOCOL D1).
    pub fn hear_not_started(&self, world: &mut World, message: Message) -> bool {
        let Message::NotStarted { epoch: said } = message else { return false };
        let Fate::Given { to: Place::Worker(_), epoch, attempt: 1 } = world.ledger.fate else { return false };
        if said != epoch && self.rules.epochs {
            return false;
        }
        world.ledger.fate = Fate::Free { epoch, attempt: 1 };
        true
    }

    /// The attempt went down with its worker; by now the guardian has ended it (PROTOCOL D2).
    pub fn new_attempt(&self, world: &mut World) -> bool {
        let Fate::Given { to: Place::Worker(session), epoch, attempt: 1 } = world.ledger.fate else { return false };
        let margin = if self.rules.margin { MARGIN } else { 0 };
        let is_dead = world.now >= world.leader.granted_at + LEASE + margin;
        if !self.scope.retry || !world.is_over(session) || (!is_dead && self.rules.wait_before_attempt) {
            return false;
        }
        world.ledger.fate = Fate::Free { epoch, attempt: 2 };
        true
    }

    /// Gives a run out again, with an epoch of its own. After an edit it is the new revision's.
    pub fn give(&self, world: &mut World, to: Place) -> bool {
        let Fate::Free { epoch, attempt } = world.ledger.fate else { return false };
        // Second attempts are not followed into the worker: they run elsewhere.
        let is_here = matches!(to, Place::Worker(_));
        if is_here && (attempt > 1 || !world.ledger.session_open || epoch >= self.scope.epochs) {
            return false;
        }
        world.ledger.fate = Fate::Given { to, epoch: epoch + 1, attempt };
        world.ledger.edited = false;
        true
    }

    /// The new revision doesn't fire at this instant.
    pub fn supersede(&self, world: &mut World) -> bool {
        if !(world.ledger.edited && matches!(world.ledger.fate, Fate::Free { .. })) {
            return false;
        }
        world.ledger.fate = Fate::Superseded;
        true
    }

    /// The worker reports the first attempt's end; it is acknowledged when `Close` is applied.
    pub fn take_report(&self, world: &mut World) -> bool {
        let killed = match world.worker.spool {
            Spool::Ended => false,
            Spool::Killed => true,
            Spool::Empty | Spool::Deleted => return false,
        };
        let close = Proposal::Close { killed };
        if !world.worker.up || world.proposals.contains(&close) || world.proposals.len() == self.scope.proposals {
            return false;
        }
        if world.ledger.outcome_known {
            world.send(Message::Recorded);
            return true;
        }
        world.proposals.push(close);
        if !self.rules.ack_after_close {
            world.send(Message::Recorded);
        }
        true
    }

    /// The second leader is elected. What the first had under way is void; what it granted lasts until now at the latest, plus the permit.
    pub fn elect(&self, world: &mut World) -> bool {
        if !self.scope.election || world.ledger.term != TERMS[0] {
            return false;
        }
        world.ledger.term = TERMS[1];
        world.proposals.clear();
        world.leader.granted_at = if self.rules.new_leader_waits { world.now } else { 0 };
        true
    }

    /// Someone edits the job, while a run of the old revision is out.
    pub fn edit(&self, world: &mut World) -> bool {
        let is_out = matches!(world.ledger.fate, Fate::Given { to: Place::Worker(_), epoch: 1, attempt: 1 });
        if !self.scope.edit || world.ledger.edited || !is_out {
            return false;
        }
        world.ledger.edited = true;
        true
    }

    /// What the API says while a run's worker is silent: it may have started or not, and nobody guesses.
    pub fn is_unreachable(world: &World) -> bool {
        let is_out = matches!(world.ledger.fate, Fate::Given { to: Place::Worker(_), .. });
        is_out && world.weather == Weather::CalmWithoutWorker && !world.ledger.session_open
    }
}
