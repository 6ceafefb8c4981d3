//! One process of the cluster, over all its lives.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::support::EXE;

pub struct Process {
    dir: PathBuf,
    flags: Vec<String>,
    /// What it logs, in the words of RUST_LOG.
    pub log: &'static str,
    child: Option<Child>,
}

impl Process {
    /// One that works in `dir`; it doesn't run yet.
    pub fn new(dir: &Path, flags: Vec<String>) -> Result<Process> {
        std::fs::create_dir(dir)?;
        Ok(Process { dir: dir.to_owned(), flags, log: "info", child: None })
    }

    /// Starts it, for the first time or again. Its log goes to the file `log` in its directory.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "it runs already");
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = Command::new(EXE);
        command.args(&self.flags).arg("--data-dir").arg(self.dir.join("data"));
        let is_ours = |name: &str| name == "RUST_LOG" || name.starts_with("CHRONO_FLOW_") || name.starts_with("PG");
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.env("RUST_LOG", self.log);
        // SAFETY: the closure makes one system call, and touches no memory that others may hold locked.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context(EXE)?);
        Ok(())
    }

    /// The log of all its lives.
    pub fn read_log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.join("log"))?)
    }

    pub fn is_up(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("it does not run")?.id())
    }

    /// kill -9; what comes of the process is waited for by `bury`.
    pub fn kill(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(self.child.as_ref().context("it does not run")?), Signal::KILL)?)
    }

    pub fn bury(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.bury();
    }
}
