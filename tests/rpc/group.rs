//! Controllers of one process, each with its own directory and listener, and proxies between every two of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono_flow::consensus::{Applied, Handle, MemberChange, NodeConfig, PeerQueues, ProposeError, RequestError, Status, start};
use chrono_flow::model::{ClusterId, NodeId, UnixMs};
use chrono_flow::peers::founding::{Founding, FoundingError, decide};
use chrono_flow::peers::{Addresses, PeerCalls, PeerLinks, PeerRequests, PeerServer};
use chrono_flow::rpc::dial::TcpDial;
use chrono_flow::rpc::handshake::{Name, Service};
use chrono_flow::rpc::listen::Listener;
use chrono_flow::rpc::peer::{MembersWish, Proposed, Pulse};
use chrono_flow::rpc::secret::ClusterSecret;
use chrono_flow::rpc::wire::Refusal;
use serde_bytes::ByteBuf;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::machine::Recorder;
use crate::proxy::Proxy;
use crate::support::{CLUSTER, PATIENCE, secret};

const SERVICES: &[Service] = &[Service::Peer, Service::PeerSnapshots];
/// What the tests' engines say that the time is.
pub const NOW: UnixMs = UnixMs(1_234);

pub struct Group {
    dir: tempfile::TempDir,
    secret: Arc<ClusterSecret>,
    /// (from, to)
    pub proxies: BTreeMap<(NodeId, NodeId), Proxy>,
    /// Where each one really listens.
    listening: Addresses,
    pub controllers: BTreeMap<NodeId, Controller>,
}

/// One that listens; its node runs once it is opened.
pub struct Controller {
    pub server: PeerServer,
    pub dial: TcpDial,
    /// As seen from here.
    pub configured: Addresses,
    pub calls: PeerCalls,
    queues: PeerQueues,
    cluster: watch::Sender<Option<ClusterId>>,
    serving: JoinHandle<()>,
    node: Option<Handle<usize>>,
    links: Option<PeerLinks>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Engine(Handle<usize>);

#[async_trait]
impl PeerRequests for Engine {
    async fn propose(&self, commands: Vec<u8>) -> Result<Proposed, Refusal> {
        match self.0.propose(commands).await {
            Ok(Applied { index, term, outcome }) => Ok(Proposed { index, term, replies: ByteBuf::from(outcome.to_le_bytes()) }),
            Err(ProposeError::NotLeader { leader }) => Err(Refusal::NotLeader { leader }),
            Err(error) => Err(Refusal::Failed(error.to_string())),
        }
    }

    async fn change_members(&self, change: MembersWish) -> Result<(), Refusal> {
        let changed = match change {
            MembersWish::Add { id, address } => self.0.change_members(vec![MemberChange::Learner { id, address }]).await,
            MembersWish::Remove { id } => self.0.change_members(vec![MemberChange::Remove { id }]).await,
            MembersWish::Transfer { to } => self.0.transfer_leadership(to).await,
        };
        changed.map_err(|error| Refusal::Failed(error.to_string()))
    }

    fn pulse(&self) -> Pulse {
        Pulse { now: NOW, applied: 7 }
    }
}

impl Group {
    /// Reserves addresses for members 1..=count; none of them listens yet.
    pub async fn new(count: NodeId) -> Group {
        let reserve = |_| std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let reserved: Vec<_> = (0..count).map(reserve).collect();
        let listening: Addresses = (1..).zip(&reserved).map(|(id, listener)| (id, listener.local_addr().unwrap().to_string())).collect();
        drop(reserved);
        let mut proxies = BTreeMap::new();
        for (from, to) in (1..=count).flat_map(|from| (1..=count).map(move |to| (from, to))).filter(|(from, to)| from != to) {
            proxies.insert((from, to), Proxy::new(listening[&to].clone()).await);
        }
        let secret = secret("a secret of the cluster");
        Group { dir: tempfile::tempdir().unwrap(), secret, proxies, listening, controllers: BTreeMap::new() }
    }

    /// A running cluster of three.
    pub async fn of_three() -> Group {
        let mut group = Group::new(3).await;
        for id in 1..=3 {
            group.listen(id).await;
            group.open(id, Founding::Found { cluster: None });
        }
        group
    }

