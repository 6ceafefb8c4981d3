//! Whether this node's wall clock may be trusted with deciding (PROTOCOL H). Pure: readings go in.
//!
//! With one controller the majority is that controller, so its own clock is good by definition (H2); what remains is a jump against
//! BOOTTIME (H3).

use crate::model::UnixMs;

/// One reading of both clocks of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub wall: UnixMs,
    pub boot_ms: i64,
}

pub struct ClockJudge {
    skew_ms_max: i64,
    last: Option<Reading>,
    /// The jump that suspended deciding, until a newer reading agrees with the one after it.
    jump_ms: Option<i64>,
}

impl ClockJudge {
    pub fn new(skew_ms_max: i64) -> ClockJudge {
        ClockJudge { skew_ms_max, last: None, jump_ms: None }
    }

    /// Takes a reading; answers the jump of the wall clock that it shows, if it shows one. Deciding is suspended from then on, until a
    /// later reading shows the clock going on steadily (PROTOCOL H3).
    pub fn observe(&mut self, reading: Reading) -> Option<i64> {
        const STEADY_MS: i64 = 100;
        let Some(last) = self.last else {
            self.last = Some(reading);
            return None;
        };
        let elapsed_ms = reading.boot_ms - last.boot_ms;
        let jump_ms = reading.wall.since(last.wall) - elapsed_ms;
        if jump_ms.abs() > self.skew_ms_max / 2 {
            self.last = Some(reading);
            self.jump_ms = Some(jump_ms);
            return Some(jump_ms);
        }
        if elapsed_ms >= STEADY_MS {
            self.last = Some(reading);
            self.jump_ms = None;
        }
        None
    }

    pub fn is_good(&self) -> bool {
        self.jump_ms.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(wall: i64, boot_ms: i64) -> Reading {
        Reading { wall: UnixMs(wall), boot_ms }
    }

    #[test]
    fn a_jump_suspends_deciding_until_the_clock_goes_steadily() {
        let mut judge = ClockJudge::new(500);
        assert_eq!(judge.observe(reading(1_000_000, 0)), None);
        assert_eq!(judge.observe(reading(1_001_100, 1_000)), None, "slewing is no jump");
        assert_eq!(judge.observe(reading(4_602_200, 2_100)), Some(3_600_000));
        assert!(!judge.is_good());
        assert_eq!(judge.observe(reading(4_602_210, 2_110)), None);
        assert!(!judge.is_good(), "too soon to tell");
        assert_eq!(judge.observe(reading(4_602_310, 2_210)), None);
        assert!(judge.is_good());
        assert_eq!(judge.observe(reading(1_002_310, 2_210)), Some(-3_600_000), "back again");
        assert!(!judge.is_good());
    }
}
