//! A server for one test.

use std::net::SocketAddr;
use std::sync::Arc;

use chrono_flow::http::{Server, Services, Settings};
use chrono_flow::model::{OutputPart, Run, RunId};
use chrono_flow::store::sqlite::SqliteStore;
use chrono_flow::store::{OutputRecord, RecordBatch, RunRecord, Store};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Answer, Connection, send};
use crate::engine::TestEngine;
use crate::store::SwitchedStore;

pub const JSON: &str = "content-type: application/json";

pub struct TestServer {
    pub address: SocketAddr,
    pub engine: Arc<TestEngine>,
    pub store: Arc<SwitchedStore>,
    pub runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
    _directory: TempDir,
}

impl TestServer {
    pub fn start() -> TestServer {
        TestServer::with(Settings::default())
    }

    pub fn with(settings: Settings) -> TestServer {
        let directory = TempDir::new().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = Arc::new(SwitchedStore::new(SqliteStore::open(&directory.path().join("store.sqlite")).unwrap()));
        let engine = Arc::new(TestEngine::new(store.clone()));
        let server = runtime.block_on(Server::bind("127.0.0.1:0", settings)).unwrap();
        let address = server.local_addr();
        let services = Services { store: store.clone(), engine: engine.clone() };
        let (stop, stopped) = oneshot::channel::<()>();
        let running = runtime.spawn(server.run(services, async move { drop(stopped.await) }));
        TestServer { address, engine, store, runtime, stop: Some(stop), running: Some(running), _directory: directory }
    }

    /// Asks the server to stop, and returns when it has.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running).unwrap();
        }
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    pub fn get(&self, target: &str) -> Answer {
        send(self.address, "GET", target, &[], b"")
    }

    pub fn send(&self, method: &str, target: &str, headers: &[&str], body: &str) -> Answer {
        send(self.address, method, target, headers, body.as_bytes())
    }

    pub fn send_json(&self, method: &str, target: &str, body: &Value) -> Answer {
        self.send(method, target, &[JSON], &body.to_string())
    }

    /// Creates a job with these fields beside the needed ones, and answers it.
    pub fn create(&self, name: &str, extra: Value) -> Value {
        let mut job = json!({"name": name, "schedule": "0 * * * *", "command": "true"});
        job.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = self.send_json("POST", "/jobs", &job);
        assert_eq!(answer.status, 201);
        answer.json()
    }

    pub fn record(&self, runs: &[Run]) {
        let records = runs.iter().enumerate().map(|(index, run)| RunRecord { ledger_index: index as u64 + 1, run: run.clone() });
        let batch = RecordBatch { runs: records.collect(), output: Vec::new() };
        assert_eq!(self.runtime.block_on(self.store.record(batch)).unwrap(), []);
    }

    pub fn record_output(&self, run: RunId, parts: Vec<OutputPart>) {
        let offset = parts.first().map_or(0, |part| part.offset);
        let batch = RecordBatch { runs: Vec::new(), output: vec![OutputRecord { run, offset, parts }] };
        assert_eq!(self.runtime.block_on(self.store.record(batch)).unwrap(), []);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}
