//! A worker as a process of its own: it listens, whether there are controllers or not.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use chrono_flow::rpc::dial::TcpDial;
use chrono_flow::rpc::handshake::Name;
use chrono_flow::rpc::secret::ClusterSecret;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::support::{secret, until};

const SECRET: &str = "a secret of the cluster";

pub struct Process {
    pub address: String,
    pub secret: Arc<ClusterSecret>,
    dir: tempfile::TempDir,
    child: Child,
}

impl Process {
    pub async fn start() -> Process {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), SECRET).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_chrono-flow"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CHRONO_FLOW_")) {
            command.env_remove(name);
        }
        // Nobody listens on port 1.
        command.args(["--role", "worker", "--node-id", "w", "--controllers", "127.0.0.1:1", "--rpc-listen", "127.0.0.1:0"]);
        command.arg("--rpc-advertise").arg("127.0.0.1:1");
        command.arg("--cluster-secret-file").arg(dir.path().join("secret")).arg("--data-dir").arg(dir.path().join("data"));
        command.env("RUST_LOG", "info").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut process = Process { address: String::new(), secret: secret(SECRET), dir, child };
        let path = process.log_path();
        let found = async || address_in(&fs::read_to_string(&path).unwrap_or_default()).is_some();
        until("the worker listens", found).await;
        process.address = address_in(&process.log()).unwrap();
        process
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap()
    }

    /// A member of the cluster, as this worker sees it.
    pub fn member(&self) -> TcpDial {
        TcpDial::new(Some(self.secret.clone()), watch::Sender::new(None).subscribe(), Name::Controller(1))
    }

    /// What the process has in memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory is known");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Files and sockets that it holds.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the process lives").count()
    }

    /// It lives, and no part of it has panicked.
    #[track_caller]
    pub fn is_well(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "the process has ended: {}", self.log());
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }

    /// SIGTERM, and the end in good order.
    pub async fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let child = &mut self.child;
        until("the worker stops", async || child.try_wait().unwrap().is_some()).await;
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address_in(log: &str) -> Option<String> {
    let rest = log.split("slots listens on ").nth(1)?;
    rest.contains(' ').then(|| rest.split(' ').next().unwrap_or_default().to_owned())
}
