//! The launch protocol as a model small enough to read, and to look at whole.
//!
//! One fire of one job: two leaders (the second may be elected at any moment), a ledger, one worker modelled whole (agent, guardian,
//! journal, spool), and a second worker that never fails, to which the run may be moved. `leader.rs` and `worker.rs` say what each may do;
//! `world.rs` what there is; `properties.rs` what is promised; `rules.rs` which rules may be taken out, by their names in the protocol.
//!
//! What can go wrong, in any order and at any moment within a scope's bounds: messages come late, twice, out of order or never, those that
//! open a session too (`Open`, `Opened`); a leader is deposed without knowing it; a leader or the agent is paused between any two steps;
//! the agent's process dies and comes back, or stays away; the worker's clock is off by `MARGIN`, and its rate changes; the job is edited.
//! Each check visits every state that can be reached so. Where all promises hold (`*_holds`), it also shows that launches, moves and so on
//! are possible at all. Then each rule is taken out alone (`without_*`), and the promise that it keeps must break; `--no-capture` prints
//! the shortest way there, step by step.
//!
//! What the model leaves out: Raft itself (here a register to which only the leader of the highest term can write; `tests/consensus` and
//! the simulation have the real one), more than one fire and overlap, a second worker that fails, a second attempt on the worker itself,
//! `lost_after_s`, a guardian that is stopped (beyond the promises), reboots (E1's boot id), rival data directories (C1), the grant that
//! comes with a new session (here the next heartbeat's), C6, clocks of leaders (H) and history (F).
//!
//! One rule turns out to be belt and braces here: without the term check (C2) a stale order is obeyed, which is promised not to happen; but
//! nothing else breaks, as sessions, epochs, tombstones and the quorum behind each grant leave a stale leader nothing to say that would be
//! wrong. `nothing_but_the_terms_depends_on_the_term_check` shows it.

mod faults;
mod leader;
mod properties;
mod protocol;
mod rules;
mod worker;
mod world;

use std::time::Instant;

use properties::*;
use protocol::{Protocol, Step};
use rules::{Rules, Scope};
use stateright::{Checker, HasDiscoveries, Model};

/// Deciding, staging and moving, around a change of leader. The instant lies so far ahead that a silent worker's permit ends before it.
const LAUNCH: Scope = Scope {
    start: 4,
    end: 6,
    election: true,
    proposals: 2,
    grants: 2,
    skew: true,
    examples: &[RUNS_HERE, RUNS_HERE_LATE, RUNS_ELSEWHERE],
    ..Scope::QUIET
};

/// An edit asks for the run back, and may give it out again.
const EDIT: Scope =
    Scope { election: true, edit: true, grants: 1, skew: true, epochs: 2, examples: &[RUNS_HERE, REPLACED, SUPERSEDED], ..Scope::QUIET };

/// The worker's process dies and comes back, and may register anew without that.
const RESTART: Scope =
    Scope { election: true, crashes: 1, grants: 1, epochs: 2, sessions: 2, examples: &[RUNS_HERE, RUNS_ELSEWHERE, CLOSED], ..Scope::QUIET };

/// A job with `on_worker_lost: retry`: the first attempt's worker falls silent.
const RETRY: Scope =
    Scope { retry: true, end: 7, election: true, grants: 1, skew: true, examples: &[RUNS_HERE, RUNS_AGAIN], ..Scope::QUIET };

/// The same, and its process dies.
const RETRY_RESTART: Scope =
    Scope { retry: true, end: 7, crashes: 1, grants: 1, epochs: 2, sessions: 2, examples: &[RUNS_HERE, RUNS_AGAIN], ..Scope::QUIET };

/// Requests to open a session come late, twice or never, and so do the answers; the process that asked may die.
const REOPEN: Scope =
    Scope { crashes: 1, grants: 1, epochs: 2, sessions: 3, examples: &[RUNS_HERE, RUNS_HERE_THIRD, RUNS_ELSEWHERE], ..Scope::QUIET };

