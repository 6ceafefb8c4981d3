//! Commands on their way into the ledger: what callers hand in, and how it becomes one entry.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};

use crate::engine::api::EngineError;
use crate::ledger::{Command, Reply};

/// Callers that wait for a place in the queue's channel, at most; more are told `Busy`.
pub const PROPOSALS_WAITING_MAX: usize = 4_096;
/// Commands in one entry, beyond what the core adds.
const COMMANDS_PER_ENTRY_MAX: usize = 2_000;
/// Bytes of jobs and outcomes in one entry, roughly, at most.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;

pub type Answer = Result<Applied, EngineError>;

/// What came of a caller's commands.
#[derive(Debug)]
pub struct Applied {
    pub index: u64,
    pub term: u64,
    pub replies: Vec<Reply>,
}

/// Commands of one caller; they go into one entry together.
pub struct Request {
    pub commands: Vec<Command>,
    pub answer: oneshot::Sender<Answer>,
}

/// Where callers hand in.
#[derive(Clone)]
pub struct Proposer(pub mpsc::Sender<Request>);

impl Proposer {
    /// Has commands applied. An error `NoLeader` may mean that they were applied all the same; every command can be repeated.
    pub async fn propose(&self, commands: Vec<Command>) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Request { commands, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => EngineError::Busy(format!("{PROPOSALS_WAITING_MAX} requests wait already")),
            mpsc::error::TrySendError::Closed(_) => EngineError::NoLeader("this node is stopping".into()),
        })?;
        answered.await.unwrap_or_else(|_| Err(EngineError::NoLeader("this node is stopping".into())))
    }
}

/// Requests that wait for the next entry. Changes of jobs wait apart, so that others do not hold them up.
#[derive(Default)]
pub struct Queue {
    feed: VecDeque<Request>,
    others: VecDeque<Request>,
}

/// An entry in the making.
#[derive(Default)]
pub struct Batch {
    pub commands: Vec<Command>,
    /// Who gets how many of the replies, in order.
    pub callers: Vec<(usize, oneshot::Sender<Answer>)>,
    pub bytes: usize,
}

impl Queue {
    pub fn push(&mut self, request: Request) {
        let is_feed = request.commands.iter().any(|command| matches!(command, Command::PutJob(_) | Command::DropJob { .. }));
        if is_feed { self.feed.push_back(request) } else { self.others.push_back(request) }
    }

    /// Requests that wait here.
    pub fn len(&self) -> usize {
        self.feed.len() + self.others.len()
    }

    /// Fills an entry, changes of jobs first.
    pub fn take(&mut self) -> Batch {
        let mut batch = Batch::default();
        batch.fill(&mut self.feed);
        batch.fill(&mut self.others);
        batch
    }

    /// Nobody here can do it.
    pub fn refuse_all(&mut self, error: &EngineError) {
        for request in self.feed.drain(..).chain(self.others.drain(..)) {
            let _ = request.answer.send(Err(error.clone()));
        }
    }
}

impl Batch {
    fn fill(&mut self, from: &mut VecDeque<Request>) {
        // A session is named by its entry's index: one a batch.
        let opens = |commands: &[Command]| commands.iter().any(|command| matches!(command, Command::OpenSession { .. }));
        while let Some(request) = from.front() {
            let bytes: usize = request.commands.iter().map(weight).sum();
            let is_full = self.commands.len() + request.commands.len() > COMMANDS_PER_ENTRY_MAX || self.bytes + bytes > ENTRY_BYTES_MAX;
            if !self.commands.is_empty() && (is_full || (opens(&request.commands) && opens(&self.commands))) {
                return;
            }
            let Some(request) = from.pop_front() else { return };
            self.bytes += bytes;
            self.callers.push((request.commands.len(), request.answer));
            self.commands.extend(request.commands);
        }
    }

    /// Hands each caller its replies.
    pub fn answer(callers: Vec<(usize, oneshot::Sender<Answer>)>, index: u64, term: u64, replies: Vec<Reply>) {
        let mut replies = replies.into_iter();
        for (count, caller) in callers {
            let _ = caller.send(Ok(Applied { index, term, replies: replies.by_ref().take(count).collect() }));
        }
    }

    pub fn refuse(callers: Vec<(usize, oneshot::Sender<Answer>)>, error: &EngineError) {
        for (_, caller) in callers {
            let _ = caller.send(Err(error.clone()));
        }
    }
}

/// How many of these commands, from the first on, one entry takes; one at least, if there are any.
pub fn fitting(commands: &[Command]) -> usize {
    let mut bytes = 0;
    let beyond = commands.iter().position(|command| {
        bytes += weight(command);
        bytes > ENTRY_BYTES_MAX
    });
    beyond.map_or(commands.len(), |place| place.max(1)).min(COMMANDS_PER_ENTRY_MAX)
}

/// Roughly how many bytes a command adds to an entry.
fn weight(command: &Command) -> usize {
    match command {
        Command::PutJob(job) => {
            let env: usize = job.spec.env.iter().map(|(name, value)| name.len() + value.len()).sum();
            300 + job.spec.command.len() + env
        }
        Command::Close { runs, .. } => 200 * runs.len(),
        Command::OpenSession { not_started, held, .. } => 300 + 24 * (not_started.len() + held.len()),
        _ => 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::encode_entry;
    use crate::model::{Job, JobId, JobSpec, UnixMs};

    #[test]
    fn changes_of_large_jobs_are_cut_to_what_an_entry_takes() {
        let job = |n: i64| {
            let mut spec = JobSpec::new("large", "* * * * *", &"x".repeat(256 * 1024));
            spec.env.insert("LARGE".into(), "y".repeat(60 * 1024));
            let at = UnixMs(0);
            Command::PutJob(Box::new(Job {
                id: JobId(n),
                revision: 1,
                change_seq: 1,
                created_at: at,
                updated_at: at,
                effective_from: at,
                spec,
            }))
        };
        let commands: Vec<Command> = (0..500).map(job).collect();
        let count = fitting(&commands);
        assert!(count >= 1 && encode_entry(&commands[..count]).len() <= 2 * ENTRY_BYTES_MAX, "{count} jobs");
        assert_eq!((fitting(&[]), fitting(&commands[..1])), (0, 1));
    }
}
