//! Three controllers, a worker and the database, as processes of this machine.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono_flow::model::JobSpec;
use serde_json::Value;

use crate::api::Api;
use crate::database::{self, Database};
use crate::postgres::Postgres;
use crate::process::Process;
use crate::support::directory;
use crate::support::figures::{Cpu, guardian_of};

const CONTROLLERS: [u64; 3] = [1, 2, 3];
/// Ports below those that the system gives out; the address is this process's own.
const PORT: u64 = 12_000;
/// Everything waited for comes well before.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub struct Cluster {
    // Dropped in this order: the processes before their directory.
    pub controllers: BTreeMap<u64, Process>,
    pub worker: Process,
    pub database: Database,
    postgres: Postgres,
    host: String,
    dir: tempfile::TempDir,
}

/// Processor time of the parts, in milliseconds.
#[derive(Clone, Copy, Default)]
pub struct Bill {
    pub controllers_ms: f64,
    pub worker_ms: f64,
    pub guardian_ms: f64,
    pub commands_ms: f64,
    pub database_ms: f64,
}

impl Bill {
    pub fn since(self, before: Bill) -> Bill {
        Bill {
            controllers_ms: self.controllers_ms - before.controllers_ms,
            worker_ms: self.worker_ms - before.worker_ms,
            guardian_ms: self.guardian_ms - before.guardian_ms,
            commands_ms: self.commands_ms - before.commands_ms,
            database_ms: self.database_ms - before.database_ms,
        }
    }
}

impl Cluster {
    /// Starts all, and waits until they are ready.
    pub fn start(slots: u32, election_timeout_ms: u64) -> Result<Cluster> {
        Cluster::start_logging(slots, election_timeout_ms, "info")
    }

    /// The same, with a worker that logs so much.
    pub fn start_logging(slots: u32, election_timeout_ms: u64, worker_log: &'static str) -> Result<Cluster> {
        let dir = directory()?;
        let postgres = database::server();
        let host = own_address();
        let places: Vec<String> = CONTROLLERS.iter().map(|id| format!("{host}:{}", PORT + id)).collect();
        let members: Vec<String> = CONTROLLERS.iter().zip(&places).map(|(id, place)| format!("{id}={place}")).collect();
        let mut controllers = BTreeMap::new();
        for (id, place) in CONTROLLERS.iter().zip(&places) {
            let flags = [
                ("--role", "controller".to_owned()),
                ("--node-id", id.to_string()),
                ("--cluster", members.join(",")),
                ("--rpc-listen", place.clone()),
                ("--http-listen", http_address(&host, *id)),
                ("--database-url", postgres.url()),
                ("--election-timeout-ms", election_timeout_ms.to_string()),
            ];
            controllers.insert(*id, process(dir.path(), &format!("controller-{id}"), &flags)?);
        }
        let place = format!("{host}:{}", PORT + 50);
        let flags = [
            ("--role", "worker".to_owned()),
            ("--node-id", "worker-1".to_owned()),
            ("--controllers", places.join(",")),
            ("--rpc-listen", place.clone()),
            ("--rpc-advertise", place),
            ("--slots", slots.to_string()),
        ];
        let mut worker = process(dir.path(), "worker-1", &flags)?;
        worker.log = worker_log;
        let database = Database::open(&postgres.url())?;
        let mut cluster = Cluster { controllers, worker, database, postgres, host, dir };
        for process in cluster.controllers.values_mut().chain([&mut cluster.worker]) {
            process.start()?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    pub fn api(&self, id: u64) -> Api {
        Api::new(&http_address(&self.host, id))
    }

    /// Waits until all controllers are ready and have the same leader; answers who that is.
    pub fn wait_ready(&self) -> Result<u64> {
        let apis: Vec<Api> = CONTROLLERS.iter().map(|id| self.api(*id)).collect();
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let leaders: Vec<Option<u64>> = apis.iter().map(|api| api.cluster().ok()?["leader"].as_u64()).collect();
            let is_ready = || apis.iter().all(|api| api.get("/readyz").is_ok());
            if let Some(leader) = leaders[0].filter(|leader| leaders.iter().all(|other| *other == Some(*leader)) && is_ready()) {
                return Ok(leader);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        let answers: Vec<String> = apis.iter().map(|api| format!("{:?} {:?}", api.cluster(), api.get("/readyz"))).collect();
        bail!("the cluster does not get ready; it says {}; logs were in {}", answers.join("; "), self.dir.path().display())
    }

    /// Brings jobs in through the database, and waits until every controller's ledger has them.
    pub fn populate(&mut self, name: &str, jobs: impl Iterator<Item = JobSpec>) -> Result<()> {
        self.database.populate(jobs)?;
        // The feed goes in order: with this one all that came before are there.
        let body = format!(r#"{{"name": "{name} end", "schedule": "@yearly", "command": ":"}}"#);
        for id in CONTROLLERS {
            let started = Instant::now();
            // The field is there only while the ledger has it not.
            while self.put_job(id, name, &body)?["applied"] == false {
                ensure!(started.elapsed() < PATIENCE, "the ledger of controller {id} does not take the jobs");
            }
        }
        Ok(())
    }

    fn put_job(&self, id: u64, name: &str, body: &str) -> Result<Value> {
        let path = format!("/jobs/by-name/{name}%20end");
        self.api(id).put(&path, body).with_context(|| format!("PUT {path} at controller {id}"))
    }

    pub fn controller(&mut self, id: u64) -> Result<&mut Process> {
        self.controllers.get_mut(&id).context("there is no such controller")
    }

    /// What has been spent so far, by processes that live.
    pub fn bill(&self) -> Result<Bill> {
        let mut bill = Bill { database_ms: database::cpu_ms(&self.postgres)?, ..Bill::default() };
        for process in self.controllers.values().filter(|process| process.is_up()) {
            bill.controllers_ms += Cpu::of(process.pid()?)?.own_ms;
        }
        let guardian = Cpu::of(guardian_of(self.worker.pid()?)?)?;
        bill.worker_ms = Cpu::of(self.worker.pid()?)?.own_ms;
        bill.guardian_ms = guardian.own_ms;
        bill.commands_ms = guardian.children_ms;
        Ok(bill)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("CHRONO_FLOW_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("logs and data are kept in {}", self.dir.path().display());
        }
        // All at once, so that none of them has to get by without the others.
        for process in self.controllers.values().chain([&self.worker]) {
            let _ = process.kill();
        }
    }
}

fn process(dir: &std::path::Path, name: &str, flags: &[(&str, String)]) -> Result<Process> {
    Process::new(&dir.join(name), flags.iter().flat_map(|(flag, value)| [flag.to_string(), value.clone()]).collect())
}

fn http_address(host: &str, id: u64) -> String {
    format!("{host}:{}", PORT + 20 + id)
}

/// A loopback address that no other process of this machine uses.
fn own_address() -> String {
    let pid = std::process::id();
    format!("127.{}.{}.{}", 1 + (pid >> 16 & 0x7F), pid >> 8 & 0xFF, pid & 0xFF)
}
