//! Starting `sh -c` by posix_spawn(3): a vfork underneath, whose cost does not grow with the process, unlike fork.
//!
//! The standard library's `Command` is not used because it hands its own signal mask down, and the guardian blocks every signal.
//! A child gets: its own process group, an empty signal mask, default dispositions (the guardian has no others), `/dev/null` as standard
//! input (the guardian's own), the two descriptors given as output and error, and nothing else: all others are close-on-exec.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Access, Mode, OFlags};
use rustix::process::Pid;

use super::messages::SpawnOrder;

const SHELL: &CStr = c"/bin/sh";
/// Linux limits one argument to 128 KiB (MAX_ARG_STRLEN); a longer command is handed over in parts of this size.
const ARGUMENT_BYTES_MAX: usize = 100 * 1024;

/// Why nothing was started.
#[derive(Debug)]
pub(super) struct Failure {
    pub errno: i32,
    pub text: String,
}

/// Starts processes; holds what all of them share.
pub(super) struct Spawner {
    attributes: Box<libc::posix_spawnattr_t>,
}

impl Spawner {
    pub fn new() -> io::Result<Spawner> {
        let flags = (libc::POSIX_SPAWN_SETPGROUP | libc::POSIX_SPAWN_SETSIGMASK) as libc::c_short;
        let mut attributes = Box::new(MaybeUninit::uninit());
        let mut mask = MaybeUninit::uninit();
        // SAFETY: init initialises the attributes before they are used, sigemptyset the mask; the attributes stay where they are (boxed).
        unsafe {
            check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            check(libc::posix_spawnattr_setflags(attributes.as_mut_ptr(), flags))?;
            check(libc::posix_spawnattr_setpgroup(attributes.as_mut_ptr(), 0))?;
            libc::sigemptyset(mask.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(attributes.as_mut_ptr(), mask.as_ptr()))?;
            Ok(Spawner { attributes: attributes.assume_init() })
        }
    }

    /// Starts the command; on return the child has its group and runs the shell.
    pub fn spawn(&self, order: &SpawnOrder<'_>, stdout: &OwnedFd, stderr: &OwnedFd) -> Result<Pid, Failure> {
        let arguments = arguments(order.command)?;
        let environment = environment(&order.env)?;
        let cwd = order.cwd.map(|cwd| c_string(cwd, "the working directory")).transpose()?;
        let actions = Actions::new(stdout, stderr, cwd.as_deref()).map_err(|error| failure(error, "spawn"))?;
        let mut pid = 0;
        // SAFETY: attributes and actions are initialised, both vectors end with a null pointer and point into strings that live on.
        let errno = unsafe {
            let argv = pointers(&arguments);
            let envp = pointers(&environment);
            libc::posix_spawn(&mut pid, SHELL.as_ptr(), &actions.inner, &*self.attributes, argv.as_ptr(), envp.as_ptr())
        };
        if errno != 0 {
            return Err(explain(errno, order.cwd));
        }
        Pid::from_raw(pid).ok_or_else(|| failure(io::Error::other("no process id"), "spawn"))
    }
}

/// `sh -c <command>`. A longer command than an argument may be comes in parts, which the shell itself puts together: `eval` sees them
/// before `shift` takes them away, so the command finds no parameters, as it would behind `-c`.
fn arguments(command: &str) -> Result<Vec<CString>, Failure> {
    let mut arguments = vec![c"sh".to_owned(), c"-c".to_owned()];
    if command.len() <= ARGUMENT_BYTES_MAX {
        if command.starts_with(['-', '+']) {
            arguments.push(c"--".to_owned()); // else the shell would read the command as options
        }
        arguments.push(c_string(command, "the command")?);
        return Ok(arguments);
    }
    let parts = parts(command);
    let references: String = (1..=parts.len()).map(|number| format!("${{{number}}}")).collect();
    arguments.push(c_string(&format!("eval \"shift {}; {references}\"", parts.len()), "the command")?);
    arguments.push(c"sh".to_owned());
    for part in parts {
        arguments.push(c_string(part, "the command")?);
    }
    Ok(arguments)
}

fn parts(mut command: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while !command.is_empty() {
        let (part, rest) = command.split_at(command.floor_char_boundary(ARGUMENT_BYTES_MAX));
        parts.push(part);
        command = rest;
    }
    parts
}

fn environment(pairs: &[(&str, &str)]) -> Result<Vec<CString>, Failure> {
    pairs
        .iter()
        .map(|(name, value)| {
            if name.is_empty() || name.contains('=') {
                return Err(failure(io::Error::from_raw_os_error(libc::EINVAL), "a variable's name is empty or contains `=`"));
            }
            c_string(&format!("{name}={value}"), "the environment")
        })
        .collect()
}

fn c_string(text: &str, what: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure { errno: libc::EINVAL, text: format!("{what} contains a NUL byte") })
}

/// A C vector of the strings: it points into them and ends with a null pointer.
fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

/// What the child does between vfork and exec.
struct Actions {
    inner: libc::posix_spawn_file_actions_t,
}

impl Actions {
    fn new(stdout: &OwnedFd, stderr: &OwnedFd, cwd: Option<&CStr>) -> io::Result<Actions> {
        let mut inner = MaybeUninit::uninit();
        // SAFETY: init initialises the actions; from then on `Actions` destroys them, also when one of the additions fails.
        unsafe {
            check(libc::posix_spawn_file_actions_init(inner.as_mut_ptr()))?;
            let mut actions = Actions { inner: inner.assume_init() };
            check(libc::posix_spawn_file_actions_adddup2(&mut actions.inner, stdout.as_raw_fd(), libc::STDOUT_FILENO))?;
            check(libc::posix_spawn_file_actions_adddup2(&mut actions.inner, stderr.as_raw_fd(), libc::STDERR_FILENO))?;
            if let Some(cwd) = cwd {
                check(libc::posix_spawn_file_actions_addchdir_np(&mut actions.inner, cwd.as_ptr()))?;
            }
            Ok(actions)
        }
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.inner) };
    }
}

/// posix_spawn gives one error for all that the child does; whether the directory was at fault is asked again.
fn explain(errno: i32, cwd: Option<&str>) -> Failure {
    if let Some(cwd) = cwd {
        let opened = rustix::fs::open(cwd, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        if let Err(error) = opened.and_then(|_| rustix::fs::access(cwd, Access::EXEC_OK)) {
            return failure(error.into(), &format!("working directory `{cwd}`"));
        }
    }
    failure(io::Error::from_raw_os_error(errno), &SHELL.to_string_lossy())
}

fn failure(error: io::Error, what: &str) -> Failure {
    Failure { errno: error.raw_os_error().unwrap_or(libc::EINVAL), text: format!("{what}: {error}") }
}

/// The posix_spawn family returns its error instead of setting errno.
fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_cut_between_characters_and_nothing_is_lost() {
        let command = "é".repeat(ARGUMENT_BYTES_MAX) + "x";
        let parts = parts(&command);
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() <= ARGUMENT_BYTES_MAX));
        assert_eq!(parts.concat(), command);
    }

    #[test]
    fn what_c_strings_cannot_hold_is_refused() {
        assert!(arguments("echo \0").is_err());
        assert!(environment(&[("A=B", "c")]).is_err());
        assert!(environment(&[("", "c")]).is_err());
        assert!(environment(&[("A", "\0")]).is_err());
        assert_eq!(environment(&[("A", "b=c")]).unwrap(), [c"A=b=c".to_owned()]);
    }
}
