//! Changes of the membership and of who leads, on the leader.

use std::time::Duration;

use crate::consensus::{Handle, MemberChange, RequestError};
use crate::engine::api::EngineError;
use crate::ledger::Reply;
use crate::model::NodeId;
use crate::rpc::peer::MembersWish;

/// How long a new member may take to catch up before the caller is told to ask again.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A learner that lags by no more entries becomes a voter.
const LAG_ENTRIES_MAX: u64 = 1_000;

pub struct Members {
    consensus: Handle<Vec<Reply>>,
}

impl Members {
    pub fn new(consensus: Handle<Vec<Reply>>) -> Members {
        Members { consensus }
    }

    pub async fn wish(&self, wish: MembersWish) -> Result<(), EngineError> {
        match wish {
            MembersWish::Add { id, address } => self.add(id, address).await,
            MembersWish::Remove { id } => self.change(MemberChange::Remove { id }).await,
            MembersWish::Transfer { to } => self.consensus.transfer_leadership(to).await.map_err(engine_error),
        }
    }

    async fn add(&self, id: NodeId, address: String) -> Result<(), EngineError> {
        let status = self.consensus.status();
        let now = status.borrow().clone();
        if !now.first_own_applied {
            // It may not know yet that the member was removed.
            return Err(EngineError::NoLeader(format!("node {} doesn't lead, or was only just elected", now.node_id)));
        }
        let known = now.members.into_iter().find(|member| member.id == id);
        match known {
            Some(member) if member.address != address => {
                let detail = format!("node {id} is a member already, at {}; remove it first to replace it", member.address);
                return Err(EngineError::Conflict(detail));
            }
            Some(member) if member.role == crate::consensus::MemberRole::Voter => return Ok(()),
            Some(_) => {}
            None => self.change(MemberChange::Learner { id, address: address.clone() }).await?,
        }
        let patience = tokio::time::Instant::now() + CATCH_UP_PATIENCE;
        loop {
            let now = status.borrow().clone();
            if !now.is_leader() {
                return Err(EngineError::NoLeader(format!("node {} has stopped leading", now.node_id)));
            }
            let member = now.members.iter().find(|member| member.id == id);
            if member.is_some_and(|member| member.reachable && member.applied + LAG_ENTRIES_MAX >= now.commit) {
                return self.change(MemberChange::Voter { id, address }).await;
            }
            if tokio::time::Instant::now() >= patience {
                let s = CATCH_UP_PATIENCE.as_secs();
                let detail =
                    format!("node {id} is a learner now, and has not caught up within {s} s: start it, then ask again to make it a voter");
                return Err(EngineError::Unavailable(detail));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn change(&self, change: MemberChange) -> Result<(), EngineError> {
        self.consensus.change_members(vec![change]).await.map_err(engine_error)
    }
}

fn engine_error(error: RequestError) -> EngineError {
    match error {
        RequestError::NotLeader { leader } => {
            EngineError::NoLeader(leader.map_or_else(|| "none is known".to_owned(), |leader| format!("node {leader} leads")))
        }
        RequestError::Busy => EngineError::Busy("another change of the members is under way".into()),
        RequestError::Invalid(why) => EngineError::Conflict(why),
        error @ (RequestError::TimedOut | RequestError::Unknown | RequestError::Stopped) => EngineError::NoLeader(error.to_string()),
    }
}
