//! Safe ReadIndex (Raft thesis, section 6.4): a quorum confirms the leader's term after a read came in; then whatever was committed when it
//! was asked is read by everyone who has applied that much. All reads of a turn share one confirmation.
//!
//! raft forgets a read without a word when there is no leader, no entry of the own term yet, or the leader changes. So each batch has a
//! context of its own and is asked again under a new one when no answer comes; a later confirmation confirms all the more.

use std::collections::VecDeque;

use super::Token;
use crate::model::NodeId;

/// A confirmed read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadAt {
    /// Applied here by now; everything committed before the read was asked is at or below it.
    pub index: u64,
    /// The term in which this node itself was confirmed as the leader after the read was asked; `None` if another leader confirmed it.
    pub leader_term: Option<u64>,
}

/// Why a read was not confirmed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("this node does not lead")]
    NotLeader { leader: Option<NodeId> },
    #[error("too many reads are waiting")]
    Busy,
    #[error("no quorum confirmed it in time")]
    TimedOut,
    #[error("the node has stopped")]
    Stopped,
}

#[derive(Clone, Copy)]
pub struct ReadRequest {
    pub token: Token,
    pub as_leader: bool,
    pub deadline_ms: u64,
}

struct Batch {
    context: Vec<u8>,
    issued_ms: u64,
    leader_term: Option<u64>,
    requests: Vec<ReadRequest>,
}

/// Reads on their way: waiting → issued → confirmed → answered once applied.
pub struct Reads {
    context_prefix: [u8; 16],
    contexts: u64,
    waiting: Vec<ReadRequest>,
    issued: VecDeque<Batch>,
    confirmed: Vec<(ReadAt, Vec<ReadRequest>)>,
    count: usize,
}

impl Reads {
    /// `seed` differs between lives of a node, so that no context comes twice.
    pub fn new(node_id: NodeId, seed: u64) -> Reads {
        let mut context_prefix = [0; 16];
        context_prefix[..8].copy_from_slice(&node_id.to_le_bytes());
        context_prefix[8..].copy_from_slice(&seed.to_le_bytes());
        Reads { context_prefix, contexts: 0, waiting: Vec::new(), issued: VecDeque::new(), confirmed: Vec::new(), count: 0 }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn push(&mut self, request: ReadRequest) {
        self.count += 1;
        self.waiting.push(request);
    }

    /// Makes one batch of what waits; gives the context to ask raft with, or `None` if nothing waits.
    pub fn issue(&mut self, now_ms: u64, leader_term: Option<u64>) -> Option<Vec<u8>> {
        if self.waiting.is_empty() {
            return None;
        }
        self.contexts += 1;
        let context = [self.context_prefix.as_slice(), self.contexts.to_le_bytes().as_slice()].concat();
        let requests = std::mem::take(&mut self.waiting);
        self.issued.push_back(Batch { context: context.clone(), issued_ms: now_ms, leader_term, requests });
        Some(context)
    }

    /// raft confirmed a context. Batches issued before are confirmed with it, as raft's own queue has it, each by its own answer.
    pub fn confirm(&mut self, context: &[u8], index: u64) {
        let Some(at) = self.issued.iter().position(|batch| batch.context == context) else { return };
        if let Some(batch) = self.issued.remove(at) {
            self.confirmed.push((ReadAt { index, leader_term: batch.leader_term }, batch.requests));
        }
    }

    /// Lets batches be asked again that were issued in another term or role, or have waited long enough.
    pub fn reissue(&mut self, issued_before_ms: u64, leader_term: Option<u64>) {
        for batch in std::mem::take(&mut self.issued) {
            if batch.leader_term != leader_term || batch.issued_ms < issued_before_ms {
                self.waiting.extend(batch.requests);
            } else {
                self.issued.push_back(batch);
            }
        }
    }

    /// Takes out what can be answered: confirmed reads up to `applied`.
    pub fn ripe(&mut self, applied: u64) -> Vec<(ReadAt, ReadRequest)> {
        let mut ripe = Vec::new();
        self.confirmed.retain_mut(|(at, requests)| {
            if at.index > applied {
                return true;
            }
            ripe.extend(requests.drain(..).map(|request| (*at, request)));
            false
        });
        self.count -= ripe.len();
        ripe
    }

    /// Takes out what `is_over` says so of, wherever it is, except for what is confirmed already.
    pub fn take_unconfirmed(&mut self, is_over: impl Fn(&ReadRequest) -> bool) -> Vec<ReadRequest> {
        let mut over: Vec<ReadRequest> = self.waiting.extract_if(.., |request| is_over(request)).collect();
        for batch in &mut self.issued {
            over.extend(batch.requests.extract_if(.., |request| is_over(request)));
        }
        self.issued.retain(|batch| !batch.requests.is_empty());
        self.count -= over.len();
        over
    }

    /// All of them: the node stops.
    pub fn drain(&mut self) -> Vec<Token> {
        let confirmed = std::mem::take(&mut self.confirmed).into_iter().flat_map(|(_, requests)| requests);
        let unconfirmed = self.take_unconfirmed(|_| true);
        self.count = 0;
        confirmed.chain(unconfirmed).map(|request| request.token).collect()
    }
}
