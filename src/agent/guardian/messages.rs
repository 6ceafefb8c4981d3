//! What agent and guardian say to each other. Both are the same executable, so there is no version: the format may change freely.

use serde::{Deserialize, Serialize};

use crate::agent::clock::Moment;

/// From the agent to the guardian, obeyed in the order of the stream.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum Order<'a> {
    /// Start a process; its standard output and standard error travel beside this frame, in this order.
    #[serde(borrow)]
    Spawn(SpawnOrder<'a>),
    /// SIGTERM to the run's group now, SIGKILL after the grace.
    Stop { token: u64, grace_ms: u64 },
    /// SIGKILL to the run's group now.
    Kill { token: u64 },
    /// Never start this token, if that is still possible.
    Revoke { token: u64 },
    /// Nothing starts after the permit; runs marked for it are ended after the lease (PROTOCOL C5). The last order counts.
    SetLease { permit_end_boot_ms: u64, lease_end_boot_ms: u64 },
    /// End everything and exit.
    Shutdown,
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct SpawnOrder<'a> {
    pub token: u64,
    pub command: &'a str,
    /// The whole environment.
    #[serde(borrow)]
    pub env: Vec<(&'a str, &'a str)>,
    pub cwd: Option<&'a str>,
    pub not_after_boot_ms: u64,
    pub kill_on_lease_end: bool,
    pub kill_grace_ms: u64,
}

/// From the guardian to the agent.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum Report {
    /// The lock is held: nothing of an earlier life runs any more, and orders are obeyed.
    Ready,
    Spawned {
        token: u64,
        pid: u32,
        start_time_ticks: u64,
        at: Moment,
    },
    Refused {
        token: u64,
        refusal: Refusal,
    },
    Exited {
        token: u64,
        end: End,
        at: Moment,
    },
    GroupGone {
        token: u64,
    },
    /// `prevented`: it was not started and never will be.
    Revoked {
        token: u64,
        prevented: bool,
    },
}

/// Why a spawn order was not carried out. Nothing was started.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    TooLate,
    PermitOver,
    Revoked,
    TokenInUse,
    Failed { errno: i32, text: String },
}

/// How a run's main process ended.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this code, 0 to 255. A shell says 127 for a command that it did not find and 126 for one that it may not execute.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}
