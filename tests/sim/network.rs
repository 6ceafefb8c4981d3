//! Who can reach whom, how long it takes, and what is said. Frames of raft may be lost, doubled and overtaken. Calls go over connections:
//! in order, each once, or not at all; where the way is cut, what was sent may still arrive once it is whole again.

use std::collections::{BTreeMap, BTreeSet};

use chrono_flow::engine::driver::{Answer, Call};
use chrono_flow::model::{NodeId, SessionId};
use chrono_flow::rpc::peer::{MembersWish, Proposed, Pulse};
use chrono_flow::rpc::wire::{
    CloseSession, Grant, Heartbeat, OpenSession, OutputPage, ReadOutput, Refusal, Report, ReportAck, SessionOpened,
};

use crate::random::Random;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    Controller(NodeId),
    Worker(usize),
}

/// What a worker asks of a controller.
pub enum Ask {
    Open(OpenSession),
    Beat(Heartbeat),
    Report(Report),
    Close(CloseSession),
}

pub enum Told {
    Opened(Result<SessionOpened, Refusal>),
    Granted(Result<Grant, Refusal>),
    Reported(Result<ReportAck, Refusal>),
    Closed(Result<(), Refusal>),
    /// Nobody is there: the connection is refused, or broke.
    Nothing,
}

/// What a controller asks of its peers, and of workers for output.
pub enum PeerAsk {
    Propose(Vec<u8>),
    Members(MembersWish),
    Pulse,
    Read(ReadOutput),
}

pub enum PeerTold {
    Proposed(Result<Proposed, Refusal>),
    Members(Result<(), Refusal>),
    Pulse(Pulse),
    Page(Result<OutputPage, Refusal>),
    Nothing,
}

/// `call` names a question among those of its asker.
pub enum Message {
    Frame { bytes: Vec<u8>, is_snapshot: bool },
    Ask { call: u64, ask: Ask },
    Told { call: u64, told: Told },
    Order { call: u64, connection: u64, term: u64, session: SessionId, order: Call },
    Done { call: u64, session: SessionId, answer: Answer },
    PeerAsk { call: u64, ask: PeerAsk },
    PeerTold { call: u64, told: PeerTold },
}

impl Message {
    /// The answer that tells an asker that nobody is there.
    fn refused(&self) -> Option<Message> {
        Some(match self {
            Message::Ask { call, .. } => Message::Told { call: *call, told: Told::Nothing },
            Message::Order { call, session, .. } => Message::Done { call: *call, session: *session, answer: Answer::Failed },
            Message::PeerAsk { call, .. } => Message::PeerTold { call: *call, told: PeerTold::Nothing },
            _ => return None,
        })
    }

    fn is_frame(&self) -> bool {
        matches!(self, Message::Frame { .. })
    }
}

pub struct Packet {
    pub from: Place,
    pub to: Place,
    /// The receiver's life that it was sent to.
    pub life: u64,
    pub message: Message,
}

#[derive(Clone, Copy)]
pub struct Weather {
    pub drop_percent: u64,
    pub duplicate_percent: u64,
    pub delay_ms_max: u64,
}

pub const FAIR: Weather = Weather { drop_percent: 0, duplicate_percent: 0, delay_ms_max: 3 };

pub struct Network {
    pub random: Random,
    pub weather: Weather,
    blocked: BTreeSet<(Place, Place)>,
    /// Where a way is cut and all that was sent arrives once it is whole again.
    pub keeps: BTreeSet<(Place, Place)>,
    /// Raft's frames of more bytes are lost.
    pub frame_bytes_max: usize,
    /// By when it is due, then in the order of sending.
    under_way: BTreeMap<(u64, u64), Packet>,
    held: Vec<Packet>,
    sent: u64,
    /// Calls between two places arrive in order.
    last_due: BTreeMap<(Place, Place), u64>,
    /// Of everybody who lives.
    pub lives: BTreeMap<Place, u64>,
}

