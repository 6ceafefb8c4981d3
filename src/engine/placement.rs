//! Which worker gets a run: of those that may take work and have the labels that the job asks for, the one with the least outstanding
//! work a slot; one to which orders fail, or that owes an answer to them, only if all are so. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ledger::Session;
use crate::model::SessionId;

/// Labels with their values that a worker must have.
pub type Selector = BTreeMap<String, String>;

/// What the leader knows of the sessions that live, beyond the ledger.
#[derive(Default, Clone, Debug)]
pub struct Fleet {
    pub sessions: HashMap<SessionId, Health>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Health {
    pub session: Arc<Session>,
    /// Was heard from just now, is not draining, has no trouble, and its clock is right.
    pub takes_work: bool,
    /// Nothing that it was told waits long for its answer: what is given to it arrives.
    pub answers: bool,
    /// Open runs that are assigned to it.
    pub outstanding: u32,
}

impl Health {
    fn may_take(&self, selector: &Selector) -> bool {
        let labels = &self.session.labels;
        self.takes_work && self.session.slots > 0 && selector.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

impl Fleet {
    /// Chooses a session, and counts one more run there.
    pub fn choose(&mut self, selector: &Selector) -> Option<SessionId> {
        let candidates = self.sessions.iter_mut().filter(|(_, health)| health.may_take(selector));
        let (id, health) = candidates.min_by(|(a_id, a), (b_id, b)| {
            let a_load = u64::from(a.outstanding) * u64::from(b.session.slots);
            let b_load = u64::from(b.outstanding) * u64::from(a.session.slots);
            b.answers.cmp(&a.answers).then(a_load.cmp(&b_load)).then_with(|| a_id.cmp(b_id))
        })?;
        health.outstanding += 1;
        Some(*id)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{UnixMs, WorkerId};

    fn labels(pairs: &[(&str, &str)]) -> Selector {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Session, slots, whether it takes work, labels.
    type Worker<'a> = (u64, u32, bool, &'a [(&'a str, &'a str)]);

    fn fleet(workers: &[Worker]) -> Fleet {
        let health = |(id, slots, takes_work, pairs): &Worker| {
            let session = Session {
                id: SessionId(*id),
                worker: WorkerId(format!("w{id}")),
                data_dir: Uuid::from_u128(u128::from(*id)),
                address: String::new(),
                labels: labels(pairs),
                slots: *slots,
                opened_at: UnixMs(0),
                ended_at: None,
            };
            (SessionId(*id), Health { session: Arc::new(session), takes_work: *takes_work, answers: true, outstanding: 0 })
        };
        Fleet { sessions: workers.iter().map(health).collect() }
    }

    #[test]
    fn the_least_work_a_slot_gets_the_next_run() {
        let mut fleet = fleet(&[(1, 2, true, &[]), (2, 4, true, &[]), (3, 64, false, &[]), (4, 0, true, &[])]);
        let chosen: Vec<u64> = (0..6).map(|_| fleet.choose(&Selector::new()).unwrap().0).collect();
        assert_eq!(chosen, [1, 2, 2, 1, 2, 2]);
        assert_eq!(Fleet::default().choose(&Selector::new()), None);
    }

    #[test]
    fn one_that_owes_an_answer_comes_after_all_others_and_before_none() {
        let mut fleet = fleet(&[(1, 64, true, &[]), (2, 1, true, &[]), (3, 64, false, &[])]);
        fleet.sessions.get_mut(&SessionId(1)).unwrap().answers = false;
        assert!((0..5).all(|_| fleet.choose(&Selector::new()) == Some(SessionId(2))));
        fleet.sessions.remove(&SessionId(2));
        assert_eq!(fleet.choose(&Selector::new()), Some(SessionId(1)));
    }

    #[test]
    fn a_worker_needs_every_label_with_its_value() {
        let mut fleet = fleet(&[(1, 1, true, &[("zone", "eu")]), (2, 1, true, &[("zone", "eu"), ("gpu", "yes")]), (3, 9, true, &[])]);
        let mut choose = |pairs: &[(&str, &str)]| fleet.choose(&labels(pairs)).map(|id| id.0);
        assert_eq!(choose(&[("zone", "eu"), ("gpu", "yes")]), Some(2));
        assert_eq!(choose(&[("zone", "eu"), ("gpu", "yes")]), Some(2), "there is no other, however busy it is");
        assert_eq!(choose(&[("zone", "eu")]), Some(1));
        assert_eq!(choose(&[("zone", "us")]), None);
        assert_eq!(choose(&[("zone", "")]), None);
    }
}
