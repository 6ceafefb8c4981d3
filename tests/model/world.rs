//! The state of the world: a ledger, the leader that its quorum follows, a network, a worker modelled whole, and a second worker that never
//! fails, to which the run may be moved. Last, what an observer has seen, which no part of the protocol reads.

use crate::rules::{Scope, Tick};

/// The first leader's term, and the second's.
pub const TERMS: [u8; 2] = [1, 2];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub now: Tick,
    pub weather: Weather,
    pub left: Left,
    pub ledger: Ledger,
    /// Proposed by the current leader and not applied yet, in order. The next leader's election voids them.
    pub proposals: Vec<Proposal>,
    pub leader: Leader,
    /// Every message that was ever sent, in order. Each may arrive at any later time, again and again, or never.
    pub sent: Vec<Message>,
    pub worker: Worker,
    pub elsewhere: Elsewhere,
    pub seen: Seen,
}

/// Faults happen until they don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weather {
    Stormy,
    Calm,
    /// The same, but the worker's process was down, and stays so.
    CalmWithoutWorker,
}

/// What may still happen, so that there is an end to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    pub crashes: u8,
    pub grants: u8,
    pub changes_of_rate: u8,
}

/// The replicated state, as of the last entry that was applied. It is one register: entries are applied one after the other, and only the
/// leader that the quorum follows can add some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// The term of the leader that the quorum follows.
    pub term: u8,
    pub fate: Fate,
    /// A newer revision of the job asks for the run back.
    pub edited: bool,
    /// The worker's latest session, and whether it is open.
    pub session: u8,
    pub session_open: bool,
    /// Has the first attempt's outcome been recorded?
    pub outcome_known: bool,
}

/// What became of the fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    Undecided,
    Given {
        to: Place,
        epoch: u8,
        attempt: u8,
    },
    /// It is proved that this attempt has not started and won't, where it was: it may be given to another.
    Free {
        epoch: u8,
        attempt: u8,
    },
    Superseded,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// This session of the worker.
    Worker(u8),
    /// The second worker.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proposal {
    Decide(Place),
    Close { killed: bool },
}

/// What only the leader's memory has: when the worker's last heartbeat was answered, at the latest, by whomever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    pub granted_at: Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    // To the worker.
    Stage {
        term: u8,
        session: u8,
        epoch: u8,
    },
    Revoke {
        term: u8,
        session: u8,
        epoch: u8,
    },
    /// The answer to a heartbeat that the worker sent when its own clock showed `sent_at`.
    Grant {
        term: u8,
        session: u8,
        sent_at: Tick,
    },
    /// The run's end is recorded.
    Recorded,
    /// The answer to `Open { previous, .. }`.
    Opened {
        previous: u8,
        session: u8,
    },
    // To the leader.
    /// What was given with this epoch has not started, and won't.
    NotStarted {
        epoch: u8,
    },
    /// Asks for a session after this one. The run was started before, or may have been, and stays; or it was not, and won't be. Requests
    /// that say the same are one here, sent again.
    Open {
        previous: u8,
        has_started: bool,
    },
}

/// The agent's memory, the guardian's child, and the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    /// Does the agent's process live?
    pub up: bool,
    /// How far its clock is ahead of the leaders'.
    pub clock_ahead: Tick,
    /// The agent's memory. No session: it has to register, or has asked for one and waits.
    pub session: Option<Session>,
    pub has_asked: bool,
    /// The newest session that it knows of. After a crash less may be known, but who asks with less is told this.
    pub newest: u8,
    /// The epoch of what is held until its instant.
    pub held: Option<u8>,
    /// The guardian: does the command run, and what does it count the lease from? It keeps that when the agent opens a new session, until
    /// there is a new grant.
    pub alive: bool,
    pub leased_from: Tick,
    pub journal: Journal,
    pub spool: Spool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    pub id: u8,
    /// What permit and lease are counted from, on the worker's clock.
    pub granted_at: Option<Tick>,
    pub term_seen: u8,
    /// Up to this epoch the run was given back as unstarted.
    pub tombstone: u8,
    /// The run was started in this session.
    pub started: bool,
}

/// Written, so a crash of the process leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Journal {
    pub accepted: Option<u8>,
    pub starting: bool,
}

/// The first attempt's result, for as long as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spool {
    Empty,
    Ended,
    /// Ended by the guardian, or after a restart: it may have run or not.
    Killed,
    Deleted,
}

/// The second worker, which holds its permit, keeps its promises and closes what it has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elsewhere {
    Idle,
    Running { attempt: u8 },
    Done,
}

/// What the properties are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Starts of the first attempt, anywhere.
    pub starts: u8,
    /// Up to this epoch the worker said that the run has not started and won't.
    pub not_started_said: u8,
    pub started_after_saying_so: bool,
    pub started_after_permit: bool,
    pub lower_term_obeyed: bool,
}

impl Session {
    pub fn new(id: u8) -> Session {
        Session { id, granted_at: None, term_seen: 0, tombstone: 0, started: false }
    }
}

impl Worker {
    /// The journal says that the run was started, or may have been.
    pub fn has_started(&self) -> bool {
        self.alive || self.journal.starting || self.spool != Spool::Empty
    }
}

impl World {
    /// The worker has been granted a permit when time begins; nothing is decided yet.
    pub fn new(scope: &Scope, clock_ahead: Tick) -> World {
        let session = Session { granted_at: Some(clock_ahead), ..Session::new(1) };
        World {
            now: 0,
            weather: Weather::Stormy,
            left: Left { crashes: scope.crashes, grants: scope.grants, changes_of_rate: scope.skew.into() },
            ledger: Ledger { term: TERMS[0], fate: Fate::Undecided, edited: false, session: 1, session_open: true, outcome_known: false },
            proposals: Vec::new(),
            leader: Leader { granted_at: 0 },
            sent: Vec::new(),
            worker: Worker {
                up: true,
                clock_ahead,
                session: Some(session),
                has_asked: false,
                newest: 1,
                held: None,
                alive: false,
                leased_from: clock_ahead,
                journal: Journal { accepted: None, starting: false },
                spool: Spool::Empty,
            },
            elsewhere: Elsewhere::Idle,
            seen: Seen::default(),
        }
    }

    pub fn is_stormy(&self) -> bool {
        self.weather == Weather::Stormy
    }

    pub fn send(&mut self, message: Message) {
        if let Err(place) = self.sent.binary_search(&message) {
            self.sent.insert(place, message);
        }
    }

    /// What the worker's own clock shows.
    pub fn worker_clock(&self) -> Tick {
        self.now + self.worker.clock_ahead
    }

    /// Is the session that the run was given to over, as the ledger says?
    pub fn is_over(&self, session: u8) -> bool {
        session < self.ledger.session || !self.ledger.session_open
    }
}
