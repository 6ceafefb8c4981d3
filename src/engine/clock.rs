//! Whether this node's wall clock may be trusted with deciding (PROTOCOL H). Pure: readings and samples of other clocks go in.
//!
//! A clock is good if it is within the limit of a majority of the configured controllers, itself included; where that leaves a tie,
//! workers break it (H2). With one controller that is always so. Where there are others, a clock is not good before they have said so: not
//! in the first moments of a node's life, and not after a jump against BOOTTIME (H3). Once proved it stays good until it is contradicted,
//! though nobody may be heard any more.
//!
//! A sample of another controller's clock is off by half its round trip at most, which speaks in favour of the clock while it is good. A
//! worker says its time with each heartbeat, which takes an unknown time to arrive: that only makes it look behind.
//!
//! Left out: whoever takes the samples, and what follows from a bad clock (`driver`).

use std::collections::{HashMap, HashSet, VecDeque};

use crate::model::{NodeId, SessionId, UnixMs};
use crate::mutation::{self, Mutation};

/// Samples of one source that count: the newest few, of the last seconds.
const SAMPLES_MAX: usize = 8;
const SAMPLE_AGE_MS_MAX: i64 = 10_000;
/// Clocks that are further apart than 100 years are as good as that far apart.
const OFFSET_MS_MAX: i64 = 100 * 366 * 86_400_000;
/// A clock that was bad is good again after so long within half the limit.
const REGAIN_MS: i64 = 10_000;
/// After a jump, readings that go on steadily for so long show that it is over.
const STEADY_MS: i64 = 100;
/// A clock that is not proved yet, and is contradicted by as many as agree, waits so long for others to speak before it counts as bad.
const TIE_PATIENCE_MS: i64 = 3_000;
/// How long a heartbeat may be under way and still count as the worker's time.
const HEARTBEAT_DELAY_MS_MAX: i64 = 500;

/// One reading of both clocks of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub wall: UnixMs,
    pub boot_ms: i64,
}

impl Reading {
    /// By how much the wall has gone ahead of BOOTTIME since an earlier reading.
    fn since(self, earlier: Reading) -> i64 {
        self.wall.since(earlier.wall) - (self.boot_ms - earlier.boot_ms)
    }
}

/// Whose clock was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Controller(NodeId),
    Worker(SessionId),
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    offset_ms: i64,
    rtt_ms: i64,
    at_boot_ms: i64,
}

pub struct ClockJudge {
    skew_ms_max: i64,
    /// The other voters; none while the configuration is not known.
    others: Option<HashSet<NodeId>>,
    samples: HashMap<Source, VecDeque<Sample>>,
    last: Option<Reading>,
    jump: Option<Jump>,
    standing: Standing,
}

/// What is known of this clock.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Standing {
    /// Not compared with a majority since this node was started, or its clock jumped; since when those heard contradict it.
    Unproved {
        tied_since_boot_ms: Option<i64>,
    },
    Good,
    /// The majority has another time; since when it has been well within the limit all the same.
    Outvoted {
        well_since_boot_ms: Option<i64>,
    },
}

impl Standing {
    const NEW: Standing = Standing::Unproved { tied_since_boot_ms: None };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// A majority of the configured controllers agrees; or as many do as don't, and more of the workers.
    With,
    /// Too few have spoken.
    Open,
    /// More contradict than agree, or as many, and the workers don't help.
    Tied,
    /// A majority of the configured controllers has another time.
    Against,
}

/// What suspended deciding.
#[derive(Clone, Copy)]
struct Jump {
    ms: i64,
    at_boot_ms: i64,
    is_steady: bool,
}

/// What the other clocks say.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Votes {
    agree: usize,
    differ: usize,
}

impl Votes {
    fn count(&mut self, agrees: bool) {
        if agrees { self.agree += 1 } else { self.differ += 1 }
    }
}

impl ClockJudge {
    pub fn new(skew_ms_max: i64) -> ClockJudge {
        ClockJudge { skew_ms_max, others: None, samples: HashMap::new(), last: None, jump: None, standing: Standing::NEW }
    }

