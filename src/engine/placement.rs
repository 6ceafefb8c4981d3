//! Which worker gets a run: of those that may take work, the one with the least outstanding work a slot. Pure.

use std::collections::HashMap;

use crate::model::SessionId;

/// What the leader knows of the sessions that live, beyond the ledger.
#[derive(Default, Clone, Debug)]
pub struct Fleet {
    pub sessions: HashMap<SessionId, Health>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Health {
    pub slots: u32,
    /// Holds a lease, is not draining, has no trouble.
    pub takes_work: bool,
    /// Open runs that are assigned to it.
    pub outstanding: u32,
}

impl Fleet {
    /// Chooses a session, and counts one more run there.
    pub fn choose(&mut self) -> Option<SessionId> {
        let (id, health) =
            self.sessions.iter_mut().filter(|(_, health)| health.takes_work && health.slots > 0).min_by(|(a_id, a), (b_id, b)| {
                let (a_load, b_load) = (u64::from(a.outstanding) * u64::from(b.slots), u64::from(b.outstanding) * u64::from(a.slots));
                a_load.cmp(&b_load).then_with(|| a_id.cmp(b_id))
            })?;
        health.outstanding += 1;
        Some(*id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_work_a_slot_gets_the_next_run() {
        let mut fleet = Fleet::default();
        fleet.sessions.insert(SessionId(1), Health { slots: 2, takes_work: true, outstanding: 0 });
        fleet.sessions.insert(SessionId(2), Health { slots: 4, takes_work: true, outstanding: 0 });
        fleet.sessions.insert(SessionId(3), Health { slots: 64, takes_work: false, outstanding: 0 });
        fleet.sessions.insert(SessionId(4), Health { slots: 0, takes_work: true, outstanding: 0 });
        let chosen: Vec<u64> = (0..6).map(|_| fleet.choose().unwrap().0).collect();
        assert_eq!(chosen, [1, 2, 2, 1, 2, 2]);
        assert_eq!(Fleet::default().choose(), None);
    }
}
