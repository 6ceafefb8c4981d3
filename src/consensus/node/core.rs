//! The node: what it knows, and its turn.

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::{Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};
use uuid::Uuid;

use super::election::Election;
use super::frame::{self, Body};
use super::proposals::{Applied, Proposals, ProposeError};
use super::reads::{ReadError, Reads};
use super::snapshots::Snapshots;
use super::{Effects, Failure, Input, RequestError, StateMachine, Token};
use crate::consensus::config::{ELECTION_TICKS, HEARTBEAT_TICKS, Limits, NodeConfig};
use crate::consensus::members::Membership;
use crate::consensus::raft_log;
use crate::consensus::status::Status;
use crate::consensus::storage::{self, Disk, Identity, Image, Mark, Recovered, Store};
use crate::model::NodeId;
use crate::mutation::{self, Mutation};

/// What the context of a normal entry says about its data. An empty entry without one is what raft itself writes on winning an election.
pub(super) const TAG_COMMAND: &[u8] = b"c";
pub(super) const TAG_BIND: &[u8] = b"b";
/// Turns of the Ready loop before the inbox is looked at again.
pub(super) const READY_ROUNDS_MAX: usize = 16;

/// A change of the membership on its way.
pub(super) struct PendingChange {
    pub token: Token,
    pub index: u64,
    pub term: u64,
    pub deadline_ms: u64,
}

/// A hand-over of leadership on its way.
pub(super) struct PendingTransfer {
    pub token: Token,
    pub deadline_ms: u64,
}

/// What became of a proposal, or of a change of the members.
pub(super) enum Settled<O> {
    Proposal(Token, Result<Applied<O>, ProposeError>),
    Change(Token, Result<(), RequestError>),
}

/// One member of the group. See the module for what it leaves to its driver.
pub struct Core<S: StateMachine, D: Disk> {
    pub(super) config: NodeConfig,
    pub(super) raw: RawNode<Store<D>>,
    pub(super) machine: S,
    pub(super) membership: Membership,
    /// The last entry that the state machine has seen.
    pub(super) applied: Mark,
    pub(super) proposals: Proposals,
    pub(super) reads: Reads,
    pub(super) change: Option<PendingChange>,
    pub(super) transfer: Option<PendingTransfer>,
    pub(super) snapshots: Snapshots,
    pub(super) election: Election,
    pub(super) now_ms: u64,
    next_tick_ms: u64,
    /// When each peer was last heard from.
    pub(super) heard_ms: BTreeMap<NodeId, u64>,
    /// The directory from which each member was last heard (PROTOCOL G1).
    pub(super) stores: BTreeMap<NodeId, Uuid>,
    /// Members whose directory this leader has proposed to bind, in which term.
    pub(super) bound: (u64, BTreeSet<NodeId>),
    /// Who was told since the last tick that it is known under another directory.
    refused: BTreeSet<NodeId>,
    pub(super) status: Status,
    /// Outcomes of this turn; given out once readers can see the state that they belong to.
    pub(super) settled: Vec<Settled<S::Outcome>>,
}

impl<S: StateMachine, D: Disk> Core<S, D> {
    /// Opens the directory, and brings the state machine to where the snapshot has it; what is committed behind it comes with the turns.
    ///
    /// `seed` is for election time-outs and names of reads, and differs between lives; `store` names the directory if it is a new one.
    pub fn open(disk: D, config: NodeConfig, mut machine: S, seed: u64, store: Uuid, now_ms: u64) -> Result<Core<S, D>, Failure> {
        let Recovered { store, image, membership, applied } = storage::open(disk, &config, store)?;
        if let Some(image) = &image {
            restore(&mut machine, image)?;
        }
        let identity = *store.identity();
        let raw = RawNode::new(&raft_config(&config, applied.index), store, &raft_log::logger())
            .map_err(|error| Failure::Raft(error.to_string()))?;
        let mut core = Core {
            raw,
            machine,
            membership,
            applied,
            proposals: Proposals::default(),
            reads: Reads::new(config.node_id, seed),
            change: None,
            transfer: None,
            snapshots: Snapshots::default(),
            election: Election::new(seed ^ config.node_id.rotate_left(32)),
            now_ms,
            next_tick_ms: now_ms + config.tick_ms(),
            heard_ms: BTreeMap::new(),
            stores: BTreeMap::from([(config.node_id, identity.store)]),
            bound: (0, BTreeSet::new()),
            refused: BTreeSet::new(),
            status: Status::default(),
            settled: Vec::new(),
            config,
        };
        core.election.steady(&mut core.raw.raft);
        Ok(core)
    }

