//! What the rest of the program holds of the node.

use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::config::Limits;
use super::inbox::{Mail, Refused, Sender};
use super::members::MemberChange;
use super::node::{Applied, Input, ProposeError, ReadAt, ReadError, RequestError};
use super::status::Status;
use super::storage::Identity;
use crate::model::NodeId;

/// A running node. Clones are the same node; dropping them doesn't stop it.
pub struct Handle<O> {
    pub(super) inbox: Sender<O>,
    pub(super) status: watch::Receiver<Status>,
    /// True once the node's thread has ended.
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) identity: Identity,
    pub(super) limits: Limits,
}

impl<O> Clone for Handle<O> {
    fn clone(&self) -> Handle<O> {
        Handle {
            inbox: self.inbox.clone(),
            status: self.status.clone(),
            stopped: self.stopped.clone(),
            identity: self.identity,
            limits: self.limits.clone(),
        }
    }
}

impl<O: Send + 'static> Handle<O> {
    /// Has a command committed and applied, and gives what came of it. State published to readers is at least that new by then.
    /// Dropping the future gives up the answer, not the command.
    pub async fn propose(&self, command: Vec<u8>) -> Result<Applied<O>, ProposeError> {
        let bytes_max = self.limits.command_bytes_max;
        if command.len() > bytes_max {
            return Err(ProposeError::TooLarge { bytes: command.len(), bytes_max });
        }
        let (reply, answer) = oneshot::channel();
        self.inbox.post(Mail::Propose(command, reply)).map_err(|refused| match refused {
            Refused::Full => ProposeError::Busy,
            Refused::Stopped => ProposeError::Stopped,
        })?;
        answer.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Safe ReadIndex: an index that is applied here by now, and at or above everything that was committed before the call. Any member may
    /// ask; it answers within `read_timeout_ms`.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        self.read(false).await.map(|at| at.index)
    }

    /// Confirms that this node leads: a quorum has said so after the call (PROTOCOL C3). Gives the term, and an index as `read_index` does.
    pub async fn confirm_leader(&self) -> Result<ReadAt, ReadError> {
        self.read(true).await
    }

    async fn read(&self, as_leader: bool) -> Result<ReadAt, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.post(Mail::Read { as_leader, reply }).map_err(|refused| match refused {
            Refused::Full => ReadError::Busy,
            Refused::Stopped => ReadError::Stopped,
        })?;
        answer.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// The newest status; it changes with every turn. The channel closes when the node has ended, `failed` then says why if it was an
    /// error.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whose directory the node works in.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// A frame of a peer; dropped if too many wait, which false says.
    pub fn receive(&self, frame: Vec<u8>) -> bool {
        self.inbox.post(Mail::Peer(Input::Frame(frame))).is_ok()
    }

    /// The transport could not send to `peer`.
    pub fn report_unreachable(&self, peer: NodeId) {
        let _ = self.inbox.post(Mail::Peer(Input::Unreachable { peer }));
    }

    /// The transport has handed over a snapshot, or lost it.
    pub fn report_snapshot(&self, peer: NodeId, arrived: bool) {
        let _ = self.inbox.post(Mail::Peer(Input::SnapshotSent { peer, arrived }));
    }

    /// Asks for an election now.
    pub fn campaign(&self) {
        let _ = self.inbox.post(Mail::Peer(Input::Campaign));
    }

    /// Hands leadership to `to`, or to the voter that lags least; ends when this node has stepped down, or after two election time-outs.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<(), RequestError> {
        self.request(|reply| Mail::Transfer(to, reply)).await
    }

    /// Changes the members, all at once if there are several; ends when the change is applied here. One change at a time.
    pub async fn change_members(&self, changes: Vec<MemberChange>) -> Result<(), RequestError> {
        self.request(|reply| Mail::Change(changes, reply)).await
    }

    async fn request(&self, mail: impl FnOnce(oneshot::Sender<Result<(), RequestError>>) -> Mail<O>) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.post(mail(reply)).map_err(|refused| match refused {
            Refused::Full => RequestError::Busy,
            Refused::Stopped => RequestError::Stopped,
        })?;
        answer.await.unwrap_or(Err(RequestError::Unknown))
    }

    /// Stops the node and waits until its log is closed, up to `stop_timeout_ms`. May be called again.
    pub async fn stop(&self) {
        let _ = self.inbox.post(Mail::Stop);
        let mut stopped = self.stopped.clone();
        let limit = Duration::from_millis(self.limits.stop_timeout_ms);
        if tokio::time::timeout(limit, stopped.wait_for(|stopped| *stopped)).await.is_err() {
            log::warn!("the node did not stop within {} ms", limit.as_millis());
        }
    }
}
