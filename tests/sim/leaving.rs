//! A worker that is asked to stop, step by step as `Agent::drain` and `Agent::stop` do it.

use chrono_flow::agent::runs::Now;

use crate::worker::Worker;

/// As in `agent`.
const DRAIN_GRACE_MS_MAX: u64 = 10_000;
const DRAIN_MARGIN_MS: u64 = 3_000;
const DRAIN_REPORTS_MS: u64 = 5_000;
const LEAVE_PATIENCE_MS: u64 = 3_000;
/// What the process takes to end.
const END_MS_MAX: u64 = 400;

/// What it waits for, and until which BOOTTIME.
#[derive(Clone, Copy)]
pub enum Leaving {
    /// Its runs end.
    Runs(i64),
    /// Their ends are acknowledged.
    Reports(i64),
    /// A leader takes the end of the session.
    Session(i64),
    /// The process ends.
    Ends(i64),
}

impl Leaving {
    pub fn until_us(self) -> i64 {
        match self {
            Leaving::Runs(until_us) | Leaving::Reports(until_us) | Leaving::Session(until_us) | Leaving::Ends(until_us) => until_us,
        }
    }
}

impl Worker {
    /// SIGTERM. Runs get so long; a second one ends the process.
    pub fn ask_to_stop(&mut self, drain_ms: u64) {
        match &self.agent {
            Some(agent) if agent.leaving.is_some() => self.die(),
            Some(_) => self.asked_to_stop_ms = Some(drain_ms),
            None => {}
        }
    }

    pub fn is_leaving(&self) -> bool {
        self.asked_to_stop_ms.is_some() || self.agent.as_ref().is_some_and(|agent| agent.leaving.is_some())
    }

    /// It has said that its session is over.
    pub fn has_left(&self) -> bool {
        let leaving = self.agent.as_ref().and_then(|agent| agent.leaving);
        matches!(leaving, Some(Leaving::Session(_) | Leaving::Ends(_)))
    }

    pub fn go_on_leaving(&mut self, now: Now) {
        let Some(agent) = &mut self.agent else { return };
        let in_ms = |ms: u64| now.boot_us + ms as i64 * 1_000;
        if let Some(drain_ms) = self.asked_to_stop_ms.take() {
            agent.runs.drain(now, drain_ms as i64 * 1_000, DRAIN_GRACE_MS_MAX);
            agent.calls.beat_at_once(now);
            agent.leaving = Some(Leaving::Runs(in_ms(drain_ms + DRAIN_GRACE_MS_MAX + DRAIN_MARGIN_MS)));
        }
        while let Some(leaving) = agent.leaving {
            let (counts, is_late) = (agent.runs.counts(), now.boot_us >= leaving.until_us());
            let next = match leaving {
                Leaving::Runs(_) if counts.live == 0 => Leaving::Reports(in_ms(DRAIN_REPORTS_MS)),
                Leaving::Reports(_) if counts.unreported == 0 => match agent.runs.session() {
                    Some(session) => {
                        agent.calls.leave(now, session);
                        Leaving::Session(in_ms(LEAVE_PATIENCE_MS))
                    }
                    None => Leaving::Ends(in_ms(self.random.below(END_MS_MAX))),
                },
                Leaving::Ends(_) if is_late => return self.die(),
                Leaving::Session(_) if is_late || agent.calls.is_session_closed() => Leaving::Ends(in_ms(self.random.below(END_MS_MAX))),
                Leaving::Runs(_) | Leaving::Reports(_) if is_late => Leaving::Ends(in_ms(self.random.below(END_MS_MAX))),
                _ => return,
            };
            agent.leaving = Some(next);
        }
    }
}
