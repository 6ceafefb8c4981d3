//! Members in virtual time on disks and a network in memory. Everything random comes from one seed, and after every turn it is checked that
//! - two members never apply different entries at one index, and each applies every entry once, in order,
//! - a term has one leader, and each member votes for one candidate in it, however often it crashes,
//! - a proposal answered as applied is where it was said to be, one answered as surely not applied is nowhere,
//! - a read sees everything that was acknowledged before it was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chrono_flow::consensus::{
    Applied, Core, Effects, Failure, Input, Limits, MemberChange, NodeConfig, ProposeError, ReadAt, ReadError, RequestError, Role, Status,
    Token, Work,
};
use chrono_flow::model::{ClusterId, NodeId};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use uuid::Uuid;

use crate::disk::{Loss, MemoryDisk};
use crate::machine::Recorder;
use crate::random::Random;

/// Version, kind, cluster and store come before the raft message.
const FRAME_HEADER_BYTES: usize = 34;
pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC1));

/// What a turn brought forth.
#[derive(Default)]
pub struct Yield {
    pub frames: Vec<(NodeId, Vec<u8>, bool)>,
    pub proposals: Vec<(Token, Result<Applied<usize>, ProposeError>)>,
    pub reads: Vec<(Token, Result<ReadAt, ReadError>)>,
    pub requests: Vec<(Token, Result<(), RequestError>)>,
    pub works: Vec<Work>,
    pub statuses: Vec<Status>,
}

impl Effects<usize> for Yield {
    fn send(&mut self, to: NodeId, frame: Vec<u8>, is_snapshot: bool) {
        self.frames.push((to, frame, is_snapshot));
    }
    fn proposed(&mut self, token: Token, result: Result<Applied<usize>, ProposeError>) {
        assert!(result.is_err() || !self.statuses.is_empty(), "answered before readers could see it");
        self.proposals.push((token, result));
    }
    fn read(&mut self, token: Token, result: Result<ReadAt, ReadError>) {
        self.reads.push((token, result));
    }
    fn requested(&mut self, token: Token, result: Result<(), RequestError>) {
        assert!(result.is_err() || !self.statuses.is_empty(), "answered before readers could see it");
        self.requests.push((token, result));
    }
    fn work(&mut self, work: Work) {
        self.works.push(work);
    }
    fn publish(&mut self, status: &Status) {
        self.statuses.push(status.clone());
    }
}

/// Small limits, so that snapshots and compaction happen all the time.
pub fn small_limits() -> Limits {
    Limits { snapshot_entries: 20, log_keep_entries: 5, proposal_timeout_ms: 8_000, read_timeout_ms: 3_000, ..Limits::default() }
}

pub fn config(node_id: NodeId, seed_members: &[NodeId]) -> NodeConfig {
    let members = seed_members.iter().map(|id| (*id, format!("node-{id}:1"))).collect();
    NodeConfig { limits: small_limits(), ..NodeConfig::new(node_id, PathBuf::from("/memory"), CLUSTER, members) }
}

pub type MemoryCore = Core<Recorder, MemoryDisk>;

struct Peer {
    disk: MemoryDisk,
    config: NodeConfig,
    core: Option<MemoryCore>,
    inputs: Vec<Input>,
    works: Vec<(u64, Work)>,
    paused_until_ms: u64,
    /// How much of the core's history was compared with the others'.
    compared: usize,
    failure: Option<Failure>,
}

struct Packet {
    due_ms: u64,
    from: NodeId,
    to: NodeId,
    frame: Vec<u8>,
    is_snapshot: bool,
}

/// How bad the network is.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    pub drop_percent: u64,
    pub duplicate_percent: u64,
    pub delay_ms_max: u64,
}

pub struct Sim {
    pub random: Random,
    pub now_ms: u64,
    pub weather: Weather,
    peers: BTreeMap<NodeId, Peer>,
    network: Vec<Packet>,
    blocked: BTreeSet<(NodeId, NodeId)>,
    next_token: Token,
    lives: u64,
    /// What every member agrees on: index → (term, command).
    truth: BTreeMap<u64, (u64, Vec<u8>)>,
    leaders: BTreeMap<u64, NodeId>,
    /// (voter, term) → candidate.
    votes: BTreeMap<(NodeId, u64), NodeId>,
    /// Token → what became of the proposal whose command is the token.
    pub fates: BTreeMap<Token, Result<Applied<usize>, ProposeError>>,
    /// Reads under way: the highest index acknowledged when they were asked.
    reads_asked: BTreeMap<Token, u64>,
    pub reads: BTreeMap<Token, Result<ReadAt, ReadError>>,
    pub requests: BTreeMap<Token, Result<(), RequestError>>,
    acknowledged: u64,
    pub snapshots_sent: u64,
    /// Frames that carry snapshots get lost, and nobody says so.
    pub loses_snapshots: bool,
}