// What single rules are missed in, as small as that can be.
const MOVE: Scope = Scope { election: false, proposals: 1, skew: false, ..LAUNCH };
const TAKEOVER: Scope = Scope { election: true, ..MOVE };
const RETURN: Scope = Scope { election: false, ..RESTART };

/// Anything of that, and then no more faults.
const HEAL: Scope = Scope {
    start: 1,
    end: 10,
    election: true,
    edit: true,
    crashes: 1,
    epochs: 2,
    sessions: 2,
    calm_by: Some(2),
    examples: &[RUNS_HERE, RUNS_ELSEWHERE, SUPERSEDED, CLOSED, UNREACHABLE],
    ..Scope::QUIET
};
const HEAL_RETRY: Scope = Scope { retry: true, edit: false, examples: &[RUNS_HERE, RUNS_AGAIN, CLOSED], ..HEAL };

/// Looks at everything within the scope: the promises hold, and the examples are possible. So many states at least, lest it shrinks unseen.
fn holds(scope: &Scope, states_min: usize) {
    holds_but(Rules::ALL, scope, states_min, &[]);
}

fn holds_but(rules: Rules, scope: &Scope, states_min: usize, broken: &[&str]) {
    let begun = Instant::now();
    let checker = Protocol { rules, scope: scope.clone() }.checker().spawn_bfs().join();
    eprintln!("{} states in {:?}, up to {} steps deep", checker.unique_state_count(), begun.elapsed(), checker.max_depth());
    for promise in properties::promises() {
        if let Some(path) = checker.discovery(promise.name).filter(|_| !broken.contains(&promise.name)) {
            panic!("broken: {}\n{}", promise.name, story(path.into_actions()));
        }
    }
    for example in scope.examples {
        assert!(checker.discovery(example).is_some(), "never: {example}");
    }
    assert!(checker.unique_state_count() >= states_min, "only {} states", checker.unique_state_count());
}

/// Without one rule, this promise is broken.
fn breaks(promise: &'static str, scope: &Scope, without: fn(&mut Rules)) {
    let begun = Instant::now();
    let mut rules = Rules::ALL;
    without(&mut rules);
    let model = Protocol { rules, scope: scope.clone() };
    let checker = model.checker().finish_when(HasDiscoveries::AnyOf([promise].into())).spawn_bfs().join();
    eprintln!("{} states in {:?}", checker.unique_state_count(), begun.elapsed());
    let counterexample = checker.discovery(promise).unwrap_or_else(|| panic!("holds without the rule: {promise}"));
    eprintln!("broken: {promise}\n{}", story(counterexample.into_actions()));
}

fn story(steps: Vec<Step>) -> String {
    steps.iter().map(|step| format!("  {step:?}\n")).collect()
}

#[test]
fn launch_holds() {
    holds(&LAUNCH, 200_000);
}

#[test]
fn edit_holds() {
    holds(&EDIT, 150_000);
}

#[test]
fn restart_holds() {
    holds(&RESTART, 150_000);
}

#[test]
fn reopen_holds() {
    holds(&REOPEN, 90_000);
}

#[test]
fn retry_holds() {
    holds(&RETRY, 100_000);
}

#[test]
fn retry_restart_holds() {
    holds(&RETRY_RESTART, 70_000);
}

#[test]
fn heal_holds() {
    holds(&HEAL, 350_000);
}

#[test]
fn heal_retry_holds() {
    holds(&HEAL_RETRY, 90_000);
}

#[test]
fn nothing_but_the_terms_depends_on_the_term_check() {
    for scope in [LAUNCH, EDIT] {
        holds_but(Rules { term_check: false, ..Rules::ALL }, &scope, 100_000, &[LOWER_TERM]);
    }
}

#[test]
fn without_compare_and_set() {
    breaks(STARTS_ONCE, &Scope { proposals: 2, ..MOVE }, |rules| rules.compare_and_set = false);
}

