//! Starting the guardian, before the agent has grown: plain blocking code that needs no runtime.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::sync::mpsc;

use super::client::{Guardian, Notice};
use super::connection;
use super::frames::{Inbox, Received, breach};
use super::messages::Report;
use super::{LOCK_FILE, SUBCOMMAND};

/// How long a new guardian waits for an older one, which ends everything beneath it as fast as the machine can.
const LAUNCH_WAIT: Duration = Duration::from_secs(20);
/// After so long it is worth a line in the log.
const LAUNCH_WAIT_QUIET: Duration = Duration::from_millis(500);

/// What a guardian is started with.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The `chrono-flow` executable.
    pub exe: PathBuf,
    /// The worker's data directory; it must exist. One guardian lives on it at a time.
    pub data_dir: PathBuf,
}

impl Launch {
    /// This very executable, also when its file was replaced or removed meanwhile (an upgrade).
    pub fn of_this_executable(data_dir: PathBuf) -> Launch {
        Launch { exe: PathBuf::from("/proc/self/exe"), data_dir }
    }
}

/// Why there is no guardian. The worker can't work without one.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// Its process could not be started or talked to.
    #[error("the guardian process can't be started from {}: {source}", exe.display())]
    Start { exe: PathBuf, source: io::Error },
    /// It ended before it was ready; it has said why on standard error.
    #[error("the guardian process ended before it was ready ({status})")]
    Ended { status: ExitStatus },
    /// An older guardian still lives, because something beneath it can't be killed, or it is stopped itself.
    #[error(
        "an older guardian (process {holder}) still holds {} after {waited_s} s: something that it started does not end. \
         Look for processes beneath it, or for another worker on this directory",
        lock.display()
    )]
    Busy { lock: PathBuf, holder: String, waited_s: u64 },
}

/// A guardian that is ready, with nothing attached to its link yet. Dropped, it ends.
pub struct Launched {
    pub(super) link: OwnedFd,
    pub(super) child: Child,
    pub(super) inbox: Inbox,
}

impl Guardian {
    /// Starts the guardian and blocks until it is ready: until nothing started by an older guardian of this data directory is alive,
    /// but no longer than 20 seconds. Call it early, before the process grows and before there is a runtime.
    pub fn launch(launch: &Launch) -> Result<Launched, GuardianError> {
        Guardian::launch_within(launch, LAUNCH_WAIT)
    }

    /// As [`Guardian::launch`], with another limit on the wait for an older guardian.
    pub fn launch_within(launch: &Launch, wait_max: Duration) -> Result<Launched, GuardianError> {
        let start_error = |source| GuardianError::Start { exe: launch.exe.clone(), source };
        let (child, link) = start(launch).map_err(start_error)?;
        let mut launched = Launched { link, child, inbox: Inbox::new() };
        let started = Instant::now();
        let mut is_said = false;
        loop {
            match launched.is_ready(LAUNCH_WAIT_QUIET.min(wait_max)) {
                Ok(true) => return Ok(launched),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let status = launched.child.wait().map_err(start_error)?;
                    return Err(GuardianError::Ended { status });
                }
                Err(error) => return Err(start_error(error)),
            }
            let (waited, lock) = (started.elapsed(), launch.data_dir.join(LOCK_FILE));
            let holder = std::fs::read_to_string(&lock).unwrap_or_default().trim().to_owned();
            if waited >= wait_max {
                return Err(GuardianError::Busy { lock, holder, waited_s: waited.as_secs() });
            }
            if !is_said {
                log::warn!("waiting for the guardian of an earlier life (process {holder}) to end what it started");
                is_said = true;
            }
        }
    }
}

impl Launched {
    /// The guardian's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects the guardian to the runtime: a handle to clone freely, and what happens to the runs. Each run gives at most two notices;
    /// read them always, but a slow reader delays only itself. Dropping every handle, or the receiver, ends the guardian.
    ///
    /// Call it within a tokio runtime with IO and time enabled.
    pub fn attach(self) -> io::Result<(Guardian, mpsc::Receiver<Notice>)> {
        connection::attach(self)
    }

    /// Waits for the first report, but not for long.
    fn is_ready(&mut self, wait_max: Duration) -> io::Result<bool> {
        let timeout = Timespec { tv_sec: wait_max.as_secs() as i64, tv_nsec: wait_max.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.link, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let received = match self.inbox.receive(self.link.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Received::Closed,
            received => received?,
        };
        if received == Received::Closed {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((frame, _)) = self.inbox.next()? else { return Ok(false) };
        match postcard::from_bytes(frame) {
            Ok(Report::Ready) => Ok(true),
            _ => Err(breach("the executable does not speak as a guardian does")),
        }
    }
}

/// The guardian's end of the link is its standard input: no descriptor has to survive the exec under a number of its own.
fn start(launch: &Launch) -> io::Result<(Child, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let mut command = Command::new(&launch.exe);
    command.arg0("chrono-flow").arg(SUBCOMMAND).arg(&launch.data_dir);
    // Its environment can be read in /proc by what it starts; nothing of the worker's is to be found there.
    command.env_clear();
    let child = command.stdin(theirs).stdout(Stdio::null()).spawn()?;
    Ok((child, ours))
}
