//! Controllers, workers and the database of one cluster, on a loopback address of their own.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use crate::api::Api;
use crate::node::Node;
use crate::postgres::Postgres;
use crate::wait::eventually;
use crate::witness::Witness;

/// Short, so that the tests are; long enough that a busy machine elects nobody for it.
const ELECTION_TIMEOUT_MS: u32 = 300;
const LEADS: &str = "This node became the LEADER";

/// Where a node is: its address, and its network namespace, if it isn't on this machine's own network.
#[derive(Clone)]
pub struct Place {
    pub host: String,
    pub netns: Option<Arc<OwnedFd>>,
}

/// Where each node is, by its name: `controller-1`, `worker-1`, `database`.
pub type Places = Box<dyn Fn(&str) -> Place>;

pub struct Options {
    pub controllers: u64,
    pub workers: u32,
    pub has_secret: bool,
    /// Further flags of every controller, and of every worker.
    pub controller_flags: &'static [&'static str],
    pub worker_flags: &'static [&'static str],
    /// None: all share a loopback address.
    pub places: Option<Places>,
}

impl Default for Options {
    fn default() -> Options {
        Options { controllers: 3, workers: 2, has_secret: true, controller_flags: &[], worker_flags: &[], places: None }
    }
}

pub struct Cluster {
    pub controllers: BTreeMap<u64, Node>,
    pub workers: BTreeMap<String, Node>,
    pub postgres: Postgres,
    pub witness: Witness,
    options: Options,
    host: String,
    port: u16,
    place: tempfile::TempDir,
}

impl Cluster {
    /// Three controllers and two workers, ready to be used.
    pub fn start() -> Cluster {
        Cluster::start_with(Options::default())
    }

    pub fn start_with(options: Options) -> Cluster {
        let mut cluster = Cluster::prepare(options);
        cluster.start_all();
        cluster.wait_ready();
        cluster
    }

    /// Everything but running processes; the database runs.
    pub fn prepare(options: Options) -> Cluster {
        let place = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(place.path().join("secret"), "what only this cluster knows\n").expect("a secret");
        let (host, port) = unshared_address();
        let witness = Witness::new(place.path());
        let (controllers, workers) = (options.controllers, options.workers);
        let mut postgres = match options.places.as_ref().map(|places| places("database")) {
            Some(place) => Postgres::prepare_at(&place.host, place.netns, &[]),
            None => Postgres::prepare(&[]),
        };
        postgres.start_again();
        let mut cluster = Cluster { controllers: BTreeMap::new(), workers: BTreeMap::new(), postgres, witness, options, host, port, place };
        for id in 1..=controllers {
            cluster.prepare_controller(id, controllers);
        }
        for number in 1..=workers {
            cluster.prepare_worker(number);
        }
        cluster
    }

    pub fn start_all(&mut self) {
        for node in self.controllers.values_mut().chain(self.workers.values_mut()) {
            node.start();
        }
    }

    /// A controller that is told of the members 1 to `members`.
    pub fn prepare_controller(&mut self, id: u64, members: u64) -> &mut Node {
        let list: Vec<String> = (1..=members).map(|id| format!("{id}={}", self.rpc_address(id))).collect();
        let mut flags = self.common_flags();
        flags.extend(["--role", "controller", "--node-id"].map(str::to_owned));
        flags.push(id.to_string());
        let timeout = ELECTION_TIMEOUT_MS.to_string();
        let (rpc, http, list) = (self.rpc_address(id), self.http_address(id), list.join(","));
        let pairs = [
            ("--cluster", &*list),
            ("--rpc-listen", &*rpc),
            ("--http-listen", &*http),
            ("--database-url", &*self.postgres.url()),
            ("--election-timeout-ms", &*timeout),
        ];
        flags.extend(pairs.iter().flat_map(|(flag, value)| [flag.to_string(), value.to_string()]));
        flags.extend(self.options.controller_flags.iter().map(|flag| flag.to_string()));
        let name = format!("controller-{id}");
        let mut node = Node::new(&name, &self.place.path().join(&name), flags);
        node.netns = self.place_of(&name).netns;
        self.controllers.entry(id).insert_entry(node).into_mut()
    }

    pub fn prepare_worker(&mut self, number: u32) -> &mut Node {
        let name = format!("worker-{number}");
        let address = format!("{}:{}", self.place_of(&name).host, self.port + 50 + number as u16);
        let list: Vec<String> = self.controllers.keys().map(|id| self.rpc_address(*id)).collect();
        let mut flags = self.common_flags();
        let list = list.join(",");
        let pairs = [
            ("--role", "worker"),
            ("--node-id", &*name),
            ("--controllers", &*list),
            ("--rpc-listen", &*address),
            ("--rpc-advertise", &*address),
        ];
        flags.extend(pairs.iter().flat_map(|(flag, value)| [flag.to_string(), value.to_string()]));
        flags.extend(self.options.worker_flags.iter().map(|flag| flag.to_string()));
        let mut node = Node::new(&name, &self.place.path().join(&name), flags);
        node.netns = self.place_of(&name).netns;
        self.workers.entry(name).insert_entry(node).into_mut()
    }