    /// The voters besides this node: of their clocks and its own, a majority counts.
    pub fn set_others(&mut self, others: impl IntoIterator<Item = NodeId>) {
        let others: HashSet<NodeId> = others.into_iter().collect();
        self.samples.retain(|source, _| !matches!(source, Source::Controller(id) if !others.contains(id)));
        self.others = Some(others);
    }

    /// These sessions are over.
    pub fn retain_workers(&mut self, is_open: impl Fn(SessionId) -> bool) {
        self.samples.retain(|source, _| !matches!(source, Source::Worker(id) if !is_open(*id)));
    }

    /// By how much another clock is ahead of this node's wall, as it seemed, and how long asking took (0 for a heartbeat).
    pub fn sample(&mut self, source: Source, offset_ms: i64, rtt_ms: i64, boot_ms: i64) {
        if self.jump.is_some_and(|jump| boot_ms <= jump.at_boot_ms) {
            return; // taken by the clock as it was
        }
        let samples = self.samples.entry(source).or_default();
        // Others may say whatever they like, and it is computed with.
        let offset_ms = offset_ms.clamp(-OFFSET_MS_MAX, OFFSET_MS_MAX);
        samples.push_back(Sample { offset_ms, rtt_ms, at_boot_ms: boot_ms });
        while samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
    }

    /// Takes a reading; answers the jump of the wall clock that it shows, if it shows one. Deciding is suspended from then on, until later
    /// readings show the clock going on steadily, and the other controllers have been asked anew (PROTOCOL H3).
    pub fn observe(&mut self, reading: Reading) -> Option<i64> {
        let jump_ms = self.observe_jump(reading);
        for samples in self.samples.values_mut() {
            samples.retain(|sample| reading.boot_ms - sample.at_boot_ms <= SAMPLE_AGE_MS_MAX);
        }
        self.samples.retain(|_, samples| !samples.is_empty());
        self.judge(reading.boot_ms);
        self.jump = self.jump.filter(|jump| !jump.is_steady || self.is_unproved());
        jump_ms
    }

    /// Whether the wall clock was set since it was last observed.
    pub fn has_jumped(&self, reading: Reading) -> bool {
        self.last.is_some_and(|last| self.is_jump(reading.since(last)))
    }

    fn is_jump(&self, ms: i64) -> bool {
        ms.abs() > self.skew_ms_max / 2
    }

    fn observe_jump(&mut self, reading: Reading) -> Option<i64> {
        let Some(last) = self.last else {
            self.last = Some(reading);
            return None;
        };
        let elapsed_ms = reading.boot_ms - last.boot_ms;
        let jump_ms = reading.since(last);
        if self.is_jump(jump_ms) && !mutation::is(Mutation::JumpNotNoticed) {
            self.last = Some(reading);
            self.jump = Some(Jump { ms: jump_ms, at_boot_ms: reading.boot_ms, is_steady: false });
            self.samples.clear(); // they were taken by the clock as it was
            if !self.is_outvoted() {
                self.standing = Standing::NEW;
            }
            return Some(jump_ms);
        }
        if elapsed_ms >= STEADY_MS {
            self.last = Some(reading);
            if let Some(jump) = &mut self.jump {
                jump.is_steady = true;
            }
        }
        None
    }

