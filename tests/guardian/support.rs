//! One guardian, its client, and questions to /proc.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono_flow::agent::clock::{Moment, boottime_ms};
use chrono_flow::agent::guardian::{End, Guardian, Launch, Notice, Spawn, SpawnError, Spawned};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Everything waited for comes well before; only a broken promise takes so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Fixture {
    pub guardian: Guardian,
    pub notices: mpsc::Receiver<Notice>,
    pub pid: u32,
    pub dir: tempfile::TempDir,
    token: u64,
}

/// A run that was started, and the reading ends of its output.
pub struct Running {
    pub token: u64,
    pub spawned: Spawned,
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
}

/// A run that is over.
pub struct Outcome {
    pub spawned: Spawned,
    pub stdout: String,
    pub stderr: String,
    pub end: End,
    pub at: Moment,
}

impl Fixture {
    /// A guardian with a lease that does not end by itself.
    pub fn new() -> Fixture {
        let fixture = Fixture::without_lease();
        fixture.guardian.set_lease(u64::MAX, u64::MAX);
        fixture
    }

    pub fn without_lease() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let launched = Guardian::launch(&launch_on(dir.path())).unwrap();
        let pid = launched.pid();
        let (guardian, notices) = launched.attach().unwrap();
        Fixture { guardian, notices, pid, dir, token: 0 }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A request with a token of its own, in the fixture's directory, and the reading ends.
    pub fn request(&mut self, command: &str) -> (Spawn, pipe::Receiver, pipe::Receiver) {
        self.token += 1;
        let ((stdout, out), (stderr, err)) = (output(), output());
        let spawn = Spawn {
            token: self.token,
            command: command.to_owned(),
            env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
            cwd: Some(self.dir.path().to_str().unwrap().to_owned()),
            stdout: out,
            stderr: err,
            not_after_boot_ms: u64::MAX,
            kill_on_lease_end: false,
            kill_grace_ms: 10_000,
        };
        (spawn, stdout, stderr)
    }

    pub async fn start(&mut self, command: &str) -> Running {
        self.start_with(command, |_| {}).await
    }

    pub async fn start_with(&mut self, command: &str, change: impl FnOnce(&mut Spawn)) -> Running {
        let (mut spawn, stdout, stderr) = self.request(command);
        change(&mut spawn);
        let token = spawn.token;
        let spawned = soon(self.guardian.spawn(spawn)).await.unwrap();
        Running { token, spawned, stdout, stderr }
    }

    pub async fn refusal(&mut self, command: &str, change: impl FnOnce(&mut Spawn)) -> SpawnError {
        let (mut spawn, _stdout, _stderr) = self.request(command);
        change(&mut spawn);
        soon(self.guardian.spawn(spawn)).await.unwrap_err()
    }

    pub async fn notice(&mut self) -> Notice {
        soon(self.notices.recv()).await.expect("notices go on while the guardian lives")
    }

    /// Both notices of the only run that is ending.
    pub async fn ended(&mut self, token: u64) -> (End, Moment) {
        let Notice::Exited { token: exited, end, at } = self.notice().await else { panic!("its group can't go before its main process") };
        assert_eq!(exited, token);
        assert_eq!(self.notice().await, Notice::GroupGone { token });
        (end, at)
    }

    pub async fn finish(&mut self, mut running: Running) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        soon(running.stdout.read_to_end(&mut stdout)).await.unwrap();
        soon(running.stderr.read_to_end(&mut stderr)).await.unwrap();
        let (end, at) = self.ended(running.token).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome { spawned: running.spawned, stdout: text(stdout), stderr: text(stderr), end, at }
    }

    pub async fn run(&mut self, command: &str) -> Outcome {
        let running = self.start(command).await;
        self.finish(running).await
    }
}

impl Running {
    /// Waits until the command says so, on standard output.
    pub async fn says(&mut self, expected: &str) {
        let mut said = vec![0; expected.len() + 1];
        soon(self.stdout.read_exact(&mut said)).await.unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), format!("{expected}\n"));
    }
}

pub fn launch_on(data_dir: &Path) -> Launch {
    Launch { exe: PathBuf::from(env!("CARGO_BIN_EXE_chrono-flow")), data_dir: data_dir.to_owned() }
}

/// A pipe for one output: the end to read, and the end for the child.
fn output() -> (pipe::Receiver, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (pipe::Receiver::from_owned_fd(reader.into()).unwrap(), writer.into())
}

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it should have happened by now")
}

/// Polls until it is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}: not so after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls until the file holds a line, and reads the number in it.
pub async fn number_in(path: &Path) -> u32 {
    until(&path.display().to_string(), || std::fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n'))).await;
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

pub fn in_ms(ms: u64) -> u64 {
    boottime_ms() + ms
}

/// A field of /proc/<pid>/stat by the number that proc(5) gives it, from 3 on; None if there is no such process.
pub fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number - 3).map(str::to_owned)
}

/// There is such a process, and it is no zombie.
pub fn is_alive(pid: u32) -> bool {
    stat_field(pid, 3).is_some_and(|state| state != "Z" && state != "X")
}

pub fn children_of(parent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat_field(*pid, 4) == Some(parent.to_string())).collect()
}

pub fn open_files_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Sends a signal; a group's number is negative.
pub fn signal(target: i32, name: &str) {
    let status = std::process::Command::new("/bin/sh").args(["-c", "kill -s \"$1\" -- \"$2\"", "sh", name, &target.to_string()]).status();
    assert!(status.unwrap().success(), "kill -s {name} {target}");
}