    /// Takes `inputs` in, and goes as far as it can without waiting. `now_ms` is any clock that doesn't go back.
    ///
    /// After an error the node is finished: nothing but [`Core::close`] may be called.
    pub fn turn(
        &mut self,
        now_ms: u64,
        inputs: impl IntoIterator<Item = Input>,
        effects: &mut dyn Effects<S::Outcome>,
    ) -> Result<(), Failure> {
        self.now_ms = self.now_ms.max(now_ms);
        let mut commands = Vec::new();
        for input in inputs {
            self.take(input, &mut commands, effects)?;
        }
        self.propose(commands, effects);
        self.tick();
        self.issue_reads();
        self.ready_rounds(effects)?;
        if self.stand_alone() {
            self.ready_rounds(effects)?;
        }
        self.tend(effects)
    }

    /// When the next turn is due even without an input.
    pub fn next_turn_ms(&self) -> u64 {
        if self.raw.has_ready() { self.now_ms } else { self.next_tick_ms }
    }

    /// As of the last turn; empty before the first.
    pub fn status(&self) -> &Status {
        &self.status
    }

    pub fn machine(&self) -> &S {
        &self.machine
    }

    pub fn identity(&self) -> &Identity {
        self.store().identity()
    }

    /// Answers everything that waits, and closes the log in order.
    pub fn close(&mut self, effects: &mut dyn Effects<S::Outcome>) -> Result<(), Failure> {
        self.give_out_settled(effects);
        for token in self.proposals.drain() {
            effects.proposed(token, Err(ProposeError::Unknown));
        }
        for token in self.reads.drain() {
            effects.read(token, Err(ReadError::Stopped));
        }
        let requests = [self.change.take().map(|change| change.token), self.transfer.take().map(|transfer| transfer.token)];
        for token in requests.into_iter().flatten() {
            effects.requested(token, Err(RequestError::Unknown));
        }
        Ok(self.raw.mut_store().close()?)
    }

    fn take(&mut self, input: Input, commands: &mut Vec<(Token, Vec<u8>)>, fx: &mut dyn Effects<S::Outcome>) -> Result<(), Failure> {
        match input {
            Input::Frame(bytes) => self.receive(bytes, fx)?,
            Input::Propose { token, command } => commands.push((token, command)),
            Input::Read { token, as_leader } => self.take_read(token, as_leader, fx),
            Input::Change { token, changes } => self.take_change(token, changes, fx),
            Input::Transfer { token, to } => self.take_transfer(token, to, fx),
            Input::Campaign => self.campaign(),
            Input::Unreachable { peer } => self.raw.report_unreachable(peer),
            Input::SnapshotSent { peer, arrived } => self.snapshot_sent(peer, arrived),
            Input::Done(done) => self.snapshot_written(done)?,
        }
        Ok(())
    }

    /// Steps a peer's message, if it is one that this node may listen to.
    fn receive(&mut self, bytes: Vec<u8>, fx: &mut dyn Effects<S::Outcome>) -> Result<(), Failure> {
        let Some(frame) = frame::decode(bytes) else {
            log::debug!("dropped a frame that can't be read");
            return Ok(());
        };
        let identity = *self.identity();
        if frame.cluster != identity.cluster_id {
            log::warn!("dropped a message from cluster {}: this is {}", frame.cluster, identity.cluster_id);
            return Ok(());
        }
        let message = match frame.body {
            Body::Refused { from, to } if to == identity.node_id => return Err(Failure::Refused { by: from }),
            Body::Refused { .. } => return Ok(()),
            Body::Raft(message) => message,
        };
        if !self.is_for_me(&message) {
            return Ok(());
        }
        let known = self.membership.records().get(&message.from).and_then(|record| record.store);
        if known.is_some_and(|store| store != frame.store) && !mutation::is(Mutation::WipedVoterVotes) {
            if self.refused.insert(message.from) {
                fx.send(message.from, frame::encode_refused(&identity, message.from), false);
            }
            return Ok(());
        }
        self.check_message(&message)?;
        if self.membership.contains(message.from) {
            self.heard_ms.insert(message.from, self.now_ms);
            self.stores.insert(message.from, frame.store);
        }
        if message.msg_type == MessageType::MsgSnapshot && !self.is_sound_snapshot(&message) {
            log::warn!("dropped a damaged snapshot from node {}", message.from);
            return Ok(());
        }
        match self.raw.step(*message) {
            Err(error @ (raft::Error::Io(_) | raft::Error::Store(_))) => Err(self.raft_failure(error)),
            // Everything else is a message that came too late or from someone who left.
            _ => Ok(()),
        }
    }

