//! A leader's links to its workers, as its driver has them: one batch at a time, one call at a time, a connection that is given up when a
//! call fails.

use std::collections::BTreeMap;

use chrono_flow::engine::clock::Reading;
use chrono_flow::engine::driver::{Answer, Batch, Delivery, LinkEvent};
use chrono_flow::engine::staging::Orders;
use chrono_flow::ledger::Ledger;
use chrono_flow::model::SessionId;

use crate::network::{Message, Place};

const CALL_TIMEOUT_MS: u64 = 2_000;
const BACKOFF_MS_MIN: u64 = 20;
const BACKOFF_MS_MAX: u64 = 500;

#[derive(Default)]
pub struct Links {
    links: BTreeMap<SessionId, Link>,
    /// Never used twice, by any life of any controller.
    next: u64,
}

struct Link {
    worker: usize,
    connection: Option<u64>,
    waiting: Option<Batch>,
    carried: Option<(Delivery, u64, Reading)>,
    call: Option<(u64, u64)>,
    rests_until_ms: u64,
    backoff_ms: u64,
}

impl Links {
    pub fn new(life: u64) -> Links {
        Links { links: BTreeMap::new(), next: life << 32 }
    }

    pub fn clear(&mut self) {
        self.links.clear();
    }

    pub fn follow(&mut self, ledger: &Ledger) {
        self.links.retain(|session, _| ledger.session(*session).is_some());
    }

    /// Takes a batch, if there is room for one.
    pub fn send(&mut self, batch: Batch) -> Result<(), Orders> {
        let worker = batch.session.address.parse().expect("a worker's address is its number");
        let new =
            || Link { worker, connection: None, waiting: None, carried: None, call: None, rests_until_ms: 0, backoff_ms: BACKOFF_MS_MIN };
        let link = self.links.entry(batch.session.id).or_insert_with(new);
        match link.waiting {
            Some(_) => Err(batch.orders),
            None => {
                link.waiting = Some(batch);
                Ok(())
            }
        }
    }

    pub fn answered(&mut self, session: SessionId, call: u64, answer: Answer) {
        let Some(link) = self.links.get_mut(&session).filter(|link| link.call.is_some_and(|(of, _)| of == call)) else { return };
        link.call = None;
        if let Some((delivery, ..)) = &mut link.carried {
            delivery.answered(answer);
        }
    }

    pub fn next_due_ms(&self) -> Option<u64> {
        let due = |link: &Link| match (link.call, &link.carried, &link.waiting) {
            (Some((_, deadline_ms)), ..) => Some(deadline_ms),
            (None, Some(_), _) => Some(0),
            (None, None, Some(_)) => Some(link.rests_until_ms),
            (None, None, None) => None,
        };
        self.links.values().filter_map(due).min()
    }

    /// Goes on with what can go on. Answers messages to send, and batches that have come to their end.
    pub fn pump(&mut self, now_ms: u64, skew_ms: i64) -> (Vec<(Place, Message)>, Vec<LinkEvent>) {
        let (mut messages, mut events) = (Vec::new(), Vec::new());
        for (session, link) in &mut self.links {
            if link.call.is_some_and(|(_, deadline_ms)| now_ms >= deadline_ms) {
                link.call = None;
                if let Some((delivery, ..)) = &mut link.carried {
                    delivery.answered(Answer::Failed);
                }
            }
            if link.carried.is_none() && now_ms >= link.rests_until_ms {
                link.carried =
                    link.waiting.take().map(|batch| (Delivery::new(*session, batch.stages, batch.orders), batch.term, batch.reading));
            }
            let Some((delivery, term, reading)) = link.carried.as_mut().filter(|_| link.call.is_none()) else { continue };
            // The clocks as they were judged: the wall may have been set since.
            let wall = reading.wall + (now_ms as i64 - reading.boot_ms);
            if let Some(order) = delivery.next(wall, skew_ms) {
                self.next += 2;
                let connection = *link.connection.get_or_insert(self.next - 1);
                link.call = Some((self.next, now_ms + CALL_TIMEOUT_MS));
                let message = Message::Order { call: self.next, connection, term: *term, session: *session, order };
                messages.push((Place::Worker(link.worker), message));
                continue;
            }
            let Some((delivery, ..)) = link.carried.take() else { continue };
            let event = delivery.finish();
            if event.failed.is_empty() {
                link.backoff_ms = BACKOFF_MS_MIN;
            } else {
                link.connection = None;
                link.rests_until_ms = now_ms + link.backoff_ms;
                link.backoff_ms = (link.backoff_ms * 2).min(BACKOFF_MS_MAX);
            }
            events.push(event);
        }
        (messages, events)
    }
}