impl Sim {
    /// Members 1..=count, founding the cluster together.
    pub fn new(seed: u64, count: u64) -> Sim {
        let mut sim = Sim {
            random: Random(seed),
            now_ms: 0,
            weather: Weather { delay_ms_max: 3, ..Weather::default() },
            peers: BTreeMap::new(),
            network: Vec::new(),
            blocked: BTreeSet::new(),
            next_token: 0,
            lives: 0,
            truth: BTreeMap::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            fates: BTreeMap::new(),
            reads_asked: BTreeMap::new(),
            reads: BTreeMap::new(),
            requests: BTreeMap::new(),
            acknowledged: 0,
            snapshots_sent: 0,
            loses_snapshots: false,
        };
        let ids: Vec<NodeId> = (1..=count).collect();
        for id in &ids {
            sim.add(config(*id, &ids));
        }
        sim
    }

    /// Adds a machine and starts it.
    pub fn add(&mut self, config: NodeConfig) {
        let id = config.node_id;
        let peer = Peer {
            disk: MemoryDisk::default(),
            config,
            core: None,
            inputs: Vec::new(),
            works: Vec::new(),
            paused_until_ms: 0,
            compared: 0,
            failure: None,
        };
        self.peers.insert(id, peer);
        self.start(id);
    }

    pub fn start(&mut self, id: NodeId) {
        self.lives += 1;
        let seed = self.random.next();
        let peer = self.peers.get_mut(&id).unwrap();
        let store = Uuid::from_u128(u128::from(self.lives));
        let opened = Core::open(peer.disk.clone(), peer.config.clone(), Recorder::default(), seed, store, self.now_ms);
        peer.compared = 0;
        peer.failure = None;
        match opened {
            Ok(core) => peer.core = Some(core),
            Err(_) if peer.disk.is_cut() => {
                let loss = self.loss();
                self.crash(id, loss);
            }
            Err(error) => panic!("node {id} does not start: {error}"),
        }
    }

    /// kill -9 and a power cut in one.
    pub fn crash(&mut self, id: NodeId, loss: Loss) {
        let peer = self.peers.get_mut(&id).unwrap();
        peer.disk.crash(loss, &mut self.random);
        peer.core = None;
        peer.inputs.clear();
        peer.works.clear();
    }

    /// A way to lose unsynced writes.
    pub fn loss(&mut self) -> Loss {
        if self.random.chance(50) { Loss::Everything } else { Loss::Some }
    }

    pub fn disk(&self, id: NodeId) -> &MemoryDisk {
        &self.peers[&id].disk
    }

    pub fn core(&self, id: NodeId) -> &MemoryCore {
        self.peers[&id].core.as_ref().expect("the node is down")
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.peers[&id].core.is_some()
    }

    pub fn failure(&self, id: NodeId) -> Option<&Failure> {
        self.peers[&id].failure.as_ref()
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.peers.keys().copied().collect()
    }

    pub fn pause(&mut self, id: NodeId, ms: u64) {
        self.peers.get_mut(&id).unwrap().paused_until_ms = self.now_ms + ms;
    }

    /// Cuts the way from one to the other, this direction only.
    pub fn block(&mut self, from: NodeId, to: NodeId) {
        self.blocked.insert((from, to));
    }

    /// Cuts a node off from all others.
    pub fn isolate(&mut self, id: NodeId) {
        for other in self.ids() {
            self.block(id, other);
            self.block(other, id);
        }
    }

    pub fn heal(&mut self) {
        self.blocked.clear();
        self.peers.values().for_each(|peer| peer.disk.no_cut());
        self.weather = Weather { delay_ms_max: 3, ..Weather::default() };
    }

    pub fn input(&mut self, id: NodeId, input: Input) {
        self.peers.get_mut(&id).unwrap().inputs.push(input);
    }

    pub fn propose(&mut self, id: NodeId) -> Token {
        let token = self.token();
        self.input(id, Input::Propose { token, command: token.to_le_bytes().to_vec() });
        token
    }