    /// Not what is sent to another id; nor what a follower would pass on to the leader in the sender's name: proposals could not be
    /// tracked,
    /// and a passed-on message would come from another directory than its sender's. Who asked asks again.
    fn is_for_me(&self, message: &Message) -> bool {
        let id = self.config.node_id;
        let would_be_passed_on = match message.get_msg_type() {
            MessageType::MsgPropose | MessageType::MsgTransferLeader => true,
            MessageType::MsgReadIndex => !self.is_leader(),
            _ => false,
        };
        message.to == id && ![0, id].contains(&message.from) && !would_be_passed_on
    }

    /// A leader that counts on entries that are not here: they were lost after they had been acknowledged.
    fn check_message(&self, message: &Message) -> Result<(), Failure> {
        let last_index = self.raw.raft.raft_log.last_index();
        let is_current = message.term >= self.raw.raft.term;
        if message.msg_type == MessageType::MsgHeartbeat && is_current && message.commit > last_index {
            return Err(Failure::RolledBack { leader: message.from, commit: message.commit, last_index });
        }
        Ok(())
    }

    fn is_sound_snapshot(&self, message: &Message) -> bool {
        let snapshot = message.get_snapshot();
        let metadata = snapshot.get_metadata();
        Image::decode(self.config.cluster_id, snapshot.data.clone())
            .is_ok_and(|image| image.mark == Mark { index: metadata.index, term: metadata.term })
    }

    fn campaign(&mut self) {
        if self.raw.raft.promotable() && !self.is_leader() {
            let _ = self.raw.campaign();
        }
    }

    /// One tick at most, however late the turn is: a stall of this thread is not charged to the leader.
    fn tick(&mut self) {
        if self.now_ms < self.next_tick_ms {
            return;
        }
        self.next_tick_ms = self.now_ms + self.config.tick_ms();
        self.refused.clear();
        self.election.steady(&mut self.raw.raft);
        self.raw.tick();
        self.election.steady(&mut self.raw.raft);
    }

    /// A group of one has nobody to wait for: it elects itself at once. Says whether it tried.
    fn stand_alone(&mut self) -> bool {
        let alone = self.raw.raft.state == StateRole::Follower && self.membership.is_only(self.config.node_id);
        if alone {
            self.campaign();
        }
        alone
    }

    pub(super) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0)
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    pub(super) fn store(&self) -> &Store<D> {
        self.raw.store()
    }

    /// The cause of an error that raft passed on.
    pub(super) fn raft_failure(&self, error: raft::Error) -> Failure {
        self.store().take_fault().map_or_else(|| Failure::Raft(error.to_string()), Failure::Storage)
    }
}

pub(super) fn restore(machine: &mut impl StateMachine, image: &Image) -> Result<(), Failure> {
    let index = image.mark.index;
    machine.restore(index, image.body()).map_err(|reason| Failure::Machine { index, reason })
}

/// Every field by name: raft's defaults leave sizes and flights unbounded, and elections without pre-vote.
fn raft_config(config: &NodeConfig, applied: u64) -> Config {
    let limits = &config.limits;
    Config {
        id: config.node_id,
        election_tick: ELECTION_TICKS,
        heartbeat_tick: HEARTBEAT_TICKS,
        applied,
        max_size_per_msg: limits.message_bytes_max,
        max_inflight_msgs: limits.inflight_messages_max,
        check_quorum: true,
        pre_vote: true,
        min_election_tick: ELECTION_TICKS,
        max_election_tick: 2 * ELECTION_TICKS,
        read_only_option: ReadOnlyOption::Safe,
        skip_bcast_commit: false,
        // raft 0.7 batches entries into a waiting message without entries whose index doesn't fit them, and then counts as stored what is
        // not.
        batch_append: false,
        priority: 0,
        // The node's own limit comes first; this one only has to be above it, a message and a batch of bindings.
        max_uncommitted_size: 2 * (limits.pending_bytes_max as u64 + limits.message_bytes_max),
        max_committed_size_per_ready: limits.apply_bytes_per_ready_max,
    }
}
