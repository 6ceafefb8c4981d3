//! The guardian: a small process that spawns, fences and reaps the worker's runs, and the agent's client of it.
//!
//! It is this same executable with a hidden subcommand, started first and single-threaded. It alone forks, so that spawning stays fast
//! however large the agent grows. It is the subreaper of everything beneath it.
//!
//! What it promises:
//! - **One step.** Permit, `not_after` and revocation are checked and the process is spawned in one step of one ordered stream
//!   (PROTOCOL E3): a revoke that comes first prevents the spawn, one that comes later does not, and the answer says which.
//! - **The fence.** When the agent's end of the link closes (also by kill -9), every process beneath the guardian is killed before the
//!   guardian ends. When the session's lease runs out, the runs marked for it are ended (PROTOCOL C5). The guardian holds a lock on the
//!   data directory for as long as it lives, and the next guardian starts nothing until it has that lock.
//! - **The end of a run** is told in two notices: its main process ended, and later its process group is surely gone. Whatever the main
//!   process leaves behind in its group gets SIGTERM, the grace, SIGKILL.
//! - Deadlines are on CLOCK_BOOTTIME. Signals from a terminal or a service manager do not reach it: it ends with its link only.
//!
//! What it leaves out: which run starts when and for how long (the agent's), output (the agent reads the pipes), journals. A process that
//! leaves its group (a daemon) is not ended with its run; it is reaped, and killed when the guardian ends. Whoever stops or kills the
//! guardian itself stops the fence: then [`kill_leftover`] is what a restarted agent has.
//!
//! ```text
//! launch, client, connection    in the agent: starting it; the handle; the task behind the handle (tokio)
//! messages, frames              the link between the two: length-prefixed postcard over a socket pair, descriptors by SCM_RIGHTS
//! process, ward, runs           in the guardian: its loop; its decisions; its table of runs and timers
//! command, spawn                what is started, and how; signals, fence: the other system calls; proc_table reads /proc
//! leftover                      what a guardian that was killed itself has left behind
//! ```

mod client;
mod command;
mod connection;
mod fence;
mod frames;
mod launch;
mod leftover;
mod messages;
mod proc_table;
mod process;
mod runs;
mod signals;
mod spawn;
mod ward;

pub use client::{Guardian, Notice, Spawn, SpawnError, Spawned};
pub use launch::{GuardianError, Launch, Launched};
pub use leftover::{Leftover, kill_leftover};
pub use messages::End;
pub use process::run_process;

/// The hidden subcommand that makes this executable a guardian. Its one argument is the worker's data directory.
pub const SUBCOMMAND: &str = "guardian";

/// The name that `ps` and `top` show; Linux keeps 15 bytes of it.
const PROCESS_NAME: &std::ffi::CStr = c"chrono-guardian";

/// Locked by the guardian of a data directory for as long as it lives; holds its process id, for people.
const LOCK_FILE: &str = "guardian.lock";
