//! What a node is told at its start, and every limit of this part, by name and unit.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::{ClusterId, NodeId};

/// Ticks in the shortest election time-out: raft counts time in ticks.
pub(crate) const ELECTION_TICKS: usize = 10;
/// Ticks between two heartbeats of a leader: five heartbeats in the shortest election time-out.
pub(crate) const HEARTBEAT_TICKS: usize = 2;
/// The shortest tick; a shorter one only burns CPU.
const TICK_MS_MIN: u64 = 2;

/// Who this node is, where it keeps its log, and within which bounds it works.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This controller's number in the cluster, from 1.
    pub node_id: NodeId,
    /// The directory of the log and the snapshots; created if it is missing. Nothing else may write in it.
    pub data_dir: PathBuf,
    /// A directory, a message or a snapshot of another cluster is refused.
    pub cluster_id: ClusterId,
    /// The voters that found the cluster, with their addresses: every one of them must be told the same. A node that isn't among them
    /// starts empty and waits until a leader adds it. Later on the replicated membership rules, and this only says where members are.
    pub seed_members: BTreeMap<NodeId, String>,
    /// The shortest election time-out, in milliseconds; the longest is twice that.
    pub election_timeout_ms: u64,
    pub limits: Limits,
}

impl NodeConfig {
    /// A configuration with the default election time-out (500 ms) and limits.
    pub fn new(node_id: NodeId, data_dir: PathBuf, cluster_id: ClusterId, seed_members: BTreeMap<NodeId, String>) -> NodeConfig {
        NodeConfig { node_id, data_dir, cluster_id, seed_members, election_timeout_ms: 500, limits: Limits::default() }
    }

    /// Milliseconds between two ticks.
    pub fn tick_ms(&self) -> u64 {
        (self.election_timeout_ms / ELECTION_TICKS as u64).max(TICK_MS_MIN)
    }

    /// Says what is wrong with these settings, if anything.
    pub fn validate(&self) -> Result<(), String> {
        let limits = &self.limits;
        if self.node_id == 0 {
            return Err("a node id starts at 1".to_owned());
        }
        if self.seed_members.contains_key(&0) {
            return Err("a member's id starts at 1".to_owned());
        }
        if self.election_timeout_ms < TICK_MS_MIN * ELECTION_TICKS as u64 {
            return Err(format!("the election time-out must be at least {} ms", TICK_MS_MIN * ELECTION_TICKS as u64));
        }
        let must_be_positive = [
            ("command_bytes_max", limits.command_bytes_max),
            ("inbox_proposals_max", limits.inbox_proposals_max),
            ("inbox_messages_max", limits.inbox_messages_max),
            ("inbox_bytes_max", limits.inbox_bytes_max),
            ("turn_inputs_max", limits.turn_inputs_max),
            ("pending_proposals_max", limits.pending_proposals_max),
            ("pending_reads_max", limits.pending_reads_max),
            ("inflight_messages_max", limits.inflight_messages_max),
            ("snapshot_entries", limits.snapshot_entries as usize),
            ("snapshot_bytes", limits.snapshot_bytes as usize),
        ];
        match must_be_positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("the limit {name} must be at least 1")),
            None if limits.pending_bytes_max < limits.command_bytes_max => {
                Err("pending_bytes_max must not be below command_bytes_max".to_owned())
            }
            None => Ok(()),
        }
    }
}

/// The bounds of a node. Each name ends in its unit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest command; larger ones are refused with `TooLarge`.
    pub command_bytes_max: usize,
    /// Requests (proposals, reads, changes) that wait for the node's thread; beyond that they are refused with `Busy`.
    pub inbox_proposals_max: usize,
    /// Messages of peers that wait for the node's thread; beyond that they are dropped, as Raft allows.
    pub inbox_messages_max: usize,
    /// Bytes of either kind that wait for the node's thread.
    pub inbox_bytes_max: usize,
    /// Inputs taken in one turn, and so the largest batch behind one fsync.
    pub turn_inputs_max: usize,
    /// Proposals appended but not yet applied; beyond that they are refused with `Busy`.
    pub pending_proposals_max: usize,
    pub pending_bytes_max: usize,
    /// Reads that wait for their confirmation.
    pub pending_reads_max: usize,
    /// A proposal not applied after this long is answered `Unknown`.
    pub proposal_timeout_ms: u64,
    pub read_timeout_ms: u64,
    /// A snapshot is taken after so many applied entries, or so many bytes of them, whichever comes first.
    pub snapshot_entries: u64,
    pub snapshot_bytes: u64,
    /// A peer that was sent a snapshot and gives no sign for so long is sent another.
    pub snapshot_send_timeout_ms: u64,
    /// Entries kept behind a snapshot for followers that lag a little; never more than what `log_cache_bytes` holds.
    pub log_keep_entries: u64,
    /// Entries at the end of the log that are kept in memory.
    pub log_cache_bytes: usize,
    /// redb's page cache.
    pub redb_cache_bytes: usize,
    /// Entries in one message to a peer; a single larger entry still goes.
    pub message_bytes_max: u64,
    /// Messages under way to a peer.
    pub inflight_messages_max: usize,
    /// Entries applied before the loop looks at its inbox again.
    pub apply_bytes_per_ready_max: u64,
    /// How long `stop` waits for the node's thread.
    pub stop_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        const MIB: usize = 1 << 20;
        Limits {
            command_bytes_max: 8 * MIB,
            inbox_proposals_max: 8_192,
            inbox_messages_max: 8_192,
            inbox_bytes_max: 64 * MIB,
            turn_inputs_max: 4_096,
            pending_proposals_max: 16_384,
            pending_bytes_max: 64 * MIB,
            pending_reads_max: 8_192,
            proposal_timeout_ms: 10_000,
            read_timeout_ms: 5_000,
            snapshot_entries: 50_000,
            snapshot_bytes: 64 * MIB as u64,
            snapshot_send_timeout_ms: 60_000,
            log_keep_entries: 5_000,
            log_cache_bytes: 8 * MIB,
            redb_cache_bytes: 4 * MIB,
            message_bytes_max: MIB as u64,
            inflight_messages_max: 128,
            apply_bytes_per_ready_max: 4 * MIB as u64,
            stop_timeout_ms: 10_000,
        }
    }
}
