//! One process of the cluster, over all its lives: a directory of its own, in which its log and its data lie.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::postgres::netns;
use crate::wait::eventually;

/// Lines of a node's log that a failed test shows.
const TAIL_LINES: usize = 80;

pub struct Node {
    pub name: String,
    dir: PathBuf,
    flags: Vec<String>,
    /// What is added to its environment, from the next start on.
    pub env: Vec<(&'static str, PathBuf)>,
    /// Where it is, unless on this machine's own network.
    pub netns: Option<Arc<OwnedFd>>,
    child: Option<Child>,
    /// Where the log of this life begins.
    life_at: u64,
    /// Who was stopped, and must not stay so.
    frozen: Vec<Pid>,
}

impl Node {
    /// A node that works in `dir`; it doesn't run yet.
    pub fn new(name: &str, dir: &Path, flags: Vec<String>) -> Node {
        fs::create_dir(dir).expect("a directory for the node");
        let (name, dir, env, netns) = (name.to_owned(), dir.to_owned(), Vec::new(), None);
        Node { name, dir, flags, env, netns, child: None, life_at: 0, frozen: Vec::new() }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts it, for the first time or again. It dies with the thread that started it.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log");
        self.life_at = log.metadata().expect("a log").len();
        let mut command = self.program();
        command.args(&self.flags).arg("--data-dir").arg(self.data_dir());
        command.env("RUST_LOG", "info,chrono_flow::agent=debug").envs(self.env.iter().map(|(name, value)| (name, value)));
        let stdout = log.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        // SAFETY: the closure makes one system call, and touches no memory that others may hold locked.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        self.child = Some(netns::within(self.netns.as_deref(), || command.spawn()).expect("the program starts"));
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chrono-flow"));
        command.current_dir(&self.dir);
        for (name, _) in std::env::vars_os() {
            if name == "RUST_LOG" || name.to_string_lossy().starts_with("CHRONO_FLOW_") || name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
    }

    /// What `chrono-flow healthcheck` says with this node's flags; an error where its exit code is not 0.
    pub fn healthcheck(&self, more: &[&str]) -> Result<String, String> {
        let output = self.program().arg("healthcheck").args(more).args(&self.flags).output().expect("the program starts");
        let says = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(says(&output.stdout)) } else { Err(says(&output.stderr)) }
    }

    /// Whether it was started, and neither killed nor stopped since.
    pub fn is_up(&self) -> bool {
        self.child.is_some() && self.frozen.is_empty()
    }

    pub fn has_exited(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("a child").is_some())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// kill -9, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let own = Pid::from_child(&child);
            self.frozen.retain(|pid| *pid != own);
            let _ = child.kill();
            let _ = child.wait();
        }
        self.thaw();
    }

    /// SIGSTOP for the process alone.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
        self.frozen.push(self.pid());
    }

    /// SIGSTOP for the process and for its guardian, as if the machine stood still (its commands go on).
    pub fn freeze_all(&mut self) {
        let guardian = self.guardian().expect("a worker has a guardian");
        kill_process(guardian, Signal::STOP).expect("the guardian is there");
        self.frozen.push(guardian);
        self.freeze();
    }

    /// SIGCONT for whoever was stopped.
    pub fn thaw(&mut self) {
        for pid in self.frozen.drain(..) {
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// The guardian of a worker: its child of that name.
    pub fn guardian(&self) -> Option<Pid> {
        let parent = self.pid();
        children(parent).into_iter().find(|pid| {
            let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            command.split(|byte| *byte == 0).nth(1) == Some(b"guardian")
        })
    }

    /// SIGTERM, and waits for the end, which must be a good one.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        assert_eq!(status.code(), Some(0), "{}: a stop that was asked for is a success", self.name);
    }

    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        let status = eventually("the process ends", || child.try_wait().expect("a child"));
        self.frozen.clear();
        status
    }

    /// Its disk is gone.
    pub fn wipe(&self) {
        assert!(self.child.is_none(), "{} still runs", self.name);
        fs::remove_dir_all(self.data_dir()).expect("it had data");
    }

    /// Changes a flag's value, from the next start on.
    pub fn set_flag(&mut self, flag: &str, value: &str) {
        let at = self.flags.iter().position(|known| known == flag).unwrap_or_else(|| panic!("{} has no {flag}", self.name));
        self.flags[at + 1] = value.to_owned();
    }

    /// The log of all its lives.
    pub fn log(&self) -> Vec<String> {
        lines(&self.log_path(), 0)
    }

    /// The log of this life, or of the last one.
    pub fn log_of_life(&self) -> Vec<String> {
        lines(&self.log_path(), self.life_at)
    }

    /// How far the log has come, for `log_from`.
    pub fn log_end(&self) -> u64 {
        fs::metadata(self.log_path()).map_or(0, |log| log.len())
    }

    pub fn log_from(&self, at: u64) -> Vec<String> {
        lines(&self.log_path(), at)
    }

    /// For people: how the log ends.
    pub fn tail(&self) -> String {
        let log = self.log();
        log[log.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lines(path: &Path, from: u64) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    if let Ok(mut log) = File::open(path) {
        log.seek(SeekFrom::Start(from)).expect("a file");
        log.read_to_end(&mut bytes).expect("it can be read");
    }
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// Whose parent it is.
fn children(parent: Pid) -> Vec<Pid> {
    let is_child = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        // pid (name) state ppid …, and the name may hold anything.
        let parent_of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1).map(str::to_owned));
        parent_of.and_then(|text| text.parse().ok()).and_then(Pid::from_raw) == Some(parent)
    };
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter(is_child).collect()
}
