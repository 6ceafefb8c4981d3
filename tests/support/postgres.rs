//! A PostgreSQL server of a test's own: on a free port of the loopback interface, in a directory that goes with it. It can be stopped,
//! killed, paused and started again; each database in it is as fresh as it was made.
//!
//! The first server of all makes a template directory, which the others copy: `initdb` takes a second, a copy some milliseconds. The server
//! refuses to run as root; where the tests do, it runs as `postgres` or `nobody`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

#[path = "netns.rs"]
pub mod netns;

/// The superuser that tests log in as.
pub const USER: &str = "chrono";
/// With characters that mean something in a URL, a connection string or a shell.
pub const PASSWORD: &str = "p@ss'w:rd/?";
const START_S_MAX: u64 = 60;
const STOP_S_MAX: u64 = 30;

/// A running (or stopped) server. Dropping it ends it and removes its files.
pub struct Postgres {
    folder: TempDir,
    host: String,
    netns: Option<Arc<OwnedFd>>,
    port: u16,
    server: Option<Child>,
    databases: AtomicU32,
    settings: Vec<String>,
}

impl Postgres {
    pub fn start() -> Postgres {
        Postgres::start_with(&[])
    }

    /// With settings of `postgresql.conf`, as `name=value`.
    pub fn start_with(settings: &[&str]) -> Postgres {
        let mut postgres = Postgres::prepare(settings);
        postgres.start_again();
        postgres
    }

    /// A server that has its port, but is not running yet.
    pub fn prepare(settings: &[&str]) -> Postgres {
        Postgres::prepare_at("127.0.0.1", None, settings)
    }

    /// The same on an address of a network namespace, for whoever is in its network.
    pub fn prepare_at(host: &str, netns: Option<Arc<OwnedFd>>, settings: &[&str]) -> Postgres {
        let folder = new_folder();
        copy(&template(), &folder.path().join("data"));
        if netns.is_some() {
            let mut hosts = fs::OpenOptions::new().append(true).open(folder.path().join("data/pg_hba.conf")).unwrap();
            writeln!(hosts, "host all all samenet scram-sha-256").unwrap();
        }
        own(&folder.path().join("data"));
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Postgres::in_folder(folder, host, netns, settings)
    }

    fn in_folder(folder: TempDir, host: &str, netns: Option<Arc<OwnedFd>>, settings: Vec<String>) -> Postgres {
        // Port 0 would be chosen by the server and change with each start.
        let port = netns::within(netns.as_deref(), || TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port());
        Postgres { folder, host: host.to_owned(), netns, port, server: None, databases: AtomicU32::new(0), settings }
    }

    /// A second server that follows this one, which runs, and is ready to take its place.
    pub fn standby(&self) -> Postgres {
        let folder = new_folder();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
        own(&data);
        let mut command = as_unprivileged(binaries().join("pg_basebackup"));
        command.env("PGPASSWORD", PASSWORD).arg("-D").arg(&data).args(["-h", &self.host, "-p", &self.port.to_string(), "-U", USER]);
        command.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--no-password"]);
        let made = command.output().unwrap();
        assert!(made.status.success(), "pg_basebackup failed: {}", String::from_utf8_lossy(&made.stderr));
        let mut standby = Postgres::in_folder(folder, &self.host, self.netns.clone(), self.settings.clone());
        standby.start_again();
        standby
    }

    /// Makes a standby take writes.
    pub fn promote(&self) {
        let mut command = as_unprivileged(binaries().join("pg_ctl"));
        let promoted = command.args(["promote", "-w", "-D"]).arg(self.data()).output().unwrap();
        assert!(promoted.status.success(), "it can't be promoted: {}\n{}", String::from_utf8_lossy(&promoted.stderr), self.log());
    }

    /// Changes a setting of the server that runs.
    pub fn set(&self, name: &str, value: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf")).unwrap();
        writeln!(file, "{name} = '{value}'").unwrap();
        kill_process(pid_of(self.server.as_ref().expect("it runs")), Signal::HUP).unwrap();
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Puts a file that the server alone may read into its directory.
    pub fn put_private(&self, name: &str, content: &str) {
        let path = self.data().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        own(&path);
    }

    /// Of the database that every server has.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}:p%40ss%27w%3Ard%2F%3F@{}:{}/{database}", self.host, self.port)
    }