    pub fn read(&mut self, id: NodeId, as_leader: bool) -> Token {
        let token = self.token();
        self.reads_asked.insert(token, self.acknowledged);
        self.input(id, Input::Read { token, as_leader });
        token
    }

    pub fn change(&mut self, id: NodeId, changes: Vec<MemberChange>) -> Token {
        let token = self.token();
        self.input(id, Input::Change { token, changes });
        token
    }

    pub fn transfer(&mut self, id: NodeId, to: Option<NodeId>) -> Token {
        let token = self.token();
        self.input(id, Input::Transfer { token, to });
        token
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    /// Who leads the highest term, by its own word, and has applied an entry of it.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.peers.iter().filter_map(|(id, peer)| Some((*id, peer.core.as_ref()?.status())));
        leaders.filter(|(_, status)| status.first_own_applied).max_by_key(|(_, status)| status.term).map(|(id, _)| id)
    }

    pub fn run(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.step();
        }
    }

    /// Runs until `is_done`, for a minute at most.
    pub fn until(&mut self, what: &str, mut is_done: impl FnMut(&Sim) -> bool) {
        let end_ms = self.now_ms + 60_000;
        while !is_done(self) {
            assert!(self.now_ms < end_ms, "not within a minute: {what}");
            self.step();
        }
    }

    pub fn until_leader(&mut self) -> NodeId {
        self.until("a leader", |sim| sim.leader().is_some());
        self.leader().unwrap()
    }

    /// Proposes on whoever leads until it is applied.
    pub fn commit(&mut self) -> Applied<usize> {
        for _ in 0..100 {
            let leader = self.until_leader();
            let token = self.propose(leader);
            self.until("an answer to a proposal", |sim| sim.fates.contains_key(&token) || !sim.is_up(leader));
            if let Some(Ok(applied)) = self.fates.get(&token) {
                return applied.clone();
            }
        }
        panic!("a hundred proposals failed");
    }

    /// Until all that are up have applied the same.
    pub fn until_even(&mut self) {
        self.until("all members even", |sim| {
            let leader = sim.leader();
            let applied: BTreeSet<u64> = sim.peers.values().filter_map(|peer| Some(peer.core.as_ref()?.status().applied)).collect();
            let commits: BTreeSet<u64> = sim.peers.values().filter_map(|peer| Some(peer.core.as_ref()?.status().commit)).collect();
            leader.is_some() && applied.len() == 1 && applied == commits
        });
    }

    fn step(&mut self) {
        self.now_ms += 1 + self.random.below(4);
        self.deliver();
        for id in self.ids() {
            self.turn(id);
        }
    }

    fn deliver(&mut self) {
        let now_ms = self.now_ms;
        let due: Vec<Packet> = self.network.extract_if(.., |packet| packet.due_ms <= now_ms).collect();
        for packet in due {
            if let Some(peer) = self.peers.get_mut(&packet.to).filter(|peer| peer.core.is_some()) {
                peer.inputs.push(Input::Frame(packet.frame));
                if packet.is_snapshot {
                    self.input(packet.from, Input::SnapshotSent { peer: packet.to, arrived: true });
                }
            }
        }
    }

    fn turn(&mut self, id: NodeId) {
        let now_ms = self.now_ms;
        let peer = self.peers.get_mut(&id).unwrap();
        if now_ms < peer.paused_until_ms {
            return;
        }
        let Some(core) = peer.core.as_mut() else {
            peer.inputs.clear();
            return;
        };
        for (_, work) in peer.works.extract_if(.., |(due_ms, _)| *due_ms <= now_ms) {
            peer.inputs.push(Input::Done(work.run()));
        }
        if peer.inputs.is_empty() && core.next_turn_ms() > now_ms {
            return;
        }
        let mut yielded = Yield::default();
        let result = core.turn(now_ms, peer.inputs.drain(..), &mut yielded);
        match result {
            Ok(()) => {
                self.take(id, yielded);
                self.compare(id);
            }
            // The power went in the middle of the turn; what had left the machine by then had left it.
            Err(_) if peer.disk.is_cut() => {
                self.take(id, yielded);
                let loss = self.loss();
                self.crash(id, loss);
            }
            Err(failure) => {
                let _ = core.close(&mut yielded);
                peer.failure = Some(failure);
                peer.core = None;
                self.take(id, yielded);
            }
        }
    }

    fn take(&mut self, id: NodeId, yielded: Yield) {
        for work in yielded.works {
            let due_ms = self.now_ms + self.random.below(30);
            self.peers.get_mut(&id).unwrap().works.push((due_ms, work));
        }
        for (to, frame, is_snapshot) in yielded.frames {
            self.send(id, to, frame, is_snapshot);
        }
        for status in yielded.statuses {
            if status.role == Role::Leader {
                let leader = *self.leaders.entry(status.term).or_insert(id);
                assert_eq!(leader, id, "term {} has two leaders", status.term);
            }
        }
        for (token, fate) in yielded.proposals {
            if let Ok(applied) = &fate {
                self.acknowledged = self.acknowledged.max(applied.index);
            }
            assert!(self.fates.insert(token, fate).is_none(), "a proposal was answered twice");
        }
        for (token, read) in yielded.reads {
            if let Ok(at) = &read {
                assert!(at.index >= self.reads_asked[&token], "a read missed what was acknowledged before");
                assert!(
                    self.peers[&id].core.as_ref().is_none_or(|core| core.status().applied >= at.index),
                    "answered before it was applied"
                );
            }
            assert!(self.reads.insert(token, read).is_none(), "a read was answered twice");
        }
        self.requests.extend(yielded.requests);
    }

    fn send(&mut self, from: NodeId, to: NodeId, frame: Vec<u8>, is_snapshot: bool) {
        self.snapshots_sent += u64::from(is_snapshot);
        self.check_vote(from, &frame);
        let is_lost = self.blocked.contains(&(from, to)) || self.random.chance(self.weather.drop_percent);
        if is_lost || (is_snapshot && self.loses_snapshots) {
            return;
        }
        let copies = if self.random.chance(self.weather.duplicate_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let due_ms = self.now_ms + self.random.below(self.weather.delay_ms_max + 1);
            self.network.push(Packet { due_ms, from, to, frame: frame.clone(), is_snapshot });
        }
    }

    fn check_vote(&mut self, from: NodeId, frame: &[u8]) {
        let Ok(message) = Message::parse_from_bytes(&frame[FRAME_HEADER_BYTES..]) else { return };
        let candidate = match message.get_msg_type() {
            MessageType::MsgRequestVote => from,
            MessageType::MsgRequestVoteResponse if !message.reject => message.to,
            _ => return,
        };
        let before = *self.votes.entry((from, message.term)).or_insert(candidate);
        assert_eq!(before, candidate, "node {from} voted twice in term {}", message.term);
    }

    /// What this member has applied since the last time is what everyone applies there.
    fn compare(&mut self, id: NodeId) {
        let peer = self.peers.get_mut(&id).unwrap();
        let Some(core) = &peer.core else { return };
        let history = &core.machine().history;
        if history.len() < peer.compared {
            peer.compared = 0;
        }
        for (index, term, command) in &history[peer.compared..] {
            let agreed = self.truth.entry(*index).or_insert_with(|| (*term, command.clone()));
            assert_eq!((agreed.0, &agreed.1), (*term, command), "members disagree about entry {index}");
        }
        peer.compared = history.len();
    }

    /// What was promised to proposers holds, and every member has one and the same history.
    pub fn check_promises(&self) {
        let mut places: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (index, (_, command)) in &self.truth {
            let before = places.insert(command, *index);
            assert_eq!(before, None, "a command was applied at {before:?} and at {index}");
        }
        for (token, fate) in &self.fates {
            let place = places.get(token.to_le_bytes().as_slice()).copied();
            match fate {
                Ok(applied) => {
                    assert_eq!(place, Some(applied.index), "an acknowledged proposal is lost");
                    assert_eq!(self.truth[&applied.index].0, applied.term);
                }
                Err(ProposeError::Unknown) => {}
                Err(error) => assert_eq!(place, None, "a proposal answered `{error}` was applied"),
            }
        }
        let whole: Vec<_> = self.truth.iter().map(|(index, (term, command))| (*index, *term, command.clone())).collect();
        for (id, peer) in &self.peers {
            let Some(core) = &peer.core else { continue };
            let history = &core.machine().history;
            assert_eq!(history[..], whole[..history.len()], "node {id} has missed something");
        }
    }

    /// One number for everything that has happened.
    pub fn digest(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for (index, (term, command)) in &self.truth {
            hasher.update(&index.to_le_bytes());
            hasher.update(&term.to_le_bytes());
            hasher.update(command);
        }
        for (term, leader) in &self.leaders {
            hasher.update(&term.to_le_bytes());
            hasher.update(&leader.to_le_bytes());
        }
        hasher.update(&self.now_ms.to_le_bytes());
        hasher.finalize()
    }
}
