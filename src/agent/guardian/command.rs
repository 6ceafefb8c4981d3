//! A command in the shape that execve(2) wants: what a spawn order says, as C strings.

use std::ffi::{CStr, CString, c_char};

use super::messages::SpawnOrder;

pub(super) const SHELL: &CStr = c"/bin/sh";
/// Linux limits one argument to 128 KiB (MAX_ARG_STRLEN); a longer command is handed over in parts of this size.
const ARGUMENT_BYTES_MAX: usize = 100 * 1024;

/// Why nothing was started.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Its time to start ran out on the way.
    TooLate,
    Error {
        errno: i32,
        text: String,
    },
}

pub(super) struct Command {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    cwd: Option<CString>,
}

impl Command {
    pub fn new(order: &SpawnOrder<'_>) -> Result<Command, Failure> {
        let cwd = order.cwd.map(|cwd| c_string(cwd, "the working directory")).transpose()?;
        Ok(Command { arguments: arguments(order.command)?, environment: environment(&order.env)?, cwd })
    }

    pub fn cwd(&self) -> Option<&CStr> {
        self.cwd.as_deref()
    }

    /// For execve: points into this command.
    pub fn argv(&self) -> Vec<*const c_char> {
        pointers(&self.arguments)
    }

    /// For execve: points into this command.
    pub fn envp(&self) -> Vec<*const c_char> {
        pointers(&self.environment)
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
    let variable = |(name, value): &(&str, &str)| {
        if name.is_empty() || name.contains('=') {
            return Err(Failure::Error { errno: libc::EINVAL, text: format!("`{name}` can't be the name of a variable") });
        }
        c_string(&format!("{name}={value}"), "the environment")
    };
    pairs.iter().map(variable).collect()
}

fn c_string(text: &str, what: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::Error { errno: libc::EINVAL, text: format!("{what} contains a NUL byte") })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
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
