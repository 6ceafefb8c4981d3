//! The guardian's own signals: all blocked, so that neither a terminal's ctrl-C nor a service manager's SIGTERM ends it, and the end of a
//! child is read from a descriptor. Children get the default dispositions and an empty mask (see `spawn`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Linux numbers its signals from 1 to 64.
const SIGNAL_MAX: libc::c_int = 64;

/// Becomes readable when a child has ended.
pub(super) struct ChildEnds {
    fd: OwnedFd,
}

impl ChildEnds {
    /// Sets every disposition to its default (whatever the agent or its starter ignored would be inherited by every run), and blocks
    /// every signal that can be blocked. Call it in a process with one thread.
    pub fn take_over_signals() -> io::Result<ChildEnds> {
        for signal in 1..=SIGNAL_MAX {
            // SAFETY: SIG_DFL installs no handler. SIGKILL, SIGSTOP and libc's own signals are refused, and there is nothing to reset.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        let mut all = MaybeUninit::uninit();
        let mut child = MaybeUninit::uninit();
        // SAFETY: both sets are initialised before they are read; the flags are those of signalfd(2); the descriptor is new and ours.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(child.as_mut_ptr());
            libc::sigaddset(child.as_mut_ptr(), libc::SIGCHLD);
            if libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, child.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(ChildEnds { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// Takes the pending signal, if there is one. Any number of ended children may stand behind it.
    pub fn clear(&self) {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        // Nothing pending (EAGAIN) is as good as cleared.
        let _ = rustix::io::read(&self.fd, &mut info);
    }
}

impl AsFd for ChildEnds {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
