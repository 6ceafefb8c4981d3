//! The program as a process: started on a free port over a data directory, its log read line by line.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::api::Api;

pub use crate::wait::{PATIENCE, eventually, now_ms, wait_until_ms};

/// A directory that is gone after the test: the server works in it, and its data lies in `data`.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The server, ready to be used.
    pub fn start(&self) -> Server {
        self.start_with(&[], &[])
    }

    pub fn start_with(&self, flags: &[&str], env: &[(&str, &str)]) -> Server {
        let mut server = self.launch(flags, env);
        server.wait_ready();
        server
    }

    /// The server, whatever becomes of it.
    pub fn launch(&self, flags: &[&str], env: &[(&str, &str)]) -> Server {
        Server::launch(self.0.path(), &self.path("data"), flags, env)
    }
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        self.0.path()
    }
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    grown: Condvar,
}

/// A process of the program; killed when it is dropped.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    address: Option<String>,
}

impl Server {
    fn launch(dir: &Path, data: &Path, flags: &[&str], env: &[(&str, &str)]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chrono-flow"));
        command.current_dir(dir).arg("--data-dir").arg(data);
        if !flags.contains(&"--http-listen") {
            command.args(["--http-listen", "127.0.0.1:0"]);
        }
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            if name == "RUST_LOG" || name.to_string_lossy().starts_with("CHRONO_FLOW_") {
                command.env_remove(name);
            }
        }
        command.envs(env.iter().copied());
        let mut child = command.spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("it is piped");
        let log = Arc::new(Log::default());
        let grows = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                grows.lines.lock().unwrap().0.push(String::from_utf8_lossy(&line).into_owned());
                grows.grown.notify_all();
            }
            grows.lines.lock().unwrap().1 = true;
            grows.grown.notify_all();
        });
        Server { child, log, address: None }
    }

    /// Waits until the API can be called, be the server ready or not.
    pub fn wait_listening(&mut self) {
        let line = self.wait_log("  API   http://");
        self.address = line.split("http://").nth(1).map(str::to_owned);
    }

    fn wait_ready(&mut self) {
        self.wait_listening();
        eventually("the server is ready", || (self.api().get("/readyz").status == 200).then_some(()));
    }

    /// The host and port of the API.
    pub fn address(&self) -> &str {
        self.address.as_deref().expect("the server was ready")
    }

    pub fn api(&self) -> Api {
        Api::new(self.address())
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().0.clone()
    }

    /// Waits for a line of the log that has `part` in it.
    #[track_caller]
    pub fn wait_log(&self, part: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                let all = lines.0.join("\n");
                drop(lines);
                panic!("the log has no line with {part:?}:\n{all}");
            }
            lines = self.log.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// kill -9, and waits until the process is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end, which must be a good one.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.wait_exit().code(), Some(0), "a stop that was asked for is a success");
    }

    /// Waits until the process and whoever else has its log open have ended.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let status = eventually("the process ends", || self.child.try_wait().unwrap());
        eventually("its log is closed", || self.log.lines.lock().unwrap().1.then_some(()));
        status
    }

    pub fn has_exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the server {}\n{}\n---", self.child.id(), self.log().join("\n"));
        }
    }
}