    /// PROTOCOL H2: good when a majority says so, lost above the limit, regained below half of it for a while.
    fn judge(&mut self, boot_ms: i64) {
        if mutation::is(Mutation::ClockNotCompared) {
            self.standing = Standing::Good;
            return;
        }
        self.standing = match self.standing {
            Standing::Unproved { tied_since_boot_ms } => {
                let tied_since = tied_since_boot_ms.unwrap_or(boot_ms);
                match self.verdict(self.skew_ms_max, |sample| sample.offset_ms.abs()) {
                    Verdict::With => Standing::Good,
                    Verdict::Open if mutation::is(Mutation::UnprovedIsGood) => Standing::Good,
                    Verdict::Open => Standing::NEW,
                    Verdict::Tied if boot_ms - tied_since < TIE_PATIENCE_MS => Standing::Unproved { tied_since_boot_ms: Some(tied_since) },
                    Verdict::Tied | Verdict::Against => Standing::Outvoted { well_since_boot_ms: None },
                }
            }
            Standing::Good => match self.verdict(self.skew_ms_max, |sample| sample.offset_ms.abs() - sample.rtt_ms / 2) {
                Verdict::With | Verdict::Open => Standing::Good,
                Verdict::Tied | Verdict::Against => Standing::Outvoted { well_since_boot_ms: None },
            },
            Standing::Outvoted { well_since_boot_ms } => match self.verdict(self.skew_ms_max / 2, |sample| sample.offset_ms.abs()) {
                Verdict::With if well_since_boot_ms.is_some_and(|since| boot_ms - since >= REGAIN_MS) => Standing::Good,
                Verdict::With => Standing::Outvoted { well_since_boot_ms: well_since_boot_ms.or(Some(boot_ms)) },
                _ => Standing::Outvoted { well_since_boot_ms: None },
            },
        };
    }

    /// What those that can be asked say of this clock.
    fn verdict(&self, limit_ms: i64, distance_ms: impl Fn(Sample) -> i64) -> Verdict {
        let Some(others) = &self.others else { return Verdict::Open };
        let majority = others.len().div_ceil(2) + 1;
        let mut controllers = Votes { agree: 1, differ: 0 };
        for id in others {
            if let Some(best) = self.best(*id) {
                controllers.count(distance_ms(best) <= limit_ms);
            }
        }
        if controllers.agree >= majority {
            return Verdict::With;
        }
        if controllers.differ >= majority {
            return Verdict::Against;
        }
        if controllers.differ > controllers.agree {
            return Verdict::Tied;
        }
        if controllers.agree > controllers.differ {
            return Verdict::Open;
        }
        let mut workers = Votes::default();
        for source in self.samples.keys() {
            if let Source::Worker(session) = source {
                workers.count(!self.is_off(*session, limit_ms));
            }
        }
        if workers.agree > workers.differ { Verdict::With } else { Verdict::Tied }
    }

    /// The sample with the least round trip; the newest of those.
    fn best(&self, id: NodeId) -> Option<Sample> {
        self.samples.get(&Source::Controller(id))?.iter().rev().min_by_key(|sample| sample.rtt_ms).copied()
    }

    /// By how much a worker's clock is ahead of this one, or (by its way here, at least) behind it.
    pub fn offset_of(&self, worker: SessionId) -> Option<i64> {
        self.samples.get(&Source::Worker(worker))?.iter().map(|sample| sample.offset_ms).max()
    }

    fn is_off(&self, worker: SessionId, limit_ms: i64) -> bool {
        self.offset_of(worker).is_some_and(|offset_ms| offset_ms > limit_ms || offset_ms < -limit_ms - HEARTBEAT_DELAY_MS_MAX)
    }

    /// Whether a worker's clock is off by more than the limit, as this clock sees it.
    pub fn is_worker_off(&self, worker: SessionId) -> bool {
        self.is_off(worker, self.skew_ms_max)
    }

    pub fn is_good(&self) -> bool {
        self.jump.is_none() && self.standing == Standing::Good
    }

    /// The majority has another time: others should lead (PROTOCOL H1).
    pub fn is_outvoted(&self) -> bool {
        matches!(self.standing, Standing::Outvoted { .. })
    }

    /// Too few other controllers were heard since this node was started, or its clock jumped.
    pub fn is_unproved(&self) -> bool {
        matches!(self.standing, Standing::Unproved { .. })
    }

