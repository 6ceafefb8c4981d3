//! The ledger as consensus drives it, and what everybody else on this node sees of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::consensus::{StateMachine, Status};
use crate::ledger::{Effect, Ledger, Reply, decode_entry};

/// Effects that are kept for the driver, at most; beyond that it is told to rebuild its index.
const EFFECTS_KEPT_MAX: usize = 500_000;

/// The ledger as of the last turn of the node. Reading it costs a few reference counts.
pub struct Shared {
    published: Mutex<Published>,
    /// Wakes the driver.
    changed: Notify,
    /// The feed's position, for those who wait for a change of a job.
    feed: watch::Sender<u64>,
}

#[derive(Default)]
struct Published {
    ledger: Ledger,
    status: Status,
    effects: Vec<Effect>,
    must_rebuild: bool,
}

/// What the driver takes over after a turn.
pub struct Update {
    pub ledger: Ledger,
    pub status: Status,
    pub effects: Vec<Effect>,
    /// The ledger came from a snapshot, or too much has happened: the index is to be made anew.
    pub must_rebuild: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Published> {
        // No code that can panic runs under this lock.
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ledger(&self) -> Ledger {
        self.lock().ledger.clone()
    }

    pub fn status(&self) -> Status {
        self.lock().status.clone()
    }

    pub fn feed(&self) -> watch::Receiver<u64> {
        self.feed.subscribe()
    }

    /// Something else has happened that the driver should look at.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes what has happened since the last call.
    pub fn take(&self) -> Update {
        let mut published = self.lock();
        Update {
            ledger: published.ledger.clone(),
            status: published.status.clone(),
            effects: std::mem::take(&mut published.effects),
            must_rebuild: std::mem::take(&mut published.must_rebuild),
        }
    }
}

/// The state machine. It lives on the node's thread.
pub struct Machine {
    ledger: Ledger,
    effects: Vec<Effect>,
    must_rebuild: bool,
    shared: Arc<Shared>,
}

impl Machine {
    pub fn new() -> (Machine, Arc<Shared>) {
        let shared = Arc::new(Shared { published: Mutex::default(), changed: Notify::new(), feed: watch::Sender::new(0) });
        (Machine { ledger: Ledger::default(), effects: Vec::new(), must_rebuild: true, shared: shared.clone() }, shared)
    }
}

impl StateMachine for Machine {
    type Outcome = Vec<Reply>;

    /// # Panics
    /// If the entry can't be read: it passed its checksum, so a newer version wrote it, and to go on without it would make this replica
    /// differ from the others. The node must stop.
    fn apply(&mut self, index: u64, _term: u64, entry: &[u8]) -> Vec<Reply> {
        match decode_entry(entry) {
            Ok(commands) => self.ledger.apply(index, commands, &mut self.effects),
            Err(error) => panic!("log entry {index}: {error}; upgrade this node"),
        }
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let ledger = self.ledger.clone();
        Box::new(move || ledger.encode())
    }

    fn restore(&mut self, _index: u64, bytes: &[u8]) -> Result<(), String> {
        self.ledger = Ledger::decode(bytes).map_err(|error| error.to_string())?;
        self.effects.clear();
        self.must_rebuild = true;
        Ok(())
    }

    fn publish(&mut self, status: &Status) {
        let feed = self.ledger.feed();
        {
            let mut published = self.shared.lock();
            published.ledger = self.ledger.clone();
            published.status = status.clone();
            published.effects.append(&mut self.effects);
            published.must_rebuild |= std::mem::take(&mut self.must_rebuild) || published.effects.len() > EFFECTS_KEPT_MAX;
            if published.must_rebuild {
                published.effects.clear();
            }
        }
        self.shared.feed.send_if_modified(|position| std::mem::replace(position, feed) != feed);
        self.shared.changed.notify_one();
    }
}
