//! Ranges of skipped fires (PROTOCOL B9) and the rule that a fire has one fate (B4).

use chrono_flow::ledger::{Command, Decide, Reply, Skip};
use chrono_flow::model::{JobSpec, Reason};

use super::world::{DAY, Habit, World};

#[test]
fn a_range_of_skips_is_not_hidden_by_a_shorter_one_within_it() {
    let mut world = World::new(DAY);
    let job = world.create(JobSpec::new("a", "* * * * * *", "c"), Habit { lasts_ms: 0, succeeds: true });
    for (from, to, count) in [(5_000, 5_000, 1), (1_000, 6_000, 6)] {
        let ledger = &world.ledger;
        let skip = Skip { job, revision: 1, from: DAY + from, to: DAY + to, count, reason: Reason::QueueFull };
        let (from, feed, after) = (ledger.watermark(), ledger.feed(), ledger.last_decision());
        let decide = Decide { at: DAY, from, to: from, feed, after, skips: vec![skip], ..Decide::default() };
        assert_eq!(world.apply(vec![Command::Decide(decide)]), [Reply::Done]);
    }
    for s in 1..=6 {
        assert!(world.ledger.is_decided(job, DAY + s * 1_000), "{s} s");
        let first = world.ledger.first_decided_between(job, DAY + (s - 1) * 1_000, DAY + s * 1_000);
        assert!(first.is_some_and(|first| first <= DAY + s * 1_000), "{s} s");
    }
    assert!(!world.ledger.is_decided(job, DAY) && !world.ledger.is_decided(job, DAY + 7_000));
}