    /// Why the clock may not be trusted, for people.
    pub fn trouble(&self) -> Option<String> {
        if self.is_outvoted() {
            let others = self.others.iter().flatten();
            let offsets = others.filter_map(|id| Some(format!("{} ms off node {id}'s", -self.best(*id)?.offset_ms)));
            let mut offsets: Vec<String> = offsets.collect();
            offsets.sort();
            let limit_ms = self.skew_ms_max;
            return Some(format!("this node's clock is not with the majority (limit {limit_ms} ms): {}", offsets.join(", ")));
        }
        if let Some(jump) = self.jump {
            return Some(format!("the wall clock jumped by {} ms", jump.ms));
        }
        self.is_unproved().then(|| "this node's clock has not been compared with those of a majority of the controllers yet".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(wall: i64, boot_ms: i64) -> Reading {
        Reading { wall: UnixMs(wall), boot_ms }
    }

    #[test]
    fn a_clock_that_says_anything_at_all_is_only_wrong() {
        for offset_ms in [i64::MIN, i64::MIN + 1, i64::MAX] {
            let mut judge = ClockJudge::new(500);
            judge.set_others([2, 3]);
            for id in [2, 3] {
                judge.sample(Source::Controller(id), offset_ms, 0, 0);
            }
            judge.sample(Source::Worker(SessionId(1)), offset_ms, 0, 0);
            judge.observe(reading(1_000, 0));
            assert!(judge.is_outvoted() && judge.is_worker_off(SessionId(1)) && judge.trouble().is_some());
        }
    }

    #[test]
    fn a_jump_suspends_deciding_until_the_clock_goes_steadily() {
        let mut judge = ClockJudge::new(500);
        judge.set_others([]);
        assert_eq!(judge.observe(reading(1_000_000, 0)), None);
        assert_eq!(judge.observe(reading(1_001_100, 1_000)), None, "slewing is no jump");
        assert_eq!(judge.observe(reading(4_602_200, 2_100)), Some(3_600_000));
        assert!(!judge.is_good());
        assert_eq!(judge.observe(reading(4_602_210, 2_110)), None);
        assert!(!judge.is_good(), "too soon to tell");
        assert!(!judge.has_jumped(reading(4_602_250, 2_150)) && judge.has_jumped(reading(1_002_250, 2_150)), "nor has it been observed");
        assert_eq!(judge.observe(reading(4_602_310, 2_210)), None);
        assert!(judge.is_good());
        assert_eq!(judge.observe(reading(1_002_310, 2_210)), Some(-3_600_000), "back again");
        assert!(!judge.is_good());
    }

    const LIMIT: i64 = 500;

    /// Samples (source, offset, round trip) taken just now, in a cluster with these other controllers.
    fn judged(others: &[NodeId], samples: &[(Source, i64, i64)]) -> bool {
        let mut judge = ClockJudge::new(LIMIT);
        judge.set_others(others.iter().copied());
        for (source, offset_ms, rtt_ms) in samples {
            judge.sample(*source, *offset_ms, *rtt_ms, 0);
        }
        judge.observe(reading(1_000_000, 0));
        judge.is_good()
    }

    #[test]
    fn a_majority_of_the_configured_controllers_decides_and_workers_break_ties() {
        let node = Source::Controller;
        let worker = |id| Source::Worker(SessionId(id));
        for (is_good, others, samples) in [
            (true, &[][..], &[(worker(1), 9_000, 0), (worker(2), 9_000, 0)][..]),
            (true, &[2, 3], &[(node(2), 500, 0), (node(3), 9_000, 0)]),
            (true, &[2, 3], &[(node(2), -500, 0)]),
            (false, &[2, 3], &[(node(2), 501, 0), (node(3), -501, 0)]),
            (true, &[2, 3], &[(node(2), 9_000, 0), (node(2), 20, 1), (node(2), 700, 2), (node(3), 9_000, 0), (node(3), 1, 0)]),
            // Nobody can be asked: workers don't make up for that.
            (false, &[2, 3], &[]),
            (false, &[2, 3], &[(worker(1), 0, 0), (worker(2), 0, 0)]),
            // Only one of two can be asked, and contradicts.
            (false, &[2, 3], &[(node(2), 9_000, 0)]),
            (true, &[2, 3], &[(node(2), 9_000, 0), (worker(1), -400, 0)]),
            (false, &[2, 3], &[(node(2), 9_000, 0), (worker(1), 9_000, 0)]),
            (false, &[2, 3], &[(node(2), 9_000, 0), (node(3), 9_000, 0), (worker(1), 0, 0), (worker(2), 0, 0)]),
            // Two that disagree.
            (false, &[2], &[]),
            (false, &[2], &[(node(2), 9_000, 0)]),
            (true, &[2], &[(node(2), 9_000, 0), (worker(1), 0, 0), (worker(2), 0, 0), (worker(3), 9_000, 0)]),
            (false, &[2], &[(node(2), 9_000, 0), (worker(1), 9_000, 0), (worker(2), 0, 0)]),
            // Five.
            (true, &[2, 3, 4, 5], &[(node(2), 9_000, 0), (node(3), 9_000, 0), (node(4), 0, 0), (node(5), 0, 0)]),
            (false, &[2, 3, 4, 5], &[(node(2), 9_000, 0), (node(3), 9_000, 0), (node(4), 9_000, 0), (node(5), 0, 0)]),
            (false, &[2, 3, 4, 5], &[(node(2), 9_000, 0), (node(3), 9_000, 0), (node(4), 0, 0)]),
            // Two against one, or two alone, and nobody knows of the others.
            (false, &[2, 3, 4, 5], &[(node(2), 9_000, 0), (node(3), 0, 0)]),
            (false, &[2, 3, 4, 5], &[(node(2), 0, 0)]),
            // A clock that is no voter's doesn't count.
            (true, &[2], &[(node(2), 0, 0), (node(7), 9_000, 0), (node(8), 9_000, 0)]),
            (false, &[2], &[(node(7), 0, 0), (node(8), 0, 0)]),
        ] {
            assert_eq!(judged(others, samples), is_good, "{others:?} {samples:?}");
        }
    }

    #[test]
    fn a_clock_that_was_never_compared_is_not_good_and_is_as_soon_as_a_majority_says_so() {
        let mut judge = ClockJudge::new(LIMIT);
        judge.observe(reading(1_000_000, 0));
        assert!(!judge.is_good(), "the other controllers are not known yet");
        judge.set_others([2, 3]);
        judge.observe(reading(1_060_000, 60_000));
        assert!(!judge.is_good() && judge.is_unproved() && !judge.is_outvoted(), "however long nobody answers");
        assert!(judge.trouble().unwrap().contains("not been compared"));
        // The wrong one speaks first: that is no verdict yet.
        judge.sample(Source::Controller(3), 3_600_000, 0, 60_100);
        judge.observe(reading(1_060_100, 60_100));
        assert!(!judge.is_good(), "one against one");
        judge.sample(Source::Controller(2), 10, 0, 60_200);
        judge.observe(reading(1_060_200, 60_200));
        assert!(judge.is_good(), "at once");
        judge.observe(reading(1_160_200, 160_200));
        assert!(judge.is_good(), "though nobody is heard any more");

        let mut judge = ClockJudge::new(LIMIT);
        judge.set_others([2, 3]);
        for s in 0..=3 {
            assert!(!judge.is_good() && !judge.is_outvoted());
            judge.sample(Source::Controller(3), 3_600_000, 0, s * 1_000);
            judge.observe(reading(1_000_000 + s * 1_000, s * 1_000));
        }
        assert!(judge.is_outvoted(), "nobody else speaks");

        let mut judge = ClockJudge::new(LIMIT);
        judge.set_others([2, 3]);
        judge.sample(Source::Controller(3), 3_600_000, 0, 0);
        judge.sample(Source::Controller(2), 3_600_000, 0, 0);
        judge.observe(reading(1_000_000, 0));
        assert!(judge.is_outvoted(), "both say so");
    }

    #[test]
    fn a_proof_makes_nothing_of_a_long_round_trip_and_a_loss_does() {
        let mut judge = ClockJudge::new(LIMIT);
        judge.set_others([2]);
        judge.sample(Source::Controller(2), 501, 2, 0);
        judge.observe(reading(1_000_000, 0));
        assert!(!judge.is_good(), "it may be off by 502 ms");
        judge.sample(Source::Controller(2), 500, 1, 10);
        judge.observe(reading(1_000_010, 10));
        assert!(judge.is_good());
        judge.sample(Source::Controller(2), 501, 0, 20);
        judge.observe(reading(1_000_020, 20));
        assert!(!judge.is_good());

        let mut judge = ClockJudge::new(LIMIT);
        judge.set_others([2]);
        judge.sample(Source::Controller(2), 0, 10, 0);
        judge.observe(reading(1_000_000, 0));
        judge.sample(Source::Controller(2), 501, 2, 20);
        judge.observe(reading(1_000_020, 20));
        assert!(judge.is_good(), "it may be off by no more than 500 ms");
    }

    #[test]
    fn it_is_lost_above_the_limit_and_regained_below_half_of_it_for_a_while() {
        let mut judge = ClockJudge::new(LIMIT);
        judge.set_others([2, 3]);
        let mut good_at = |from_s: i64, offset_ms: i64| -> Vec<bool> {
            let second = |s: i64| {
                judge.sample(Source::Controller(2), offset_ms, 0, s * 1000);
                judge.sample(Source::Controller(3), offset_ms, 0, s * 1000);
                judge.observe(reading(1_000_000 + s * 1000, s * 1000));
                judge.is_good()
            };
            (from_s..from_s + 25).map(second).collect()
        };
        assert!(good_at(0, 499).iter().all(|good| *good));
        assert!(good_at(25, 501)[8..].iter().all(|good| !*good), "as soon as the old samples are gone");
        assert!(good_at(50, 300).iter().all(|good| !*good), "not before half the limit");
        let again = good_at(75, 250);
        let regained = again.iter().position(|good| *good).expect("regained");
        assert!((10..=18).contains(&regained), "after {regained} s");
        assert_eq!(judge.trouble(), None);
    }

    #[test]
    fn old_samples_and_those_from_before_a_jump_are_gone() {
        let mut judge = ClockJudge::new(LIMIT);
        judge.set_others([2, 3]);
        judge.observe(reading(1_000_000, 0));
        judge.sample(Source::Controller(2), 0, 0, 100);
        judge.sample(Source::Controller(3), 0, 0, 100);
        assert!(judge.observe(reading(1_601_000, 1_000)).is_some());
        judge.sample(Source::Controller(2), 0, 0, 1_000); // came in while the jump was being noticed
        judge.observe(reading(1_602_000, 2_000));
        assert!(!judge.is_good(), "steady, and nobody was asked since");
        for id in [2, 3] {
            judge.sample(Source::Controller(id), -600_000, 0, 2_100);
        }
        judge.observe(reading(1_602_200, 2_200));
        assert!(judge.is_outvoted() && judge.trouble().unwrap().contains("600000 ms off node 2's"));

        let mut judge = ClockJudge::new(LIMIT);
        judge.set_others([2, 3]);
        judge.sample(Source::Controller(2), 0, 0, 0);
        judge.observe(reading(1_000_000, 0));
        assert!(judge.is_good());
        judge.observe(reading(1_601_000, 1_000));
        judge.observe(reading(1_661_000, 61_000));
        assert!(!judge.is_good() && judge.trouble().unwrap().contains("jumped"), "nobody could be asked, however long ago");
        judge.sample(Source::Controller(2), 0, 0, 61_100);
        judge.observe(reading(1_661_100, 61_100));
        assert!(judge.is_good() && judge.trouble().is_none());
    }

    #[test]
    fn a_bad_clock_does_not_become_good_by_hearing_of_nobody() {
        let mut judge = ClockJudge::new(LIMIT);
        judge.set_others([2, 3]);
        judge.sample(Source::Controller(2), 9_000, 0, 0);
        judge.sample(Source::Controller(3), 9_000, 0, 0);
        for s in 0..60 {
            judge.observe(reading(1_000_000 + s * 1_000, s * 1_000));
            assert!(judge.is_outvoted(), "after {s} s");
        }
    }

    #[test]
    fn a_worker_is_off_by_what_its_way_here_cant_explain() {
        let mut judge = ClockJudge::new(LIMIT);
        let worker = SessionId(1);
        assert!(!judge.is_worker_off(worker));
        for (offset_ms, is_off) in [(-2_000, true), (-900, false), (-3_000, false), (501, true)] {
            judge.sample(Source::Worker(worker), offset_ms, 0, 0);
            assert_eq!(judge.is_worker_off(worker), is_off, "{offset_ms}");
        }
        assert_eq!(judge.offset_of(worker), Some(501));
    }
}
