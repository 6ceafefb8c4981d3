//! Snapshots of the ledger: whatever reads as one can be lived in.

use chrono_flow::ledger::{Closing, Command, Decide, Ledger, Then, WaitingFate};
use chrono_flow::model::{Outcome, Reason, RunState, UnixMs};

use super::ledger_entry::{read_all, survives_a_snapshot};

const AT: UnixMs = UnixMs(1_790_000_000_000);

/// Reads a snapshot, and lets everything that is in it come to its end.
pub fn run(bytes: &[u8]) {
    let Ok(mut ledger) = Ledger::decode(bytes) else { return };
    read_all(&ledger);
    survives_a_snapshot(&ledger);
    let mut effects = Vec::new();
    for commands in [ends(&ledger, RunState::Failed), ends(&ledger, RunState::Lost), rest(&ledger)] {
        ledger.apply(ledger.applied().saturating_add(1), commands, &mut effects);
    }
    read_all(&ledger);
    survives_a_snapshot(&ledger);
}

fn ends(ledger: &Ledger, state: RunState) -> Vec<Command> {
    let outcome = Outcome::unstarted(state, None, AT);
    let closing = |epoch: u64, run| Closing { run, epoch, outcome: outcome.clone() };
    let runs: Vec<Closing> = ledger.open_runs().map(|run| closing(run.epoch, run.id)).collect();
    let again: Vec<Closing> = ledger.unrecorded().map(|(_, run)| closing(1, run.id)).collect();
    vec![Command::Close { at: AT, runs }, Command::Close { at: AT, runs: again }]
}

fn rest(ledger: &Ledger) -> Vec<Command> {
    let mut commands = Vec::new();
    let moved = ledger.open_runs().map(|run| (run.id, run.epoch, Then::Requeue)).collect();
    commands.push(Command::Unstarted { at: AT, runs: moved });
    let fates = ledger.waiting().map(|fire| (fire.job.id, fire.scheduled_at, fire.id, WaitingFate::Launch { session: None })).collect();
    commands.push(Command::Resolve { at: AT, fires: fates });
    for session in ledger.sessions() {
        commands.push(Command::Assign { runs: ledger.open_runs().map(|run| (run.id, session.id)).collect() });
        commands.push(Command::EndSession { at: AT, session: session.id, unstarted_after: AT });
    }
    let settled = ledger.owed().map(|owed| (owed.job.id, owed.job.revision, owed.to)).collect();
    let (from, feed, after) = (ledger.watermark(), ledger.feed(), ledger.last_decision());
    commands.push(Command::Decide(Decide { at: AT, from, to: from.max(AT), feed, settled, after, ..Decide::default() }));
    for (number, job) in (1..).zip(ledger.jobs()) {
        let change_seq = feed.saturating_add(number);
        commands.push(Command::DropJob { id: job.id, revision: job.revision, effective_from: AT, change_seq });
    }
    commands.extend(ledger.open_runs().map(|run| Command::Cancel { at: AT, run: run.id, reason: Reason::Requested }));
    commands.push(Command::Recorded { up_to: u64::MAX });
    commands.push(Command::ForgetSessions { sessions: ledger.ended_sessions().map(|session| session.id).collect() });
    commands
}
