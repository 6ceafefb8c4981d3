//! A client command, run to its end.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::server::Server;

pub struct Shell {
    server: String,
    env: Vec<(String, String)>,
}

/// What a command left behind.
pub struct Left {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Shell {
    pub fn new(server: &Server) -> Shell {
        Shell::at(&format!("http://{}", server.address()))
    }

    pub fn at(server: &str) -> Shell {
        Shell { server: server.to_owned(), env: Vec::new() }
    }

    pub fn env(mut self, name: &str, value: &str) -> Shell {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chrono-flow"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHRONO_FLOW_") {
                command.env_remove(name);
            }
        }
        command.env("CHRONO_FLOW_SERVER", &self.server).env_remove("VISUAL").envs(self.env.iter().map(|(name, value)| (name, value)));
        command.args(args).stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Left {
        left(self.command(args).output().expect("the program starts"))
    }

    pub fn run_with_input(&self, args: &[&str], input: &str) -> Left {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("the program reads");
        left(child.wait_with_output().expect("it ends"))
    }

    /// The output of a command that succeeds.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let left = self.run(args);
        assert_eq!(left.code, 0, "{args:?}\n{}\n{}", left.out, left.err);
        left.out
    }

    /// The same as JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[&["-o", "json"], args].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// What a command says that fails with this code.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let left = self.run(args);
        assert_eq!(left.code, code, "{args:?}\n{}\n{}", left.out, left.err);
        assert!(!left.err.contains("panicked"), "{}", left.err);
        left.err
    }
}

pub fn left(output: Output) -> Left {
    Left {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
