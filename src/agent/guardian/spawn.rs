//! Starting processes: as vfork does it, in the parent's memory, so that nothing is copied; but the parent goes on at once instead of
//! standing still until the child's exec.
//!
//! That is why neither `std::process::Command` nor posix_spawn(3) is used. A vfork holds the guardian up for a third of a short run, and
//! for good if the child's chdir hangs (a dead network mount), and the fence with it. `Command` also hands its own signal mask down.
//!
//! A child gets: its own process group, an empty signal mask, default dispositions (the guardian has no others), `/dev/null` as standard
//! input (the guardian's own), the two descriptors given as output and error, and nothing else: all others are close-on-exec.
//!
//! How that is safe: a child runs on a stack of its own, allocates nothing, calls only thin wrappers of system calls, and shares nothing
//! that changes with the parent but two atomics and the C library's errno, which it writes only when it fails. Its slot, with the strings
//! it reads and its stack, is not touched until the kernel says that the child has left this memory, by exec or by its end
//! (CLONE_CHILD_CLEARTID in clone(2)).

use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::process::{Pid, setpgid};

use super::command::{Command, Failure, SHELL};
use super::proc_table;
use crate::agent::clock::{Moment, boottime_ms, boottime_ns};

/// Starts at a time; not fewer than the client's window.
const STARTS_MAX: usize = 64;
/// A child needs a few hundred bytes of it.
const STACK_BYTES: usize = 16 * 1024;
/// Linux shows times to programs in hundredths of a second (USER_HZ), whatever its own clock tick is.
const NANOS_PER_TICK: u64 = 10_000_000;

/// A process that was made. Whether it became the command is told by [`Starts::take_done`].
#[derive(Clone, Copy)]
pub(super) struct Started {
    pub pid: Pid,
    pub start_time_ticks: u64,
    pub at: Moment,
}

/// A start that has come to its end.
pub(super) struct Done {
    pub token: u64,
    pub outcome: Result<Started, Failure>,
}

/// The starts under way.
#[derive(Default)]
pub(super) struct Starts {
    under_way: Vec<Start>,
    /// Stacks to use again.
    stacks: Vec<Stack>,
}

struct Start {
    token: u64,
    started: Started,
    command: Command,
    stack: Stack,
    plan: Box<Plan>,
    /// What `plan` points to.
    _vectors: [Vec<*const c_char>; 2],
}

#[repr(C, align(16))]
struct Stack(Box<[MaybeUninit<u128>; STACK_BYTES / 16]>);

/// What the child reads and writes.
struct Plan {
    argv: *const *const c_char,
    envp: *const *const c_char,
    cwd: *const c_char,
    output: [c_int; 2],
    deadline_boot_ms: u64,
    /// 1 while the child is in this memory; then the kernel writes 0.
    is_here: AtomicU32,
    /// What failed, if something did; written before `is_here` becomes 0.
    failed_step: AtomicI32,
    failed_errno: AtomicI32,
}

const STEP_GROUP: i32 = 1;
const STEP_CWD: i32 = 2;
const STEP_OUTPUT: i32 = 3;
const STEP_DEADLINE: i32 = 4;
const STEP_EXEC: i32 = 5;

impl Starts {
    /// Makes a process that goes on to become the command. Its group exists when this returns.
    /// The child looks at the clock once more before its exec, because its way there may be long.
    pub fn start(&mut self, token: u64, command: Command, output: [&OwnedFd; 2], deadline_boot_ms: u64) -> Result<Started, Failure> {
        if self.under_way.len() >= STARTS_MAX {
            return Err(Failure::Error { errno: libc::EAGAIN, text: format!("{STARTS_MAX} starts are under way already") });
        }
        let vectors = [command.argv(), command.envp()];
        let plan = Box::new(Plan {
            argv: vectors[0].as_ptr(),
            envp: vectors[1].as_ptr(),
            cwd: command.cwd().map_or(std::ptr::null(), |cwd| cwd.as_ptr()),
            output: output.map(AsRawFd::as_raw_fd),
            deadline_boot_ms,
            is_here: AtomicU32::new(1),
            failed_step: AtomicI32::new(0),
            failed_errno: AtomicI32::new(0),
        });
        let mut stack = self.stacks.pop().unwrap_or_else(Stack::new);
        let before_ns = boottime_ns();
        let pid = clone_into(&mut stack, &plan).map_err(|error| failure(error, "a new process"))?;
        let start_time_ticks = start_time_ticks(pid, before_ns, boottime_ns());
        // The child does it too: whoever comes first, the group exists from now on. It fails if the child is past its exec.
        let _ = setpgid(Some(pid), Some(pid));
        let started = Started { pid, start_time_ticks, at: Moment::now() };
        self.under_way.push(Start { token, started, command, stack, plan, _vectors: vectors });
        Ok(started)
    }

    /// The token of the start that began last, of those under way.
    pub fn newest(&self) -> Option<u64> {
        self.under_way.last().map(|start| start.token)
    }

    /// Takes out the starts whose child has become the command, or failed to.
    pub fn take_done(&mut self) -> Vec<Done> {
        let is_done = |start: &mut Start| start.plan.is_here.load(Ordering::Acquire) == 0;
        let mut done = Vec::new();
        for start in self.under_way.extract_if(.., is_done) {
            done.push(Done { token: start.token, outcome: start.outcome() });
            self.stacks.push(start.stack);
        }
        done
    }
}