    fn common_flags(&self) -> Vec<String> {
        if !self.options.has_secret {
            return Vec::new();
        }
        vec!["--cluster-secret-file".to_owned(), self.path("secret").to_string_lossy().into_owned()]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn place_of(&self, name: &str) -> Place {
        match &self.options.places {
            Some(places) => places(name),
            None => Place { host: self.host.clone(), netns: None },
        }
    }

    pub fn rpc_address(&self, id: u64) -> String {
        format!("{}:{}", self.place_of(&format!("controller-{id}")).host, u64::from(self.port) + id)
    }

    pub fn http_address(&self, id: u64) -> String {
        format!("{}:{}", self.place_of(&format!("controller-{id}")).host, u64::from(self.port) + 20 + id)
    }

    pub fn controller(&mut self, id: u64) -> &mut Node {
        self.controllers.get_mut(&id).expect("a controller")
    }

    pub fn worker(&mut self, name: &str) -> &mut Node {
        self.workers.get_mut(name).expect("a worker")
    }

    /// The controllers that run, and are not stopped.
    pub fn up(&self) -> Vec<u64> {
        self.controllers.iter().filter(|(_, node)| node.is_up()).map(|(id, _)| *id).collect()
    }

    /// The API of whichever controller answers.
    pub fn api(&self) -> Api {
        Api::any_of(&self.up().into_iter().map(|id| self.http_address(id)).collect::<Vec<_>>())
    }

    /// The API of one controller.
    pub fn api_of(&self, id: u64) -> Api {
        Api::new(&self.http_address(id))
    }

    /// What a controller says of the cluster, if it says anything.
    pub fn view(&self, id: u64) -> Option<Value> {
        let answer = Api::any_of(&[self.http_address(id)]).try_call("GET", "/cluster", &[], None).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// Who leads, by its own word.
    pub fn leader(&self) -> Option<u64> {
        self.up().into_iter().find(|id| self.view(*id).is_some_and(|view| view["leader"] == *id))
    }

    /// Waits until somebody leads, other than one that did.
    #[track_caller]
    pub fn wait_leader_but(&self, old: Option<u64>) -> u64 {
        eventually("somebody leads", || {
            let others = self.up().into_iter().filter(|id| Some(*id) != old);
            others.into_iter().find(|id| self.view(*id).is_some_and(|view| view["leader"] == *id))
        })
    }

    #[track_caller]
    pub fn wait_leader(&self) -> u64 {
        self.wait_leader_but(None)
    }

    /// Waits until every controller that runs is ready, agrees on the leader, and has every worker that runs.
    #[track_caller]
    pub fn wait_ready(&self) {
        let up = self.up();
        for id in &up {
            eventually(&format!("controller {id} is ready"), || self.is_ready(*id).then_some(()));
        }
        let names: Vec<&String> = self.workers.iter().filter(|(_, node)| node.is_up()).map(|(name, _)| name).collect();
        eventually("every controller has the same leader and all workers", || {
            let leaders: Vec<Value> = up.iter().filter_map(|id| Some(self.view(*id)?["leader"].clone())).collect();
            let is_agreed = leaders.len() == up.len() && leaders.iter().all(|leader| leader.is_u64() && *leader == leaders[0]);
            (is_agreed && up.iter().all(|id| names.iter().all(|name| self.worker_state(*id, name).as_deref() == Some("ready"))))
                .then_some(())
        });
    }

    fn is_ready(&self, id: u64) -> bool {
        let answer = Api::any_of(&[self.http_address(id)]).try_call("GET", "/readyz", &[], None);
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// The state of a worker as a controller shows it.
    pub fn worker_state(&self, id: u64, name: &str) -> Option<String> {
        let answer = Api::any_of(&[self.http_address(id)]).try_call("GET", "/workers", &[], None).ok()?;
        let workers = if answer.status == 200 { answer.json() } else { return None };
        let worker = workers.as_array()?.iter().find(|worker| worker["id"] == name)?.clone();
        worker["state"].as_str().map(str::to_owned)
    }

    #[track_caller]
    pub fn wait_worker_state(&self, name: &str, state: &str) {
        let id = self.wait_leader();
        eventually(&format!("{name} is {state}"), || (self.worker_state(id, name).as_deref() == Some(state)).then_some(()));
    }

    /// The terms in which each controller became the leader, by the logs of all its lives.
    pub fn elections(&self) -> BTreeMap<u64, Vec<u64>> {
        let term =
            |line: String| line.split_once(LEADS)?.1.split_once("term ")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        let won = |node: &Node| node.log().into_iter().filter_map(term).collect::<Vec<u64>>();
        self.controllers.iter().map(|(id, node)| (*id, won(node))).collect()
    }

    /// No term has had two leaders.
    #[track_caller]
    pub fn check_one_leader_a_term(&self) {
        let elections = self.elections();
        let mut terms: Vec<u64> = elections.values().flatten().copied().collect();
        terms.sort_unstable();
        assert!(terms.windows(2).all(|pair| pair[0] != pair[1]), "two leaders of one term: {elections:?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.controllers.values().chain(self.workers.values()) {
                eprintln!("--- the end of the log of {}\n{}\n---", node.name, node.tail());
            }
            if std::env::var_os("CHRONO_FLOW_KEEP").is_some() {
                self.place.disable_cleanup(true);
                eprintln!("logs, data and witness are kept in {}", self.place.path().display());
            }
        }
        // All at once, so that none of them has to get by without the others.
        for node in self.controllers.values_mut().chain(self.workers.values_mut()) {
            node.kill();
        }
    }
}

/// A loopback address that no other process uses, and ports below those that the system gives out: a port stays free while its owner is
/// dead.
fn unshared_address() -> (String, u16) {
    static CLUSTERS: AtomicU16 = AtomicU16::new(0);
    let pid = std::process::id();
    let host = format!("127.{}.{}.{}", 1 + (pid >> 16 & 0x7F), pid >> 8 & 0xFF, pid & 0xFF);
    (host, 12_000 + 100 * CLUSTERS.fetch_add(1, Ordering::Relaxed))
}
