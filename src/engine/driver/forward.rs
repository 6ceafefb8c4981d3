//! Requests that only the leader can bring into the ledger, from whatever controller they came to. A follower passes them on, and waits
//! until its own ledger has what came of them.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::api::EngineError;
use crate::ledger::{Command, Reply, decode_entry, encode_entry};
use crate::model::NodeId;
use crate::rpc::peer::{MembersWish, Proposed, Pulse};
use crate::rpc::wire::Refusal;

use super::handle::{EngineHandle, Inner};
use super::queue::{Answer, Applied};

/// How long a request waits for a leader to be found, and is repeated, before it is refused.
const LEADER_PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(50);
/// How long the leader may take for commands that are passed on to it, and for a change of the members.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(45);
/// How long this controller's ledger may lag behind the leader's before the answer comes all the same.
const LAG_PATIENCE: Duration = Duration::from_secs(2);
/// Commands that one controller passes on to another in one call, at most.
const FORWARDED_MAX: usize = 100;

impl Inner {
    /// Has commands applied, here or by way of the leader; repeated while a leader is looked for, so they must bear repetition.
    pub async fn propose(&self, commands: Vec<Command>) -> Answer {
        let until = Instant::now() + LEADER_PATIENCE;
        loop {
            match self.propose_once(&commands).await {
                Err(EngineError::NoLeader(_)) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
                answer => return answer,
            }
        }
    }

    async fn propose_once(&self, commands: &[Command]) -> Answer {
        let Some(leader) = self.leader_elsewhere()? else { return self.proposer.propose(commands.to_vec()).await };
        let calling = self.peers.propose(leader, encode_entry(commands));
        let Proposed { index, term, replies } = answered(leader, PROPOSE_TIMEOUT, calling).await?;
        let unreadable = |error| EngineError::Unavailable(format!("node {leader} answered what can't be read: {error}"));
        let replies: Vec<Reply> = postcard::from_bytes(&replies).map_err(unreadable)?;
        let mut status = self.consensus.status();
        let _ = tokio::time::timeout(LAG_PATIENCE, status.wait_for(|status| status.applied >= index)).await;
        Ok(Applied { index, term, replies })
    }

    pub async fn wish(&self, wish: MembersWish) -> Result<(), EngineError> {
        match self.leader_elsewhere()? {
            None => self.members.wish(wish).await,
            Some(leader) => answered(leader, MEMBERS_TIMEOUT, self.peers.change_members(leader, wish)).await,
        }
    }

    /// None: it is this controller.
    fn leader_elsewhere(&self) -> Result<Option<NodeId>, EngineError> {
        let status = self.shared.status();
        match status.leader {
            Some(leader) => Ok((leader != status.node_id).then_some(leader)),
            None => Err(EngineError::NoLeader("none is known".into())),
        }
    }
}

/// What the leader said, as an answer of this controller.
async fn answered<T>(
    leader: NodeId,
    patience: Duration,
    calling: impl Future<Output = std::io::Result<Result<T, Refusal>>>,
) -> Result<T, EngineError> {
    let unreachable = |why: &dyn std::fmt::Display| EngineError::NoLeader(format!("node {leader} leads, and can't be asked: {why}"));
    match tokio::time::timeout(patience, calling).await {
        Err(_) => Err(unreachable(&format_args!("no answer within {} s", patience.as_secs()))),
        Ok(Err(error)) => Err(unreachable(&error)),
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(refusal))) => Err(match refusal {
            Refusal::NotLeader { .. } => EngineError::NoLeader(refusal.to_string()),
            Refusal::Busy { what } => EngineError::Busy(what),
            Refusal::Conflict(why) => EngineError::Conflict(why),
            other => EngineError::Unavailable(other.to_string()),
        }),
    }
}

/// What other controllers ask of this one.
impl EngineHandle {
    pub async fn propose_for_peer(&self, commands: &[u8]) -> Result<Proposed, Refusal> {
        let commands = decode_entry(commands).map_err(|error| Refusal::Failed(error.to_string()))?;
        let is_allowed = |command: &Command| matches!(command, Command::Trigger { .. } | Command::Cancel { .. });
        if commands.len() > FORWARDED_MAX || !commands.iter().all(is_allowed) {
            return Err(Refusal::Failed("a controller passes on manual runs and cancellations only".into()));
        }
        if !self.inner.is_licensed() {
            return Err(self.not_leader());
        }
        let applied = self.inner.proposer.propose(commands).await.map_err(|error| self.refusal(error))?;
        let replies = postcard::to_stdvec(&applied.replies).map_err(|error| Refusal::Failed(error.to_string()))?;
        Ok(Proposed { index: applied.index, term: applied.term, replies: replies.into() })
    }

    pub async fn change_members_for_peer(&self, wish: MembersWish) -> Result<(), Refusal> {
        if !self.inner.shared.status().is_leader() {
            return Err(self.not_leader());
        }
        self.inner.members.wish(wish).await.map_err(|error| self.refusal(error))
    }

    pub fn pulse(&self) -> Pulse {
        Pulse { now: self.inner.clock.wall(), applied: self.inner.shared.status().applied }
    }
}
