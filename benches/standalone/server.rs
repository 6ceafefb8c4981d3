//! The real executable on a directory of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono_flow::model::JobSpec;
use chrono_flow::store::Store;
use chrono_flow::store::sqlite::SqliteStore;
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{EXE, bare, now};

/// Everything waited for comes well before.
const PATIENCE: Duration = Duration::from_secs(60);
/// Jobs on their way into the database at once.
const WRITES_AT_ONCE: usize = 1_000;

pub struct Server {
    child: Child,
    pub address: String,
    /// From the start of the process to the first good answer of `/readyz`.
    pub ready_after: Duration,
}

impl Server {
    /// Starts it, and waits until it is ready. Its log goes to the file `log` there.
    pub fn start(dir: &Path, slots: u32) -> Result<Server> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(EXE);
        command.arg("--data-dir").arg(dir).args(["--http-listen", &address, "--slots", &slots.to_string()]);
        command.stderr(File::create(dir.join("log"))?);
        let started = Instant::now();
        let child = command.spawn().context(EXE)?;
        let mut server = Server { child, address, ready_after: Duration::ZERO };
        while get(&server.url("/readyz")).is_err() {
            ensure!(started.elapsed() < PATIENCE, "the server does not get ready; see {}", dir.join("log").display());
            std::thread::sleep(Duration::from_millis(2));
        }
        server.ready_after = started.elapsed();
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Creates a job, and waits until the ledger has it, and so all that were created before.
    pub fn create(&self, name: &str) -> Result<()> {
        let body = format!(r#"{{"name": "{name}", "schedule": "@yearly", "command": ":"}}"#);
        let url = self.url(&format!("/jobs/by-name/{name}"));
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let mut answer = ureq::put(&url).header("content-type", "application/json").send(&body)?;
            let job: serde_json::Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
            // The field is there only while the ledger has it not.
            if job["applied"] != false {
                return Ok(());
            }
        }
        anyhow::bail!("the ledger did not take the job")
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> Result<()> {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            kill_process(pid, Signal::TERM)?;
        }
        ensure!(self.child.wait()?.success(), "the server did not end well");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(url: &str) -> Result<String> {
    Ok(ureq::get(url).call()?.body_mut().read_to_string()?)
}

pub fn database(dir: &Path) -> PathBuf {
    dir.join("chrono-flow.sqlite")
}

/// Fills the database of a server that has not been started yet.
pub fn populate(dir: &Path, jobs: impl Iterator<Item = JobSpec>) -> Result<()> {
    let store = SqliteStore::open(&database(dir))?;
    let now = now();
    bare::runtime()?.block_on(async {
        let mut writes = futures::stream::iter(jobs).map(|job| store.create_job(job, now)).buffer_unordered(WRITES_AT_ONCE);
        while let Some(written) = writes.next().await {
            written?;
        }
        drop(writes);
        store.close().await?;
        Ok(())
    })
}
