//! The table under a clock of the test's making: what it is told, what it asks for.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::*;
use crate::model::{JobId, Reason};
use crate::rpc::wire::{Cancel, Order, Refusal, RunRef, Stage, StageResult, Task};

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));
const SESSION: SessionId = SessionId(40);
const SECOND: i64 = 1_000_000;
/// The wall clock's reading at BOOTTIME 0 of these tests.
const WALL_US: i64 = 1_790_000_000 * SECOND;

fn run(n: u128) -> RunId {
    RunId(Uuid::from_u128(n))
}

fn at(boot_us: i64) -> Now {
    Now { boot_us, wall_us: WALL_US + boot_us }
}

fn stage(n: u128, epoch: Epoch, in_ms: i64) -> Stage {
    Stage {
        run: run(n),
        epoch,
        job: JobId(1),
        job_name: "job".into(),
        attempt: 1,
        scheduled_at: UnixMs((WALL_US / 1000) + in_ms),
        start_at: UnixMs((WALL_US / 1000) + in_ms),
        in_ms,
        max_skew_ms: 500,
        not_after_in_ms: None,
        task: Task {
            command: "true".into(),
            env: BTreeMap::new(),
            working_dir: None,
            timeout_ms: None,
            kill_grace_ms: 10_000,
            max_output_bytes: 100,
            ends_with_lease: false,
        },
    }
}

/// A table with a session whose permit holds until 5 s and whose lease holds until 15 s.
fn table(slots: u32) -> Runs {
    let mut runs = Runs::new(Limits { slots, held_max: 1000 }, None, None);
    runs.opened(CLUSTER, SESSION, 3);
    runs.granted(at(0), SESSION, 3, 5 * SECOND, 15 * SECOND, 0);
    runs.take_actions();
    runs
}

fn order<T>(body: T) -> Order<T> {
    Order { cluster: CLUSTER, term: 3, session: SESSION, body }
}