    pub fn data_dir(&self, id: NodeId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// Starts the process of a controller, so to speak.
    pub async fn listen(&mut self, id: NodeId) {
        let listener = Listener::bind(&self.listening[&id], Some(self.secret.clone())).await.unwrap();
        let cluster = watch::Sender::new(None);
        let server = PeerServer::default();
        let serving = {
            let (server, cluster) = (server.clone(), cluster.subscribe());
            let serve = move |_, stream| {
                let server = server.clone();
                async move { server.serve(stream).await }
            };
            tokio::spawn(async move { listener.run(SERVICES, cluster, serve, std::future::pending()).await })
        };
        let dial = TcpDial::new(Some(self.secret.clone()), cluster.subscribe(), Name::Controller(id));
        let others = self.listening.keys().filter(|other| **other != id);
        let mut configured: Addresses = others.map(|other| (*other, self.proxies[&(id, *other)].address.clone())).collect();
        configured.insert(id, self.listening[&id].clone());
        let queues = PeerQueues::default();
        let calls = PeerCalls::new(id, configured.clone(), queues.watch_members(), dial.to(Service::Peer));
        let controller = Controller { server, dial, configured, calls, queues, cluster, serving, node: None, links: None };
        self.controllers.insert(id, controller);
    }

    pub async fn decide(&self, id: NodeId) -> Result<Founding, FoundingError> {
        let controller = &self.controllers[&id];
        decide(id, &controller.configured, controller.dial.to(Service::Peer)).await
    }

    /// Starts the node of a controller that listens.
    pub fn open(&mut self, id: NodeId, founding: Founding) {
        let dir = self.data_dir(id);
        let controller = self.controllers.get_mut(&id).unwrap();
        let mut seed = controller.configured.clone();
        if let Founding::Join { .. } = founding {
            seed.remove(&id);
        }
        let mut config = NodeConfig::new(id, dir, CLUSTER, seed);
        config.limits.snapshot_entries = 20;
        config.limits.log_keep_entries = 5;
        config.limits.log_cache_bytes = 1 << 20;
        let node = start(config, Recorder::default(), controller.queues.clone()).unwrap();
        controller.cluster.send_replace(Some(CLUSTER));
        controller.server.open(Arc::new(node.clone()), Arc::new(Engine(node.clone())));
        let (configured, queues) = (controller.configured.clone(), controller.queues.clone());
        controller.links = Some(PeerLinks::start(id, configured, queues, Arc::new(node.clone()), &controller.dial));
        controller.node = Some(node);
    }

    /// Ends a controller; its directory stays.
    pub async fn stop(&mut self, id: NodeId) {
        let mut controller = self.controllers.remove(&id).unwrap();
        controller.links = None;
        if let Some(node) = &controller.node {
            node.stop().await;
        }
        controller.serving.abort();
        let _ = (&mut controller.serving).await;
    }

    pub async fn stop_all(&mut self) {
        for id in self.controllers.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }

    pub fn isolate(&self, id: NodeId) {
        self.proxies.iter().filter(|((from, to), _)| *from == id || *to == id).for_each(|(_, proxy)| proxy.cut());
    }

    pub fn heal(&self) {
        self.proxies.values().for_each(Proxy::heal);
    }

    pub fn node(&self, id: NodeId) -> &Handle<usize> {
        self.controllers[&id].node.as_ref().unwrap()
    }

    pub fn status(&self, id: NodeId) -> Status {
        self.node(id).status().borrow().clone()
    }

    /// Proposes to whoever leads until it is applied; gives the leader.
    pub async fn commit(&self, command: &[u8]) -> (NodeId, u64) {
        let committing = async {
            loop {
                for (id, controller) in self.controllers.iter().filter(|(_, controller)| controller.node.is_some()) {
                    match controller.node.as_ref().unwrap().propose(command.to_vec()).await {
                        Ok(applied) => return (*id, applied.index),
                        Err(ProposeError::NotLeader { .. } | ProposeError::Lost | ProposeError::Busy) => {}
                        Err(error) => panic!("node {id}: {error}"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, committing).await.expect("nobody takes a proposal")
    }

    pub async fn until(&self, id: NodeId, what: &str, is_it: impl FnMut(&Status) -> bool) {
        let mut status = self.node(id).status();
        let found = tokio::time::timeout(PATIENCE, status.wait_for(is_it)).await;
        drop(
            found.unwrap_or_else(|_| panic!("node {id}: not in time: {what}")).unwrap_or_else(|_| panic!("node {id} has stopped: {what}")),
        );
    }

    /// Until all have applied what was committed at `index`.
    pub async fn until_even(&self, index: u64) {
        for id in self.controllers.keys() {
            self.until(*id, "the entry", |status| status.applied >= index).await;
        }
    }

    /// Asks the leader, whoever it is, until it has happened.
    pub async fn change(&self, change: MemberChange) {
        let changing = async {
            loop {
                for controller in self.controllers.values() {
                    let Some(node) = &controller.node else { continue };
                    match node.change_members(vec![change.clone()]).await {
                        Ok(()) => return,
                        Err(RequestError::NotLeader { .. } | RequestError::Busy) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, changing).await.expect("nobody takes the change");
    }
}
