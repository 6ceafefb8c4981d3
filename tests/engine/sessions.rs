//! Sessions are opened one after the other: an order to open that was overtaken is refused (PROTOCOL C1). And what a session is asked for.

use std::collections::BTreeMap;

use chrono_flow::engine::staging::Staging;
use chrono_flow::ledger::{Command, Heir, OpenRun, Reply};
use chrono_flow::model::{Epoch, JobSpec, OnWorkerLost, RunId, SessionId, UnixMs, WorkerId};
use uuid::Uuid;

use super::world::{DAY, Habit, World};

/// What a worker may say of the runs that it was given, and of its journal.
type Claims = (Vec<(RunId, Epoch)>, bool);

/// How much earlier than by the ledger's time a run may have been started.
const SKEW_MS: i64 = 1_500;

fn open(world: &mut World, previous: Option<SessionId>, (held, is_whole): Claims) -> Reply {
    let command = Command::OpenSession {
        at: world.now,
        worker: WorkerId("w".into()),
        data_dir: Uuid::from_u128(1),
        address: String::new(),
        labels: BTreeMap::new(),
        slots: 4,
        not_started: Vec::new(),
        held,
        unstarted_after: if is_whole { UnixMs::MIN } else { world.now + SKEW_MS },
        previous,
    };
    world.apply(vec![command]).remove(0)
}

/// A session of "w", and a run that it was given.
fn with_a_run() -> (World, SessionId, OpenRun) {
    with_a_run_at(3_000)
}

fn with_a_run_at(ms: i64) -> (World, SessionId, OpenRun) {
    let mut world = World::new(DAY);
    world.worker_up("w", BTreeMap::new());
    let mut spec = JobSpec::new("a", "*/2 * * * * *", "c");
    spec.on_worker_lost = OnWorkerLost::Retry;
    spec.retry.max_attempts = 3;
    world.create(spec, Habit { lasts_ms: 60_000, succeeds: true });
    world.run_to(DAY + ms);
    let run = OpenRun::clone(world.ledger.open_runs().next().expect("a run is open"));
    let session = run.assigned.expect("the worker has it").session;
    (world, session, run)
}

#[test]
fn an_order_to_open_that_was_overtaken_changes_nothing() {
    for is_whole in [true, false] {
        let (mut world, first, run) = with_a_run();
        let Reply::Session(second) = open(&mut world, Some(first), (vec![(run.id, run.epoch)], true)) else {
            panic!("the session is not opened");
        };
        let before = world.ledger.clone();
        for previous in [None, Some(first)] {
            assert_eq!(open(&mut world, previous, (Vec::new(), is_whole)), Reply::Refused);
        }
        assert!(world.ledger.sessions().eq(before.sessions()) && world.ledger.open_runs().eq(before.open_runs()));
        assert_eq!(world.ledger.newest_session(Uuid::from_u128(1)), Some(second));
    }
}

#[test]
fn who_knows_the_newest_session_opens_the_next_though_that_one_is_over() {
    let (mut world, first, run) = with_a_run();
    world.apply(vec![Command::EndSession { at: world.now, session: first, unstarted_after: world.now }]);
    assert_eq!(open(&mut world, None, (Vec::new(), true)), Reply::Refused, "the run that it had is told of by who followed it");
    let held = vec![(run.id, run.epoch)];
    let Reply::Session(second) = open(&mut world, Some(first), (held.clone(), true)) else { panic!("the session is not opened") };
    assert_eq!(world.ledger.open_run(run.id).and_then(|run| run.assigned).map(|assigned| assigned.session), Some(second));
    // The answer was lost: it is followed as any other.
    assert!(matches!(open(&mut world, Some(second), (held, true)), Reply::Session(_)));
}

#[test]
fn what_a_lost_journal_does_not_tell_of_is_lost_if_any_clock_may_have_started_it_and_repeated_at_its_instant() {
    for (at_ms, is_lost) in [(400, false), (1_000, true)] {
        let (mut world, first, run) = with_a_run_at(at_ms);
        assert_eq!(run.start_at, DAY + 2_000);
        assert!(matches!(open(&mut world, Some(first), (Vec::new(), false)), Reply::Session(_)));
        let open_run = world.ledger.open_runs().next().expect("its instant has not come");
        assert_eq!(open_run.id != run.id, is_lost, "{at_ms} ms");
        assert_eq!(open_run.retry_of, is_lost.then_some(run.id));
        assert_eq!(open_run.start_at, run.scheduled_at, "not as soon as it is lost");
    }
}

#[test]
fn what_was_asked_back_and_neither_came_nor_started_is_asked_back_again() {
    let (_, session, run) = with_a_run();
    let mut staging = Staging::default();
    staging.look_at(run.id, Some(&run));
    assert_eq!(staging.take_orders(session).stage, [run.id]);
    staging.look_at(run.id, Some(&OpenRun { heir: Some(Heir::Nobody), ..run.clone() }));
    let asked_back = vec![(run.id, run.epoch)];
    assert_eq!(staging.take_orders(session).revoke, asked_back);
    assert!(staging.take_orders(session).is_empty(), "once is enough");
    staging.ask_again(|_| false);
    assert_eq!(staging.take_orders(session).revoke, asked_back);
    staging.ask_again(|id| id == run.id);
    assert!(staging.take_orders(session).is_empty(), "it runs");
}
