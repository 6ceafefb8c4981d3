//! The guardian process: set-up, one loop around poll(2), and the end. It allocates little, has one thread and does not log; what it
//! can't help it says on standard error.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};

use super::frames::{Inbox, Received};
use super::messages::Report;
use super::signals::ChildEnds;
use super::ward::{Next, Ward};
use super::{LOCK_FILE, PROCESS_NAME, fence};

/// How often the lock of an older guardian is tried.
const LOCK_RETRY_MS: i64 = 20;
/// With so much unsent the agent is behind, and is not listened to until it has read. Beyond it there are at most two reports for each run.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// How often to look whether starts have succeeded, at first and at last.
const START_POLL_MS: (i64, i64) = (1, 64);
/// Spawns between two looks at the other descriptors.
const SPAWNS_PER_TURN_MAX: usize = 8;

/// The hidden subcommand: `chrono-flow guardian <data directory>`, with the link as standard input.
///
/// Call it first thing in `main`, while the process has one thread and is small. It returns when the link is closed and everything
/// beneath this process has ended.
pub fn run_process() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(2).collect();
    let [data_dir] = arguments.as_slice() else {
        complain("this is the inside of a worker and not for use by hand");
        return ExitCode::from(2);
    };
    match run(data_dir.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Like eprintln, but a standard error that is gone is no reason to panic.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "chrono-flow guardian: {what}");
}

fn run(data_dir: &Path) -> io::Result<()> {
    // Out of the terminal's session and process group: ctrl-C and a hang-up are the agent's business.
    rustix::process::setsid()?;
    close_inherited();
    let child_ends = ChildEnds::take_over_signals()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let _ = rustix::thread::set_name(PROCESS_NAME);
    let link = take_link()?;
    let Some(_lock) = wait_for_lock(&link, data_dir)? else { return Ok(()) };
    let mut guardian = Process {
        link,
        child_ends,
        timer: timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
        timer_armed_boot_ms: None,
        inbox: Inbox::new(),
        ward: Ward::new(),
        newest_start: None,
        start_poll_ms: None,
    };
    let outcome = guardian.serve();
    fence::end_everything(guardian.ward.groups());
    outcome
}

/// Closes what the agent had inherited itself from whoever started it, and handed down: no run shall find it.
fn close_inherited() {
    let names = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let numbers: Vec<i32> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: the process has opened nothing itself yet but the directory just read, which is closed already: nobody owns these.
        unsafe { libc::close(number) };
    }
}

/// Moves the link away from standard input, where children would find it, and puts `/dev/null` there, which they shall find.
fn take_link() -> io::Result<OwnedFd> {
    let stdin = rustix::stdio::stdin();
    let link = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
    rustix::net::sockopt::socket_type(&link).map_err(|_| io::Error::other("standard input is no link to an agent"))?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(link)
}

/// Waits until no older guardian of this data directory lives. None if the agent has gone meanwhile.
fn wait_for_lock(link: &OwnedFd, data_dir: &Path) -> io::Result<Option<File>> {
    let path = data_dir.join(LOCK_FILE);
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let mut file = open.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut fds = [PollFd::new(link, PollFlags::empty())];
        let pause = Timespec { tv_sec: 0, tv_nsec: LOCK_RETRY_MS * 1_000_000 };
        poll(&mut fds, Some(&pause))?;
        if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Ok(None);
        }
    }
    // For people: a full disk is no reason not to work.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Some(file))
}

struct Process {
    link: OwnedFd,
    child_ends: ChildEnds,
    timer: OwnedFd,
    timer_armed_boot_ms: Option<u64>,
    inbox: Inbox,
    ward: Ward,
    newest_start: Option<u64>,
    start_poll_ms: Option<i64>,
}

