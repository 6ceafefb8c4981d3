//! Identifiers. Each kind has its own type, so that one is never passed for another.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::UnixMs;

/// A job's number: given by the store, positive, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

/// How often a job was written: 1 at its creation, one more with each edit.
pub type Revision = u64;
/// A controller's number within its cluster, from 1.
pub type NodeId = u64;
/// Orders the assignments of one run: the ledger index of each. An order that names a lower one than the last is stale (PROTOCOL C2).
pub type Epoch = u64;

/// A worker's name (`--node-id`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

/// One life of a worker: the ledger index of the `OpenSession` that began it (PROTOCOL C1).
#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// Drawn when a cluster is founded; every data directory, database and handshake names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Uuid);

/// One attempt at one launch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Uuid);

impl RunId {
    /// The id of a scheduled launch: the layout of UUID version 7 (RFC 9562, section 5.7), with the scheduled instant's milliseconds
    /// in front and a hash of (cluster, job, instant, attempt) behind. Whoever computes it gets the same one.
    pub fn of_launch(cluster: ClusterId, job: JobId, scheduled_at: UnixMs, attempt: u32) -> RunId {
        let mut name = [0u8; 20];
        name[..8].copy_from_slice(&job.0.to_be_bytes());
        name[8..16].copy_from_slice(&scheduled_at.0.to_be_bytes());
        name[16..].copy_from_slice(&attempt.to_be_bytes());
        RunId::at(scheduled_at, Uuid::new_v5(&cluster.0, &name).as_u128())
    }

    /// The id of a manual run with an Idempotency-Key: UUID version 5 of (cluster, job, key) (PROTOCOL B12).
    pub fn of_key(cluster: ClusterId, job: JobId, key: &str) -> RunId {
        let mut name = Vec::with_capacity(8 + key.len());
        name.extend_from_slice(&job.0.to_be_bytes());
        name.extend_from_slice(key.as_bytes());
        RunId(Uuid::new_v5(&cluster.0, &name))
    }

    /// An id in the layout of UUID version 7 whose 74 free bits come from `bits`.
    pub fn at(instant: UnixMs, bits: u128) -> RunId {
        let ms = (instant.0.clamp(0, (1 << 48) - 1)) as u128;
        let free = bits & !(0xFFFF_FFFF_FFFF_F000_C000_0000_0000_0000_u128);
        RunId(Uuid::from_u128((ms << 80) | (0x7 << 76) | (0b10 << 62) | free))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));

    #[test]
    fn a_launch_has_the_same_id_whoever_computes_it_and_ids_sort_by_time() {
        let at = UnixMs::from_secs(1_790_000_000);
        let id = RunId::of_launch(CLUSTER, JobId(1), at, 1);
        assert_eq!(id.to_string(), "01a0c450-6c00-72fb-aeb7-83dc76c859c2", "frozen: a change would launch again what was launched before");
        assert_eq!(id.0.get_version_num(), 7);
        let others = [
            RunId::of_launch(CLUSTER, JobId(2), at, 1),
            RunId::of_launch(CLUSTER, JobId(1), at, 2),
            RunId::of_launch(ClusterId(Uuid::from_u128(8)), JobId(1), at, 1),
        ];
        assert!(others.iter().all(|other| *other != id));
        assert!(RunId::of_launch(CLUSTER, JobId(9), at + 1, 1) > id);
    }

    #[test]
    fn a_key_names_one_run_of_one_job() {
        let id = RunId::of_key(CLUSTER, JobId(1), "deploy-42");
        assert_eq!(id, RunId::of_key(CLUSTER, JobId(1), "deploy-42"));
        assert_ne!(id, RunId::of_key(CLUSTER, JobId(2), "deploy-42"));
        assert_eq!(id.0.get_version_num(), 5);
    }
}
