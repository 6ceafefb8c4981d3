//! What must always hold, and what must be possible.

use stateright::Property;

use crate::protocol::Protocol;
use crate::world::{Elsewhere, Fate, Place, Spool, World};

pub const STARTS_ONCE: &str = "an attempt starts at most once, anywhere";
pub const ONE_ALIVE: &str = "never two attempts of a run alive at once";
pub const NOT_AFTER_REVOKE: &str = "no start after the worker said that there was none and would be none";
pub const NOT_AFTER_PERMIT: &str = "no start after the permit is over, as the leader counts it";
pub const LOWER_TERM: &str = "a lower term is obeyed by nobody";
pub const NO_OUTCOME_LOST: &str = "no outcome is forgotten before it is recorded";
pub const SETTLED: &str = "when faults end, the run is resolved, or unreachable with its worker away";

pub fn promises() -> Vec<Property<Protocol>> {
    vec![
        Property::always(STARTS_ONCE, |_, world: &World| world.seen.starts < 2),
        Property::always(ONE_ALIVE, |_, world: &World| !(world.worker.alive && matches!(world.elsewhere, Elsewhere::Running { .. }))),
        Property::always(NOT_AFTER_REVOKE, |_, world: &World| !world.seen.started_after_saying_so),
        Property::always(NOT_AFTER_PERMIT, |_, world: &World| !world.seen.started_after_permit),
        Property::always(LOWER_TERM, |_, world: &World| !world.seen.lower_term_obeyed),
        Property::always(NO_OUTCOME_LOST, |_, world: &World| world.worker.spool != Spool::Deleted || world.ledger.outcome_known),
        Property::always(SETTLED, |protocol: &Protocol, world: &World| {
            world.is_stormy() || world.now < protocol.scope.end || is_settled(world)
        }),
    ]
}

fn is_settled(world: &World) -> bool {
    matches!(world.ledger.fate, Fate::Closed | Fate::Superseded) || Protocol::is_unreachable(world)
}

pub const RUNS_HERE: &str = "the run starts on the worker";
pub const RUNS_HERE_LATE: &str = "the run starts on the worker under the second leader, by the order of the first";
pub const RUNS_HERE_THIRD: &str = "the run starts on the worker in its third session";
pub const RUNS_ELSEWHERE: &str = "the run starts on the second worker after it was moved";
pub const RUNS_AGAIN: &str = "a second attempt starts";
pub const REPLACED: &str = "a run is given back, given out again, and starts on the same worker";
pub const SUPERSEDED: &str = "a run is given back and superseded";
pub const CLOSED: &str = "the run ends, and its spool is deleted";
pub const UNREACHABLE: &str = "the worker stays away, and the run is unreachable";

pub fn examples() -> Vec<Property<Protocol>> {
    vec![
        Property::sometimes(RUNS_HERE, |_, world: &World| world.worker.alive),
        Property::sometimes(RUNS_HERE_LATE, |_, world: &World| {
            let term_seen = world.worker.session.as_ref().map(|session| session.term_seen);
            world.worker.alive && world.ledger.term == 2 && term_seen == Some(1)
        }),
        Property::sometimes(RUNS_HERE_THIRD, |_, world: &World| {
            world.worker.alive && world.worker.session.as_ref().is_some_and(|session| session.id == 3)
        }),
        Property::sometimes(RUNS_ELSEWHERE, |_, world: &World| {
            let was_moved = matches!(world.ledger.fate, Fate::Given { to: Place::Elsewhere, epoch: 2.., attempt: 1 });
            was_moved && world.elsewhere == Elsewhere::Running { attempt: 1 }
        }),
        Property::sometimes(RUNS_AGAIN, |_, world: &World| world.elsewhere == Elsewhere::Running { attempt: 2 } && world.seen.starts == 1),
        Property::sometimes(REPLACED, |_, world: &World| {
            matches!(world.ledger.fate, Fate::Given { to: Place::Worker(_), epoch: 2, .. }) && world.worker.alive
        }),
        Property::sometimes(SUPERSEDED, |_, world: &World| world.ledger.fate == Fate::Superseded),
        Property::sometimes(CLOSED, |_, world: &World| world.ledger.fate == Fate::Closed && world.worker.spool == Spool::Deleted),
        Property::sometimes(UNREACHABLE, |protocol: &Protocol, world: &World| {
            world.now == protocol.scope.end && Protocol::is_unreachable(world)
        }),
    ]
}