impl Start {
    fn outcome(&self) -> Result<Started, Failure> {
        let error = io::Error::from_raw_os_error(self.plan.failed_errno.load(Ordering::Relaxed));
        match self.plan.failed_step.load(Ordering::Relaxed) {
            0 => Ok(self.started),
            STEP_GROUP => Err(failure(error, "its process group")),
            STEP_CWD => {
                let cwd = self.command.cwd().unwrap_or_default().to_string_lossy();
                Err(failure(error, &format!("working directory `{cwd}`")))
            }
            STEP_DEADLINE => Err(Failure::TooLate),
            STEP_OUTPUT => Err(failure(error, "its output")),
            _ => Err(failure(error, &SHELL.to_string_lossy())),
        }
    }
}

impl Stack {
    fn new() -> Stack {
        Stack(Box::new([MaybeUninit::uninit(); STACK_BYTES / 16]))
    }

    /// Stacks grow downwards: the end of the memory, a multiple of 16.
    fn top(&mut self) -> *mut c_void {
        self.0.as_mut_ptr_range().end.cast()
    }
}

fn clone_into(stack: &mut Stack, plan: &Plan) -> io::Result<Pid> {
    let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    let argument = std::ptr::from_ref(plan).cast_mut().cast::<c_void>();
    let no_tid = std::ptr::null_mut::<libc::pid_t>();
    // SAFETY: see the module's comment; stack and plan live in a `Start` until the kernel has written 0 to `is_here`.
    let pid = unsafe { libc::clone(child, stack.top(), flags, argument, no_tid, std::ptr::null_mut::<c_void>(), plan.is_here.as_ptr()) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process id"))
}

/// The child, from clone to exec. Async-signal-safe calls only; reading a clock is one.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: the plan outlives the child's stay in this memory, and nothing in it but its atomics changes meanwhile; all pointers are
    // null or lead to C strings, and the vectors end with a null pointer.
    unsafe {
        let plan = &*plan.cast::<Plan>().cast_const();
        if libc::setpgid(0, 0) != 0 {
            fail(plan, STEP_GROUP);
        }
        if !plan.cwd.is_null() && libc::chdir(plan.cwd) != 0 {
            fail(plan, STEP_CWD);
        }
        if libc::dup2(plan.output[0], libc::STDOUT_FILENO) < 0 || libc::dup2(plan.output[1], libc::STDERR_FILENO) < 0 {
            fail(plan, STEP_OUTPUT);
        }
        if boottime_ms() > plan.deadline_boot_ms {
            fail(plan, STEP_DEADLINE);
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        libc::execve(SHELL.as_ptr(), plan.argv, plan.envp);
        fail(plan, STEP_EXEC)
    }
}

fn fail(plan: &Plan, step: i32) -> ! {
    // SAFETY: errno's address is always valid; _exit ends this process only, and runs nothing of the parent's.
    unsafe {
        plan.failed_errno.store(*libc::__errno_location(), Ordering::Relaxed);
        plan.failed_step.store(step, Ordering::Release);
        libc::_exit(127)
    }
}

/// The kernel notes CLOCK_BOOTTIME when it makes a process, and shows it in whole ticks. If the call lies within one tick, that is it, and
/// /proc, whose entry costs as much as a twentieth of a short run, need not be asked.
fn start_time_ticks(pid: Pid, before_ns: u64, after_ns: u64) -> u64 {
    let (first, last) = (before_ns / NANOS_PER_TICK, after_ns / NANOS_PER_TICK);
    if first == last { first } else { proc_table::process(pid.as_raw_nonzero().get()).map_or(first, |process| process.start_time_ticks) }
}

fn failure(error: io::Error, what: &str) -> Failure {
    Failure::Error { errno: error.raw_os_error().unwrap_or(libc::EINVAL), text: format!("{what}: {error}") }
}

#[cfg(test)]
mod tests {
    use rustix::process::{WaitOptions, waitpid};

    use super::*;
    use crate::agent::guardian::messages::SpawnOrder;

    fn run(command: &str, cwd: Option<&str>, deadline_boot_ms: u64) -> (Result<Started, Failure>, Option<i32>) {
        let order =
            SpawnOrder { token: 1, command, env: Vec::new(), cwd, not_after_boot_ms: 0, kill_on_lease_end: false, kill_grace_ms: 0 };
        let null = OwnedFd::from(std::fs::File::options().write(true).open("/dev/null").unwrap());
        let mut starts = Starts::default();
        let started = starts.start(1, Command::new(&order).unwrap(), [&null, &null], deadline_boot_ms).unwrap();
        let (_, status) = waitpid(Some(started.pid), WaitOptions::empty()).unwrap().unwrap();
        let done = starts.take_done().pop().expect("who has ended has left this memory");
        (done.outcome, status.exit_status())
    }

    #[test]
    fn a_child_becomes_its_command_or_says_why_not() {
        let (outcome, code) = run("exit 3", None, u64::MAX);
        assert!(outcome.is_ok() && code == Some(3));
        let (outcome, code) = run("exit 3", Some("/no/such/directory"), u64::MAX);
        assert!(matches!(outcome, Err(Failure::Error { errno: libc::ENOENT, .. })) && code == Some(127));
    }

    #[test]
    fn a_child_that_comes_to_its_exec_too_late_does_not_go_on() {
        let (outcome, code) = run("exit 3", None, boottime_ms() - 1);
        assert!(matches!(outcome, Err(Failure::TooLate)) && code == Some(127));
    }
}