#[test]
fn without_stage_after_commit() {
    breaks(STARTS_ONCE, &TAKEOVER, |rules| rules.stage_after_commit = false);
}

#[test]
fn without_sessions() {
    breaks(STARTS_ONCE, &RETURN, |rules| rules.sessions = false);
}

#[test]
fn without_drop_unstarted() {
    breaks(STARTS_ONCE, &RETURN, |rules| rules.drop_unstarted = false);
}

#[test]
fn without_open_compare_and_set() {
    breaks(STARTS_ONCE, &Scope { crashes: 0, ..REOPEN }, |rules| rules.open_compare_and_set = false);
}

#[test]
fn without_newest_is_told() {
    breaks(SETTLED, &Scope { election: false, edit: false, crashes: 0, ..HEAL }, |rules| rules.newest_is_told = false);
}

#[test]
fn without_no_grant_after_end() {
    breaks(STARTS_ONCE, &MOVE, |rules| rules.no_grant_after_end = false);
}

#[test]
fn without_term_check() {
    breaks(LOWER_TERM, &TAKEOVER, |rules| rules.term_check = false);
}

#[test]
fn without_epochs() {
    breaks(STARTS_ONCE, &Scope { election: false, skew: false, ..EDIT }, |rules| rules.epochs = false);
}

#[test]
fn without_grant_after_quorum() {
    breaks(STARTS_ONCE, &TAKEOVER, |rules| rules.grant_after_quorum = false);
}

#[test]
fn without_lease_from_sending() {
    breaks(STARTS_ONCE, &MOVE, |rules| rules.lease_from_sending = false);
}

#[test]
fn without_new_leader_waits() {
    breaks(STARTS_ONCE, &TAKEOVER, |rules| rules.new_leader_waits = false);
}

#[test]
fn without_start_permit() {
    breaks(STARTS_ONCE, &MOVE, |rules| rules.start_permit = false);
}

#[test]
fn without_lease_kills() {
    breaks(ONE_ALIVE, &RETRY, |rules| rules.lease_kills = false);
}

#[test]
fn without_lease_outlives_session() {
    breaks(ONE_ALIVE, &RETRY_RESTART, |rules| rules.lease_outlives_session = false);
}

#[test]
fn without_margin() {
    breaks(STARTS_ONCE, &Scope { grants: 1, skew: true, ..MOVE }, |rules| rules.margin = false);
}

#[test]
fn without_proof_before_move() {
    breaks(STARTS_ONCE, &MOVE, |rules| rules.proof_before_move = false);
}

#[test]
fn without_wait_before_attempt() {
    breaks(ONE_ALIVE, &RETRY, |rules| rules.wait_before_attempt = false);
}

#[test]
fn without_tombstone() {
    breaks(NOT_AFTER_REVOKE, &EDIT, |rules| rules.tombstone = false);
}

#[test]
fn without_journal_before_spawn() {
    breaks(STARTS_ONCE, &RETURN, |rules| rules.journal_before_spawn = false);
}

#[test]
fn without_fresh_stage_after_restart() {
    breaks(STARTS_ONCE, &RETURN, |rules| rules.fresh_stage_after_restart = false);
}

#[test]
fn without_kill_after_restart() {
    breaks(ONE_ALIVE, &RETRY_RESTART, |rules| rules.kill_after_restart = false);
}

#[test]
fn without_report_maybe_started() {
    breaks(SETTLED, &Scope { election: false, edit: false, ..HEAL }, |rules| rules.report_maybe_started = false);
}

#[test]
fn without_check_with_spawn() {
    breaks(ONE_ALIVE, &RETRY, |rules| rules.check_with_spawn = false);
}

#[test]
fn without_started_stays_known() {
    breaks(STARTS_ONCE, &RETURN, |rules| rules.started_stays_known = false);
}

#[test]
fn without_ack_after_close() {
    breaks(NO_OUTCOME_LOST, &Scope { election: true, ..RETURN }, |rules| rules.ack_after_close = false);
}