impl Process {
    /// Serves until the link closes or the agent asks for the end.
    fn serve(&mut self) -> io::Result<()> {
        self.ward.report(&Report::Ready)?;
        loop {
            self.ward.settle()?;
            if !self.send()? {
                return Ok(());
            }
            let ready = self.wait()?;
            if ready.is_link_closed {
                return Ok(());
            }
            if ready.is_child_ended {
                self.child_ends.clear();
                self.ward.reap()?;
            }
            self.ward.handle_due()?;
            if ready.is_link_readable && !self.receive()? {
                return Ok(());
            }
            if self.obey()? == Next::Shutdown {
                return Ok(());
            }
        }
    }

    fn wait(&mut self) -> io::Result<Ready> {
        self.arm_timer()?;
        self.pace_start_poll();
        let is_behind = self.ward.out.unsent() > UNSENT_BYTES_MAX;
        let has_work = !is_behind && self.inbox.has_frame();
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, !is_behind && !has_work);
        interest.set(PollFlags::OUT, !self.ward.out.is_empty());
        let mut fds = [
            PollFd::from_borrowed_fd(self.link.as_fd(), interest),
            PollFd::from_borrowed_fd(self.child_ends.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN),
        ];
        let timeout_ms = if has_work { Some(0) } else { self.start_poll_ms };
        let timeout = timeout_ms.map(|ms| Timespec { tv_sec: 0, tv_nsec: ms * 1_000_000 });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let (link, child) = (fds[0].revents(), fds[1].revents());
        let is_timer_fired = !fds[2].revents().is_empty();
        if is_timer_fired {
            let _ = rustix::io::read(&self.timer, &mut [0_u8; 8]); // or it would stay readable
            self.timer_armed_boot_ms = None;
        }
        Ok(Ready {
            is_link_closed: link.intersects(PollFlags::HUP | PollFlags::ERR),
            is_link_readable: link.contains(PollFlags::IN),
            is_child_ended: !child.is_empty(),
        })
    }

    /// Nothing wakes the guardian when a start has succeeded, so while one is under way it looks again: soon, and then less and less often,
    /// for one that hangs. A short run's end comes first and saves the look.
    fn pace_start_poll(&mut self) {
        self.start_poll_ms = match (self.ward.starts.newest(), self.start_poll_ms) {
            (None, _) => None,
            (newest, Some(ms)) if newest == self.newest_start => Some((ms * 2).min(START_POLL_MS.1)),
            (newest, _) => {
                self.newest_start = newest;
                Some(START_POLL_MS.0)
            }
        };
    }

    /// False if the link is closed.
    fn receive(&mut self) -> io::Result<bool> {
        match self.inbox.receive(self.link.as_fd()) {
            Ok(received) => Ok(received == Received::Some),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn obey(&mut self) -> io::Result<Next> {
        let mut spawned = 0;
        while spawned < SPAWNS_PER_TURN_MAX && self.ward.out.unsent() <= UNSENT_BYTES_MAX {
            let Some((frame, fds)) = self.inbox.next()? else { break };
            match self.ward.obey(frame, fds)? {
                Next::Continue => {}
                Next::Spawned => spawned += 1,
                Next::Shutdown => return Ok(Next::Shutdown),
            }
        }
        Ok(Next::Continue)
    }

    /// False if the link is closed.
    fn send(&mut self) -> io::Result<bool> {
        match self.ward.out.send(self.link.as_fd()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A timer on CLOCK_BOOTTIME, because poll's own time-out stands still while the machine is suspended.
    fn arm_timer(&mut self) -> io::Result<()> {
        let due = self.ward.next_due_boot_ms();
        if due == self.timer_armed_boot_ms {
            return Ok(());
        }
        // Zero would disarm it; none is due so early.
        let due_ms = due.unwrap_or(0).min(i64::MAX.unsigned_abs() / 1_000_000);
        let it_value = Timespec { tv_sec: (due_ms / 1000) as i64, tv_nsec: ((due_ms % 1000) * 1_000_000) as _ };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        self.timer_armed_boot_ms = due;
        Ok(())
    }
}

struct Ready {
    is_link_closed: bool,
    is_link_readable: bool,
    is_child_ended: bool,
}
