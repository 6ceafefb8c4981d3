//! Orders of a leader that makes no sense: whatever reads as calls to a worker is done to the table of its runs, and time goes on.

use chrono_flow::agent::runs::{Action, Captured, Exit, Limits, Now, Runs, SpawnFailure};
use chrono_flow::model::{ClusterId, SessionId, UnixMs};
use chrono_flow::rpc::wire::{Order, WorkerRequest};

use super::rpc_frames::CLUSTER;

/// The orders are given for this session, in this term.
pub const SESSION: SessionId = SessionId(4);
pub const TERM: u64 = 3;
const WALL_US: i64 = 1_790_000_000_000_000;
/// However much was ordered, so many steps of time are enough.
const STEPS_MAX: usize = 64;

/// Calls one after the other, as postcard writes them, as far as they can be read.
pub fn run(bytes: &[u8]) {
    let mut now = Now { boot_us: 1_000_000, wall_us: WALL_US };
    let mut runs = Runs::new(Limits { slots: 2, held_max: 100 }, Some(CLUSTER), None);
    runs.opened(CLUSTER, SESSION, TERM);
    runs.granted(now, SESSION, TERM, i64::MAX, i64::MAX, 0);
    let mut rest = bytes;
    while let Ok((call, more)) = postcard::take_from_bytes::<WorkerRequest>(rest) {
        rest = more;
        obey(&mut runs, now, call);
        settle(&mut runs, now);
    }
    for _ in 0..STEPS_MAX {
        let Some(deadline_us) = runs.next_deadline_us(now).filter(|deadline_us| *deadline_us < i64::MAX) else { break };
        assert!(deadline_us > now.boot_us, "a deadline that has passed would keep the worker busy for nothing");
        now = Now { boot_us: deadline_us, wall_us: now.wall_us.saturating_add(deadline_us - now.boot_us) };
        settle(&mut runs, now);
    }
    let _ = (runs.list(), runs.claims(None), runs.counts());
    runs.lapse(now);
    let _ = (runs.claims(None), runs.head_records());
}

/// Does what is due until nothing is.
fn settle(runs: &mut Runs, now: Now) {
    loop {
        runs.tick(now);
        let actions = runs.take_actions();
        if actions.is_empty() {
            return;
        }
        carry_out(runs, now, actions);
    }
}

fn obey(runs: &mut Runs, now: Now, call: WorkerRequest) {
    match call {
        WorkerRequest::Stage { order } => {
            if check(runs, order.cluster, order.term, order.session) {
                let count = order.body.len();
                assert_eq!(runs.stage(now, order.body).len(), count, "each run has its answer");
            }
        }
        WorkerRequest::Revoke { order } => {
            if check(runs, order.cluster, order.term, order.session) {
                assert_eq!(runs.revoke(now, &order.body).len(), order.body.len());
            }
        }
        WorkerRequest::Cancel { order } => {
            if check(runs, order.cluster, order.term, order.session) {
                runs.cancel(now, &order.body);
            }
        }
        WorkerRequest::List { order } => {
            if check(runs, order.cluster, order.term, order.session) {
                let _ = runs.list();
            }
        }
        WorkerRequest::ReadOutput { request } => {
            let _ = runs.output_place(request.run);
        }
        WorkerRequest::Health {} => {}
    }
}

/// Mostly nonsense would be refused here; so it passes for what it should be.
fn check(runs: &mut Runs, cluster: ClusterId, term: u64, session: SessionId) -> bool {
    let _ = runs.check(&Order { cluster, term, session, body: () }, 1);
    runs.check(&Order { cluster: CLUSTER, term: u64::MAX, session: SESSION, body: () }, 1).is_ok()
}

/// A guardian that starts every second run, each of which ends at once.
fn carry_out(runs: &mut Runs, now: Now, actions: Vec<Action>) {
    for action in actions {
        match action {
            Action::Journal(record) => {
                let bytes = postcard::to_stdvec(&record).expect("a record is plain data");
                assert!(bytes.len() <= 256 * 1024, "the journal can't take a record of {} bytes", bytes.len());
            }
            Action::Spawn { token, launch, .. } => {
                assert!(launch.task.max_output_bytes <= 64 * 1024 * 1024);
                if token % 2 == 0 {
                    runs.spawn_failed(now, token, SpawnFailure::Failed("no".into()));
                    continue;
                }
                runs.spawned(now, token, 100, 1, UnixMs(0));
                runs.exited(now, token, Exit::Code(0), UnixMs(0));
                runs.group_gone(now, token);
                runs.captured(token, Captured::default());
            }
            Action::ReportEnded(ended) => runs.acknowledged(now, ended.run, 1),
            _ => {}
        }
    }
}
