//! Election time-outs from a seed. raft draws them from the operating system's randomness whenever it resets; they are overridden before
//! they can have an effect, so that one seed gives one history.

use raft::{Raft, StateRole, Storage};

use crate::consensus::config::ELECTION_TICKS;

pub struct Election {
    seed: u64,
    draws: u64,
    seen: (u64, StateRole, u64),
    ticks: usize,
}

impl Election {
    pub fn new(seed: u64) -> Election {
        Election { seed, draws: 0, seen: (0, StateRole::Follower, 0), ticks: draw(seed, 0) }
    }

    /// To be called after whatever may have changed the term, the role or the leader, and before a tick.
    pub fn steady<T: Storage>(&mut self, raft: &mut Raft<T>) {
        let now = (raft.term, raft.state, raft.leader_id);
        if now != self.seen {
            self.seen = now;
            self.draws += 1;
            self.ticks = draw(self.seed, self.draws);
        }
        raft.set_randomized_election_timeout(self.ticks);
    }
}

/// A number of ticks in [shortest, twice the shortest).
fn draw(seed: u64, count: u64) -> usize {
    ELECTION_TICKS + (mix(seed ^ mix(count)) % ELECTION_TICKS as u64) as usize
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
