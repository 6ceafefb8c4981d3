//! A PostgreSQL server of this machine, for one section: its own directory and port, with the settings that it has by default, so that a
//! commit is on disk when it is answered. It does not run as root; where this process does, the server runs as `postgres` or `nobody`.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process, set_parent_process_death_signal};

use crate::support::figures::{Cpu, children_of};

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Postgres {
    server: Child,
    port: u16,
}

impl Postgres {
    /// Starts one that keeps its data in `dir`, and waits until it answers.
    pub fn start(dir: &Path) -> Result<Postgres> {
        let user = user()?;
        let data = dir.join("postgres");
        fs::create_dir(&data)?;
        chown(&data, user.map(|user| user.0), user.map(|user| user.1))?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        let log = File::create(dir.join("postgres-log"))?;
        let mut initdb = program("initdb", user)?;
        initdb.args(["--auth=trust", "--username=bench", "--encoding=UTF8", "--locale=C", "-D"]).arg(&data);
        ensure!(initdb.current_dir(dir).stdout(Stdio::null()).stderr(log.try_clone()?).status()?.success(), "initdb failed");
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = program("postgres", user)?;
        server.current_dir(dir).args(["-c", "unix_socket_directories=", "-p", &port.to_string(), "-D"]).arg(&data);
        // SAFETY: the closure makes one system call, and touches no memory that others may hold locked.
        unsafe {
            server.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::INT))?));
        }
        let server = server.stdout(Stdio::null()).stderr(log).spawn()?;
        let postgres = Postgres { server, port };
        let started = Instant::now();
        while super::database::Database::open(&postgres.url()).is_err() {
            ensure!(started.elapsed() < PATIENCE, "PostgreSQL does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(postgres)
    }

    pub fn url(&self) -> String {
        format!("postgres://bench@127.0.0.1:{}/postgres", self.port)
    }

    /// Processor time of the server and its backends, those that have gone included.
    pub fn cpu(&self) -> Result<Cpu> {
        let server = Cpu::of(self.server.id())?;
        let backends = children_of(self.server.id())?.into_iter().filter_map(|pid| Cpu::of(pid).ok());
        Ok(Cpu { own_ms: server.own_ms + server.children_ms + backends.map(|cpu| cpu.own_ms).sum::<f64>(), children_ms: 0.0 })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, without waiting for clients: the data go too.
        let _ = kill_process(Pid::from_child(&self.server), Signal::QUIT);
        let _ = self.server.wait();
    }
}

/// Whom the server is to run as, if this is root.
fn user() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody")).map(Some).context("root needs a user `postgres` or `nobody` to run PostgreSQL as")
}

fn program(name: &str, user: Option<(u32, u32)>) -> Result<Command> {
    let mut command = Command::new(find(name).with_context(|| format!("there is no `{name}`: PostgreSQL must be installed"))?);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// On the path, or where Debian keeps it; of several the newest.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    let debian = versions.into_iter().rev().map(|version| version.join("bin"));
    std::env::split_paths(&path).chain(debian).map(|folder| folder.join(name)).find(|file| file.is_file())
}