impl Network {
    pub fn new(seed: u64) -> Network {
        Network {
            random: Random(seed),
            weather: FAIR,
            blocked: BTreeSet::new(),
            keeps: BTreeSet::new(),
            frame_bytes_max: usize::MAX,
            under_way: BTreeMap::new(),
            held: Vec::new(),
            sent: 0,
            last_due: BTreeMap::new(),
            lives: BTreeMap::new(),
        }
    }

    pub fn block(&mut self, from: Place, to: Place) {
        self.blocked.insert((from, to));
    }

    pub fn is_blocked(&self, from: Place, to: Place) -> bool {
        self.blocked.contains(&(from, to))
    }

    pub fn unblock(&mut self, now_ms: u64, from: Place, to: Place) {
        self.blocked.remove(&(from, to));
        self.keeps.remove(&(from, to));
        for packet in self.held.extract_if(.., |packet| (packet.from, packet.to) == (from, to)).collect::<Vec<_>>() {
            self.enqueue(now_ms, packet);
        }
    }

    pub fn blocked_ways(&self) -> Vec<(Place, Place)> {
        self.blocked.iter().copied().collect()
    }

    pub fn send(&mut self, now_ms: u64, from: Place, to: Place, message: Message) {
        let life = self.lives.get(&to).copied();
        let is_frame = message.is_frame();
        if self.is_blocked(from, to) {
            if !is_frame && (self.keeps.contains(&(from, to)) || self.random.chance(50)) {
                self.held.extend(life.map(|life| Packet { from, to, life, message }));
            }
            return;
        }
        let Some(life) = life else {
            if let Some(refused) = message.refused()
                && let Some(life) = self.lives.get(&from).copied()
            {
                self.enqueue(now_ms, Packet { from: to, to: from, life, message: refused });
            }
            return;
        };
        if let Message::Frame { bytes, .. } = &message
            && bytes.len() > self.frame_bytes_max
        {
            return;
        }
        if is_frame && self.random.chance(self.weather.drop_percent) {
            return;
        }
        if let Message::Frame { bytes, is_snapshot } = &message
            && self.random.chance(self.weather.duplicate_percent)
        {
            let message = Message::Frame { bytes: bytes.clone(), is_snapshot: *is_snapshot };
            self.enqueue(now_ms, Packet { from, to, life, message });
        }
        self.enqueue(now_ms, Packet { from, to, life, message });
    }

    fn enqueue(&mut self, now_ms: u64, packet: Packet) {
        let mut due_ms = now_ms + 1 + self.random.below(self.weather.delay_ms_max + 1);
        if !packet.message.is_frame() {
            // A lost segment is sent again, and holds up what comes behind it.
            if self.random.chance(self.weather.drop_percent) {
                due_ms += 200;
            }
            let last = self.last_due.entry((packet.from, packet.to)).or_insert(0);
            due_ms = due_ms.max(*last);
            *last = due_ms;
        }
        self.sent += 1;
        self.under_way.insert((due_ms, self.sent), packet);
    }

    pub fn next_due_ms(&self) -> Option<u64> {
        self.under_way.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// The next packet that is due.
    pub fn deliver(&mut self, now_ms: u64) -> Option<Packet> {
        loop {
            let entry = self.under_way.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
            let packet = entry.remove();
            // The way was cut while it was under way.
            if self.is_blocked(packet.from, packet.to) && packet.message.is_frame() {
                continue;
            }
            if self.lives.get(&packet.to) == Some(&packet.life) {
                return Some(packet);
            }
            if let Some(refused) = packet.message.refused()
                && let Some(life) = self.lives.get(&packet.from).copied()
                && !self.is_blocked(packet.to, packet.from)
            {
                self.enqueue(now_ms, Packet { from: packet.to, to: packet.from, life, message: refused });
            }
        }
    }
}