    /// The URL of a new and empty database.
    pub async fn fresh_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.client(&self.url()).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        self.url_of(&name)
    }

    /// A connection in plain text.
    pub async fn client(&self, url: &str) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Starts the server where it was left, and waits until it answers.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let mut command = as_unprivileged(binaries().join("postgres"));
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-c", &format!("listen_addresses={}", self.host)]);
        command.args(["-c", "unix_socket_directories=", "-c", "max_connections=60", "-c", "shared_buffers=16MB", "-c", "min_wal_size=2MB"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.server = Some(netns::within(self.netns.as_deref(), || command.spawn()).unwrap());
        let deadline = Instant::now() + Duration::from_secs(START_S_MAX);
        while !self.is_ready() {
            assert!(Instant::now() < deadline && self.is_running(), "the server did not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| server.try_wait().unwrap().is_none())
    }

    /// Asks as a client begins: any answer but "starting up" will do.
    fn is_ready(&self) -> bool {
        fn ask(place: (&str, u16)) -> std::io::Result<bool> {
            let mut stream = std::net::TcpStream::connect(place)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let body = format!("\0\x03\0\0user\0{USER}\0database\0postgres\0\0");
            stream.write_all(&[&(body.len() as u32 + 4).to_be_bytes(), body.as_bytes()].concat())?;
            let mut kind = [0u8];
            stream.read_exact(&mut kind)?;
            Ok(kind[0] == b'R') // it asks for the password
        }
        ask((&self.host, self.port)).unwrap_or(false)
    }

    /// What the server has written since it was started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends the server in order, and its connections with it.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Ends the server without a checkpoint: the next start recovers from its log.
    pub fn stop_immediate(&mut self) {
        self.end(Signal::QUIT);
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut server) = self.server.take() else { return };
        kill_process(pid_of(&server), signal).ok();
        let deadline = Instant::now() + Duration::from_secs(STOP_S_MAX);
        while server.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                server.kill().ok();
                server.wait().ok();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops all of its processes as they are; connections stay, and nothing answers.
    pub fn pause(&self) {
        self.signal_all(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let server = pid_of(self.server.as_ref().expect("it runs"));
        kill_process(server, signal).unwrap(); // first, so that it makes no more children
        for child in children(server) {
            kill_process(child, signal).ok(); // it may have ended
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.resume();
            self.stop_immediate();
        }
    }
}

fn new_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("chrono-flow-postgres-").tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn children(parent: Pid) -> Vec<Pid> {
    let path = format!("/proc/{0}/task/{0}/children", parent.as_raw_nonzero());
    if let Ok(text) = fs::read_to_string(path) {
        return text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    }
    let listed = Command::new("ps").args(["-o", "pid=", "--ppid", &parent.as_raw_nonzero().to_string()]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout).split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Where the server's programs are: the newest of Debian's, or what is in the path.
pub fn binaries() -> PathBuf {
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, folder)| folder.join("initdb").exists())
        .collect();
    debian.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    debian.pop().map(|(_, folder)| folder).or(in_path).expect("PostgreSQL's server is missing: install the package `postgresql`")
}

/// The user that the server runs as, where the tests run as root.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("a user other than root"))
}

fn as_unprivileged(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = unprivileged() {
        command.uid(user).gid(group);
    }
    command.current_dir("/").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command
}

/// Gives a file, or a directory with all in it, to the user that the server runs as.
fn own(path: &Path) {
    let Some((user, group)) = unprivileged() else { return };
    chown(path, Some(user), Some(group)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// A data directory that `initdb` has made, for this version of PostgreSQL; made by whoever comes first.
fn template() -> PathBuf {
    let version = Command::new(binaries().join("postgres")).arg("--version").output().unwrap();
    let version: String = String::from_utf8_lossy(&version.stdout).chars().filter(char::is_ascii_alphanumeric).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).unwrap();
    let ready = folder.join(format!("postgres-template-2-{version}"));
    let lock = fs::File::create(folder.join("postgres-template.lock")).unwrap();
    lock.lock().unwrap(); // until it is dropped
    if !ready.exists() {
        // Where the unprivileged user may go, and then moved by root.
        let work = tempfile::Builder::new().prefix("chrono-flow-initdb-").tempdir().unwrap();
        own(work.path());
        let password = work.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        own(&password);
        let mut command = as_unprivileged(binaries().join("initdb"));
        command.arg("-D").arg(work.path().join("data")).args([
            "-U",
            USER,
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--wal-segsize=1",
        ]);
        command.args(["--auth=scram-sha-256", "--pwfile"]).arg(&password);
        let made = command.output().unwrap();
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let unfinished = folder.join(format!("postgres-template-{}", std::process::id()));
        copy(&work.path().join("data"), &unfinished);
        fs::rename(&unfinished, &ready).unwrap();
    }
    ready
}