/// The actions since the last call, in short.
fn transcript(runs: &mut Runs) -> String {
    let n = |run: &RunId| run.0.as_u128();
    let actions = runs.take_actions();
    let lines = actions.iter().map(|action| match action {
        Action::Journal(record) => match record {
            Record::Session { session, .. } => format!("journal session {session}"),
            Record::Accepted { run, epoch, .. } => format!("journal accepted {}/{epoch}", n(run)),
            Record::Starting { run } => format!("journal starting {}", n(run)),
            Record::Started { run, .. } => format!("journal started {}", n(run)),
            Record::NotStarted { run } => format!("journal not-started {}", n(run)),
            Record::Ended(ended) => format!("journal ended {}", n(&ended.run)),
            Record::Revoked { run, epoch } => format!("journal revoked {}/{epoch}", n(run)),
            Record::Acknowledged { run, closed_at } => format!("journal acknowledged {} at {closed_at}", n(run)),
            Record::RecordedUpTo { index } => format!("journal recorded {index}"),
            Record::NotWhole => "journal not whole".into(),
        },
        Action::Spawn { token, launch, .. } => format!("spawn {} as #{token}", n(&launch.run)),
        Action::Stop { token, grace_ms, why } => format!("stop #{token} grace {grace_ms} {why:?}"),
        Action::DiscardOutput { token } => format!("discard #{token}"),
        Action::CloseOutput { token } => format!("close #{token}"),
        Action::ReportStarted { run, .. } => format!("report started {}", n(run)),
        Action::ReportEnded(ended) => {
            let reason = ended.outcome.reason.map_or(String::new(), |reason| format!(" {}", reason.name()));
            format!("report {} {}{reason}", n(&ended.run), ended.outcome.state.name())
        }
        Action::ReportAgain(ended) => format!("report again {}", n(&ended.run)),
        Action::Forget(ended) => format!("forget {}", n(&ended.run)),
        Action::SetLease { permit_end_us, lease_end_us } => format!("lease {} {}", permit_end_us / SECOND, lease_end_us / SECOND),
        Action::SessionOver => "session over".into(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn accept(runs: &mut Runs, now: Now, stages: Vec<Stage>) {
    for ack in runs.stage(now, stages) {
        assert_eq!(ack.result, StageResult::Accepted);
    }
    runs.take_actions();
}

fn captured() -> Captured {
    let part = OutputPart { offset: 0, stream: crate::model::Stream::Stdout, bytes: b"out".to_vec() };
    Captured { bytes: 3, inline: Some(vec![part]), ..Captured::default() }
}

/// Tells the table that run #token was started and has ended with `exit`.
fn live_and_die(runs: &mut Runs, now: Now, token: Token, exit: Exit) {
    runs.spawned(now, token, 100, 1, now.wall());
    runs.exited(now, token, exit, now.wall());
    runs.captured(token, captured());
    runs.group_gone(now, token);
}

#[test]
fn a_run_starts_at_its_instant_with_its_start_in_the_journal_first_and_is_held_until_it_is_recorded() {
    let mut runs = table(1);
    assert_eq!(runs.stage(at(0), vec![stage(1, 1, 1000)])[0].result, StageResult::Accepted);
    assert_eq!(transcript(&mut runs), "journal accepted 1/1");
    assert_eq!(runs.next_deadline_us(at(0)), Some(SECOND));
    runs.tick(at(SECOND - 1));
    assert_eq!(transcript(&mut runs), "");
    runs.tick(at(SECOND));
    assert_eq!(transcript(&mut runs), "journal starting 1\nspawn 1 as #1");
    live_and_die(&mut runs, at(SECOND + 5), 1, Exit::Code(0));
    assert_eq!(transcript(&mut runs), "journal started 1\nreport started 1\njournal ended 1\nreport 1 succeeded");
    runs.acknowledged(at(SECOND + 9), run(1), 50);
    assert_eq!(transcript(&mut runs), "journal acknowledged 1 at 50");
    assert_eq!(runs.counts(), Counts { held: 1, ..Counts::default() });
    runs.granted(at(2 * SECOND), SESSION, 3, 6 * SECOND, 16 * SECOND, 49);
    assert_eq!(transcript(&mut runs), "lease 6 16");
    runs.granted(at(2 * SECOND), SESSION, 3, 6 * SECOND, 16 * SECOND, 50);
    assert_eq!(transcript(&mut runs), "lease 6 16\njournal recorded 50\nforget 1");
    assert_eq!(runs.stage(at(0), vec![stage(1, 1, 1000)])[0].result, StageResult::Accepted, "a late repetition");
    assert_eq!((transcript(&mut runs).as_str(), runs.counts().held), ("", 0), "starts nothing");
}

#[test]
fn the_start_follows_the_wall_clock_within_the_skew_of_what_the_sender_says() {
    let start_of = |wall_ahead_us: i64| {
        let mut runs = table(1);
        let now = Now { boot_us: 0, wall_us: WALL_US + wall_ahead_us };
        accept(&mut runs, now, vec![stage(1, 1, 1000)]);
        runs.next_deadline_us(now).unwrap()
    };
    assert_eq!(start_of(0), SECOND);
    assert_eq!(start_of(-300), SECOND + 300, "the message took 300 µs less than the clocks say");
    assert_eq!(start_of(200_000), 800_000);
    assert_eq!(start_of(3 * SECOND), 500_000, "no earlier than receipt + in_ms - max_skew, however long the order was on its way");
    assert_eq!(start_of(3_600 * SECOND), SECOND, "no order is on its way for so long: the clock is off");
    assert_eq!(start_of(-3_600 * SECOND), SECOND, "nor does a clock that is behind hold it back");
}

#[test]
fn slots_are_respected_and_freed_in_order_of_instant() {
    let mut runs = table(2);
    accept(&mut runs, at(0), vec![stage(3, 1, 30), stage(1, 1, 10), stage(2, 1, 20), stage(4, 1, 20)]);
    runs.tick(at(SECOND));
    assert_eq!(transcript(&mut runs), "journal starting 1\nspawn 1 as #1\njournal starting 2\nspawn 2 as #2");
    assert!(runs.next_deadline_us(at(SECOND)).unwrap() > SECOND, "nothing to do until a slot is free");
    runs.spawned(at(SECOND), 2, 100, 1, UnixMs(1));
    runs.exited(at(1), 2, Exit::Code(1), UnixMs(2));
    runs.tick(at(SECOND));
    assert!(!transcript(&mut runs).contains("spawn"), "the main process is gone, but not its group");
    runs.group_gone(at(SECOND), 2);
    runs.tick(at(SECOND));
    assert_eq!(transcript(&mut runs), "journal starting 4\nspawn 4 as #3");
}

#[test]
fn nothing_starts_when_the_permit_is_over_until_there_is_a_new_one() {
    let mut runs = table(4);
    accept(&mut runs, at(0), vec![stage(1, 1, 4_999), stage(2, 1, 5_000)]);
    runs.tick(at(5 * SECOND));
    assert_eq!(transcript(&mut runs), "");
    assert_eq!(runs.next_deadline_us(at(5 * SECOND)), Some(15 * SECOND));
    runs.granted(at(6 * SECOND), SESSION, 3, 10 * SECOND, 20 * SECOND, 0);
    runs.tick(at(6 * SECOND));
    let spawned = transcript(&mut runs);
    assert!(spawned.contains("spawn 1 as #1") && spawned.contains("spawn 2 as #2"), "{spawned}");
    runs.granted(at(7 * SECOND), SESSION, 3, 9 * SECOND, 12 * SECOND, 0);
    assert_eq!(transcript(&mut runs), "lease 10 20", "an answer that was overtaken takes nothing back");
}

#[test]
fn a_run_that_may_not_start_any_more_is_skipped_as_missed() {
    let mut runs = table(1);
    let late = Stage { not_after_in_ms: Some(2_000), ..stage(2, 1, 100) };
    accept(&mut runs, at(0), vec![stage(1, 1, 10), late]);
    runs.tick(at(SECOND));
    assert_eq!(transcript(&mut runs), "journal starting 1\nspawn 1 as #1");
    assert_eq!(runs.next_deadline_us(at(SECOND)), Some(2 * SECOND + 1));
    runs.tick(at(2 * SECOND + 1));
    assert_eq!(transcript(&mut runs), "journal ended 2\nreport 2 skipped missed");
}

#[test]
fn orders_that_are_lower_or_other_than_known_are_refused() {
    let mut runs = table(1);
    let other = ClusterId(Uuid::from_u128(8));
    assert_eq!(runs.check(&Order { cluster: other, ..order(()) }, 1), Err(Refusal::OtherCluster { ours: CLUSTER, theirs: other }));
    assert_eq!(runs.check(&Order { term: 2, ..order(()) }, 1), Err(Refusal::OldTerm { seen: 3, given: 2 }));
    let session = SessionId(39);
    assert_eq!(runs.check(&Order { session, ..order(()) }, 1), Err(Refusal::OtherSession { ours: Some(SESSION), given: session }));
    assert_eq!(runs.check(&order(()), 2), Ok(()));
    assert!(runs.check(&order(()), 1).is_err(), "what is left in a connection that was replaced");
    assert_eq!(runs.check(&Order { term: 4, ..order(()) }, 1), Ok(()));
    assert_eq!(runs.check(&order(()), 2), Err(Refusal::OldTerm { seen: 4, given: 3 }));
    runs.granted(at(0), SESSION, 5, 5 * SECOND, 15 * SECOND, 0);
    assert_eq!(runs.check(&Order { term: 5, ..order(()) }, 0), Ok(()), "a new leader has had its connection for long");
    runs.lapse(at(0));
    assert!(matches!(runs.check(&Order { term: 4, ..order(()) }, 1), Err(Refusal::OldTerm { .. })));
    assert!(matches!(runs.check(&Order { term: 5, ..order(()) }, 1), Err(Refusal::OtherSession { ours: None, .. })));
    let session = SessionId(41);
    assert!(matches!(runs.check(&Order { term: 5, session, ..order(()) }, 1), Err(Refusal::Busy { .. })), "one that is being opened");
}

#[test]
fn a_stage_is_answered_by_what_is_known_of_the_run() {
    let mut runs = table(1);
    let answer = |runs: &mut Runs, n, epoch| runs.stage(at(0), vec![stage(n, epoch, 1000)]).remove(0).result;
    accept(&mut runs, at(0), vec![stage(1, 2, 1000)]);
    assert_eq!(answer(&mut runs, 1, 2), StageResult::Accepted);
    assert_eq!(answer(&mut runs, 1, 1), StageResult::Revoked, "an older epoch");
    assert_eq!(transcript(&mut runs), "");
    assert_eq!(answer(&mut runs, 1, 3), StageResult::Accepted, "a newer one takes the place of one that waits");
    assert_eq!((transcript(&mut runs).as_str(), runs.counts().waiting), ("journal accepted 1/3", 1));
    runs.tick(at(SECOND));
    assert_eq!(answer(&mut runs, 1, 3), StageResult::Accepted);
    assert!(matches!(answer(&mut runs, 1, 4), StageResult::Declined(_)), "but not of one that started");
    runs.set_trouble(Some("full".into()));
    assert_eq!(answer(&mut runs, 2, 1), StageResult::Declined("full".into()));
    assert_eq!(runs.counts().waiting, 0);
}

#[test]
fn what_is_revoked_never_starts_and_the_tombstone_comes_before_the_answer() {
    let mut runs = table(1);
    let revoke = |runs: &mut Runs, n, epoch| runs.revoke(at(0), &[RunRef { run: run(n), epoch }])[0].not_started;
    accept(&mut runs, at(0), vec![stage(1, 2, 1000), stage(2, 1, 500)]);
    assert!(revoke(&mut runs, 1, 1), "an older epoch did not start, and the newer one stays");
    assert_eq!(runs.counts().waiting, 2);
    assert!(revoke(&mut runs, 1, 2));
    assert_eq!(transcript(&mut runs), "journal revoked 1/2");
    assert!(revoke(&mut runs, 1, 2), "and again");
    assert_eq!(runs.stage(at(0), vec![stage(1, 2, 1000)])[0].result, StageResult::Revoked);
    assert!(revoke(&mut runs, 9, 5), "one that never arrived");
    assert_eq!(runs.stage(at(0), vec![stage(9, 5, 1000), stage(9, 6, 1000)])[1].result, StageResult::Accepted);
    runs.tick(at(SECOND));
    assert!(transcript(&mut runs).ends_with("spawn 2 as #1"));
    assert!(!revoke(&mut runs, 2, 1), "it may have started");
    live_and_die(&mut runs, at(SECOND), 1, Exit::Code(0));
    assert!(!revoke(&mut runs, 2, 1));
    assert!(runs.stage(at(0), vec![stage(1, 2, 0)])[0].result == StageResult::Revoked);
}

#[test]
fn a_cancel_ends_what_waits_without_a_start_and_stops_what_runs() {
    let mut runs = table(1);
    let cancel = |n, epoch| [Cancel { run: run(n), epoch, reason: Reason::Requested }];
    accept(&mut runs, at(0), vec![stage(1, 1, 0), stage(2, 2, 0), stage(3, 1, 0)]);
    runs.tick(at(0));
    runs.take_actions();
    runs.cancel(at(1), &cancel(2, 1));
    assert_eq!(transcript(&mut runs), "", "an older epoch");
    runs.cancel(at(1), &cancel(2, 2));
    assert_eq!(transcript(&mut runs), "journal ended 2\nreport 2 cancelled requested");
    runs.cancel(at(1), &cancel(1, 1));
    assert_eq!(transcript(&mut runs), "", "it is being started: stopped as soon as it has");
    runs.spawned(at(2), 1, 100, 1, UnixMs(2));
    assert_eq!(transcript(&mut runs), "journal started 1\nreport started 1\nstop #1 grace 10000 Cancelled(Requested)");
    runs.cancel(at(3), &cancel(1, 1));
    assert_eq!(transcript(&mut runs), "", "once is enough");
    live_and_die(&mut runs, at(4), 1, Exit::Signal(15));
    assert!(transcript(&mut runs).ends_with("report 1 cancelled requested"));
    runs.cancel(at(5), &cancel(8, 1));
    assert_eq!(runs.stage(at(6), vec![stage(8, 1, 0)])[0].result, StageResult::Revoked, "a cancel that came before its stage");
}

#[test]
fn a_time_out_counts_from_the_start_and_an_end_before_it_stands() {
    let mut runs = table(2);
    let limited = |n| {
        let mut stage = stage(n, 1, 0);
        stage.task.timeout_ms = Some(1_000);
        stage
    };
    accept(&mut runs, at(0), vec![limited(1), limited(2)]);
    runs.tick(at(0));
    runs.spawned(at(200), 1, 100, 1, UnixMs(0));
    runs.spawned(at(300), 2, 101, 1, UnixMs(0));
    runs.take_actions();
    runs.exited(at(1), 2, Exit::Code(0), UnixMs(900));
    assert_eq!(runs.next_deadline_us(at(900)), Some(200 + SECOND));
    runs.tick(at(200 + SECOND));
    assert_eq!(transcript(&mut runs), "stop #1 grace 10000 TimedOut");
    for token in [1, 2] {
        runs.exited(at(1), token, Exit::Code(0), UnixMs(2_000));
        runs.captured(token, captured());
        runs.group_gone(at(3 * SECOND), token);
    }
    let end = transcript(&mut runs);
    assert!(end.contains("report 1 timed_out") && end.contains("report 2 succeeded"), "{end}");
}

#[test]
fn the_output_is_closed_a_while_after_the_processes_are_gone() {
    let mut runs = table(1);
    accept(&mut runs, at(0), vec![stage(1, 1, 0)]);
    runs.tick(at(0));
    runs.spawned(at(0), 1, 100, 1, UnixMs(0));
    runs.exited(at(1), 1, Exit::Code(0), UnixMs(5));
    runs.group_gone(at(1000), 1);
    runs.take_actions();
    assert_eq!((runs.counts().running, runs.counts().live), (0, 1), "its slot is free, it has not ended");
    assert_eq!(runs.next_deadline_us(at(1000)), Some(1000 + LINGER_US));
    runs.tick(at(1000 + LINGER_US));
    assert_eq!(transcript(&mut runs), "close #1");
    runs.captured(1, captured());
    assert_eq!(transcript(&mut runs), "journal ended 1\nreport 1 succeeded");
}

#[test]
fn a_spawn_that_came_too_late_waits_again_and_one_that_failed_ends_the_run() {
    let mut runs = table(2);
    accept(&mut runs, at(0), vec![stage(1, 1, 0), stage(2, 1, 0)]);
    runs.tick(at(0));
    runs.take_actions();
    runs.spawn_failed(at(1), 1, SpawnFailure::TooLate);
    assert_eq!(transcript(&mut runs), "discard #1\njournal not-started 1");
    assert_eq!(runs.counts(), Counts { running: 1, waiting: 1, live: 1, unreported: 0, held: 2 });
    runs.spawn_failed(at(1), 2, SpawnFailure::Failed("no such directory".into()));
    assert_eq!(transcript(&mut runs), "discard #2\njournal ended 2\nreport 2 failed");
    runs.tick(at(2));
    assert_eq!(transcript(&mut runs), "journal starting 1\nspawn 1 as #3");
    let is_given_back = |runs: &mut Runs| runs.revoke(at(3), &[RunRef { run: run(1), epoch: 1 }])[0].not_started;
    assert!(!is_given_back(&mut runs), "it may start any moment");
    runs.spawn_failed(at(4), 3, SpawnFailure::TooLate);
    assert!(is_given_back(&mut runs), "asked again, when the guardian has refused it");
}

#[test]
fn a_lapsed_lease_drops_what_has_not_started_first_and_the_next_session_adopts_what_runs() {
    let mut runs = table(2);
    accept(&mut runs, at(0), vec![stage(1, 1, 0), stage(2, 1, 0), stage(3, 4, 60_000)]);
    runs.tick(at(0));
    live_and_die(&mut runs, at(1), 2, Exit::Code(0));
    runs.spawned(at(1), 1, 100, 1, UnixMs(1));
    runs.take_actions();
    runs.tick(at(15 * SECOND));
    assert_eq!(transcript(&mut runs), "journal revoked 3/4\nsession over");
    let claims = runs.claims(None);
    let of = |n, epoch| vec![RunRef { run: run(n), epoch }];
    let expected = Claims {
        cluster: Some(CLUSTER),
        previous: Some(SESSION),
        not_started: of(3, 4),
        adopted: of(1, 1),
        to_report: of(2, 1),
        journal_is_whole: true,
    };
    assert_eq!(claims, expected);
    runs.granted(at(16 * SECOND), SESSION, 3, 20 * SECOND, 30 * SECOND, 0);
    assert_eq!(transcript(&mut runs), "", "a grant for the session that is over");
    runs.opened(CLUSTER, SessionId(90), 4);
    runs.granted(at(16 * SECOND), SessionId(90), 4, 20 * SECOND, 30 * SECOND, 0);
    assert_eq!(transcript(&mut runs), "journal session 90\nlease 20 30");
    assert!(runs.claims(None).not_started.is_empty(), "told");
    accept(&mut runs, at(16 * SECOND), vec![stage(3, 5, 0)]);
    runs.exited(at(1), 1, Exit::Signal(9), UnixMs(20));
    runs.captured(1, captured());
    runs.group_gone(at(17 * SECOND), 1);
    assert!(transcript(&mut runs).ends_with("report 1 failed"), "an adopted run is reported in the new session");
}

#[test]
fn a_run_that_may_be_tried_again_elsewhere_ends_with_the_lease_and_is_lost_however_it_was_ended() {
    let bound = |n| {
        let mut stage = stage(n, 1, 0);
        stage.task.ends_with_lease = true;
        stage
    };
    let mut runs = table(3);
    accept(&mut runs, at(0), vec![bound(1), bound(2), stage(3, 1, 0)]);
    runs.tick(at(0));
    for token in 1..=3 {
        runs.spawned(at(0), token, 100, 1, UnixMs(0));
    }
    runs.take_actions();
    // This process was held up, and the guardian, which has a clock of its own, was quicker.
    runs.exited(at(15 * SECOND), 2, Exit::Signal(15), UnixMs(1));
    runs.captured(2, captured());
    runs.group_gone(at(15 * SECOND), 2);
    assert_eq!(transcript(&mut runs), "journal ended 2\nreport 2 lost worker_lost");
    runs.tick(at(15 * SECOND));
    assert_eq!(transcript(&mut runs), "stop #1 grace 10000 LeaseOver\nsession over", "and the third goes on");
    runs.exited(at(15 * SECOND), 1, Exit::Code(0), UnixMs(1));
    runs.captured(1, captured());
    runs.group_gone(at(15 * SECOND), 1);
    assert!(transcript(&mut runs).ends_with("report 1 lost worker_lost"));
}

#[test]
fn a_drain_starts_nothing_and_stops_what_runs_when_its_time_is_over() {
    let mut runs = table(2);
    accept(&mut runs, at(0), vec![stage(1, 1, 0), stage(2, 1, 0), stage(3, 1, 1)]);
    runs.tick(at(0));
    runs.spawned(at(0), 1, 100, 1, UnixMs(0));
    runs.take_actions();
    runs.drain(at(10), 2 * SECOND, 4_000);
    assert!(matches!(runs.stage(at(10), vec![stage(4, 1, 0)])[0].result, StageResult::Declined(_)));
    assert_eq!(runs.stage(at(10), vec![stage(3, 1, 1)])[0].result, StageResult::Accepted, "what is held is held");
    runs.tick(at(SECOND));
    assert_eq!(transcript(&mut runs), "");
    runs.tick(at(2 * SECOND + 10));
    assert_eq!(transcript(&mut runs), "stop #1 grace 4000 Cancelled(Drained)");
    runs.spawned(at(2 * SECOND + 20), 2, 101, 1, UnixMs(0));
    assert!(transcript(&mut runs).ends_with("stop #2 grace 4000 Cancelled(Drained)"), "one that was just starting");
    assert!(runs.revoke(at(2 * SECOND + 30), &[RunRef { run: run(3), epoch: 1 }])[0].not_started);
}

#[test]
fn the_table_is_bounded() {
    let mut runs = Runs::new(Limits { slots: 1, held_max: 2 }, None, None);
    runs.opened(CLUSTER, SESSION, 3);
    runs.granted(at(0), SESSION, 3, 5 * SECOND, 15 * SECOND, 0);
    let acks = runs.stage(at(0), vec![stage(1, 1, 0), stage(2, 1, 0), stage(3, 1, 0), stage(1, 1, 0)]);
    assert!(matches!(acks[2].result, StageResult::Declined(_)));
    assert_eq!(acks[3].result, StageResult::Accepted, "a repetition is no new one");
    assert!(runs.trouble().is_some());
}

#[test]
fn the_journal_can_rebuild_each_phase() {
    let mut runs = table(1);
    accept(&mut runs, at(0), vec![stage(1, 1, 0), stage(2, 1, 0)]);
    let names = |runs: &Runs, n| -> Vec<&str> {
        let name = |record| match record {
            Record::Accepted { .. } => "accepted",
            Record::Starting { .. } => "starting",
            Record::Started { .. } => "started",
            Record::Ended(_) => "ended",
            Record::Acknowledged { .. } => "acknowledged",
            Record::Revoked { .. } => "revoked",
            Record::Session { .. } | Record::NotStarted { .. } | Record::RecordedUpTo { .. } | Record::NotWhole => "other",
        };
        runs.records_of(run(n)).into_iter().map(name).collect()
    };
    assert_eq!(names(&runs, 1), ["accepted"]);
    runs.tick(at(0));
    assert_eq!(names(&runs, 1), ["accepted", "starting"]);
    runs.spawned(at(0), 1, 100, 1, UnixMs(0));
    assert_eq!(names(&runs, 1), ["accepted", "starting", "started"]);
    live_and_die(&mut runs, at(0), 1, Exit::Code(0));
    assert_eq!(names(&runs, 1), ["ended"]);
    runs.acknowledged(at(0), run(1), 9);
    assert_eq!(names(&runs, 1), ["ended", "acknowledged"]);
    runs.revoke(at(0), &[RunRef { run: run(2), epoch: 1 }]);
    assert_eq!(names(&runs, 2), ["revoked"]);
    runs.granted(at(0), SESSION, 3, 0, 0, 9);
    assert!(names(&runs, 1).is_empty());
}

#[test]
fn a_run_without_output_is_held_only_until_its_report_is_acknowledged() {
    let mut runs = table(1);
    accept(&mut runs, at(0), vec![stage(1, 1, 60_000)]);
    runs.cancel(at(0), &[Cancel { run: run(1), epoch: 1, reason: Reason::Requested }]);
    runs.take_actions();
    runs.acknowledged(at(0), run(1), 50);
    assert_eq!(transcript(&mut runs), "journal acknowledged 1 at 0\nforget 1");
    assert_eq!(runs.stage(at(0), vec![stage(1, 1, 0)])[0].result, StageResult::Accepted, "and not started again");
    assert_eq!(runs.counts(), Counts::default());
}

#[test]
fn a_drain_shortens_the_grace_of_what_was_stopped_before() {
    let mut runs = table(2);
    accept(&mut runs, at(0), vec![stage(1, 1, 0), stage(2, 1, 0)]);
    runs.tick(at(0));
    for token in [1, 2] {
        runs.spawned(at(0), token, 100, 1, UnixMs(0));
    }
    runs.cancel(at(0), &[Cancel { run: run(1), epoch: 1, reason: Reason::Requested }]);
    runs.exited(at(1), 2, Exit::Code(0), UnixMs(1));
    runs.drain(at(0), 0, 1_000);
    runs.take_actions();
    runs.tick(at(1));
    let stops = transcript(&mut runs);
    assert!(stops.contains("stop #1 grace 1000") && stops.contains("stop #2 grace 1000"), "{stops}");
    for token in [1, 2] {
        runs.exited(at(1), token, Exit::Signal(9), UnixMs(1));
        runs.captured(token, captured());
        runs.group_gone(at(2), token);
    }
    let end = transcript(&mut runs);
    assert!(end.contains("report 1 cancelled requested") && end.contains("report 2 succeeded"), "{end}");
}
