//! Troubles in several steps, each of which leads to where one rule of the protocol is all that is left. They come only where they are
//! looked for.

use chrono_flow::ledger::{Command, Then, decode_entry};
use chrono_flow::model::{JobId, JobSpec, NodeId, Overlap};
use chrono_flow::rpc::peer::MembersWish;

use crate::controller::Seen;
use crate::disk::Loss;
use crate::faults::Mend;
use crate::network::{Place, Weather};
use crate::sim::Sim;
use crate::users::{LONG, QUICK};

/// An append with an entry has more bytes, a heartbeat with a read fewer.
const SMALL_FRAME_BYTES: usize = 80;

/// What a leader has just applied when it is cut off from its peers, before they hear that it is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// A new revision of this job.
    Edit(JobId),
    /// A run that a worker did not take is free again.
    Refusal,
}

impl Moment {
    fn is_in(self, seen: &Seen) -> bool {
        let Seen::Applied { entry, .. } = seen else { return false };
        decode_entry(entry).unwrap_or_default().iter().any(|command| match (self, command) {
            (Moment::Edit(id), Command::PutJob(job)) => job.id == id,
            (Moment::Refusal, Command::Unstarted { runs, .. }) => runs.iter().any(|(_, _, then)| *then == Then::Requeue),
            _ => false,
        })
    }
}

impl Sim {
    /// A job that fires every second, as it should be; none: it will be soon.
    fn quick_job(&mut self, start_deadline_s: u32) -> Option<(JobId, JobSpec)> {
        let now = self.leader().and_then(|leader| self.writes_at(leader))?;
        let name = format!("{QUICK}{start_deadline_s}");
        let mut spec = JobSpec::new(&name, "* * * * * *", "200 0 0");
        (spec.overlap, spec.start_deadline_s, spec.lost_after_s) = (Overlap::Allow, start_deadline_s, 20);
        let mut store = self.store.lock().unwrap();
        let known = store.jobs.values().find(|job| *job.spec.name == *name).map(|job| (job.id, job.spec.clone()));
        match known {
            Some((id, known)) if known == spec => return self.witness.ledger.has_job(id).then_some((id, spec)),
            Some((id, _)) => store.replace(id, spec, now),
            None => drop(store.create(spec, now)),
        }
        None
    }

    pub fn write_job(&mut self, id: JobId, spec: JobSpec) {
        if let Some(now) = self.leader().and_then(|leader| self.writes_at(leader)) {
            self.store.lock().unwrap().replace(id, spec, now);
        }
    }

    /// Nothing else begins to go wrong before a plot has come to its end.
    fn alone_for(&mut self, ms: u64) {
        self.troubles_at_ms = self.now_ms + ms;
    }

    fn part(&mut self, one: NodeId, other: NodeId, until_ms: u64) {
        self.cut(Place::Controller(one), Place::Controller(other), until_ms);
        self.cut(Place::Controller(other), Place::Controller(one), until_ms);
    }

    fn others(&self, than: NodeId) -> Vec<NodeId> {
        self.controllers.keys().copied().filter(|id| *id != than).collect()
    }

    /// A worker asks the leader for a session, and is not heard until it has long had one from another leader (PROTOCOL C1).
    pub fn delay_an_opening(&mut self) {
        let Some(leader) = self.leader() else { return };
        let index = self.some_worker();
        let way = (Place::Worker(index), Place::Controller(leader));
        self.alone_for(27_000);
        self.cut(way.0, way.1, self.now_ms + 23_000);
        self.network.keeps.insert(way);
        self.workers[index].die();
        self.worker_is_down(index, self.now_ms + 300);
        self.mend_at(self.now_ms + 4_000, Mend::Leader(leader));
        self.mend_at(self.now_ms + 20_500, Mend::LeadsAgain(leader));
    }

    /// What a worker has answered to the leader comes to nothing, and another one leads: it says again what was taken back
    /// (PROTOCOL E1).
    pub fn cut_leader_at_an_edit(&mut self) {
        if self.cuts_leader_at.is_some() {
            return;
        }
        let Some((id, mut spec)) = self.quick_job(30) else { return };
        self.cuts_leader_at = Some(Moment::Edit(id));
        spec.description = Some(self.now_ms.to_string().into());
        self.write_job(id, spec);
    }

    /// Workers take nothing for a moment. When the leader has freed what they declined, another one leads, which has not applied that
    /// yet (PROTOCOL B1).
    pub fn cut_leader_at_a_refusal(&mut self) {
        if self.quick_job(30).is_none() || self.cuts_leader_at.is_some() {
            return;
        }
        self.cuts_leader_at = Some(Moment::Refusal);
        for index in 0..self.workers.len() {
            self.workers[index].is_spool_full = true;
            self.mend_at(self.now_ms + 2_500, Mend::Spool(index));
        }
    }

    pub fn cut_leader_at_its_moment(&mut self, id: NodeId, seen: &[Seen]) {
        let Some(moment) = self.cuts_leader_at.filter(|moment| seen.iter().any(|seen| moment.is_in(seen))) else { return };
        if self.leader() != Some(id) {
            return;
        }
        self.cuts_leader_at = None;
        self.trace("cut at its moment", id, 0);
        let until_ms = self.now_ms + 4_000 + self.random.below(4_000);
        for other in self.others(id) {
            self.part(id, other, until_ms);
        }
        if moment == Moment::Refusal {
            for index in 0..self.workers.len() {
                self.mend_at(self.now_ms + 200, Mend::Spool(index));
            }
        }
    }

    /// Small frames come through and large ones don't: the leader leads on, and loses track of what it has proposed (PROTOCOL B2).
    pub fn lose_large_frames(&mut self) {
        if self.quick_job(1).is_none() {
            return;
        }
        self.network.frame_bytes_max = SMALL_FRAME_BYTES;
        self.alone_for(36_000);
        self.users.next_ms = self.now_ms + 36_000; // a change of a job makes decisions void, too
        let until_ms = self.now_ms + 31_500 + self.random.below(2_500);
        self.mend_at(until_ms, Mend::LargeFrames);
    }

    /// As `LeaderSleeps`, for almost as long as a lease: it wakes up within the last grant that it gave, and could give another one
    /// (PROTOCOL C3).
    pub fn leader_wakes_late(&mut self) {
        let Some(leader) = self.leader() else { return };
        let holds = |index: &usize| self.workers[*index].guardian.processes.values().any(|process| process.launch.job == LONG);
        let is_heard = |index: &usize| !self.network.is_blocked(Place::Worker(*index), Place::Controller(leader));
        let Some(index) = (0..self.workers.len()).filter(holds).find(is_heard) else { return };
        let asleep_ms = 12_500 + self.random.below(1_300);
        self.alone_for(30_000);
        let until_ms = self.now_ms + asleep_ms + 20_000;
        self.controllers.get_mut(&leader).expect("a known node").paused_until_ms = self.now_ms + asleep_ms;
        for id in self.others(leader) {
            self.cut(Place::Worker(index), Place::Controller(id), until_ms);
            self.cut(Place::Controller(id), Place::Worker(index), until_ms);
        }
    }

    /// A job is switched off and, a moment later, on again: what was taken back is decided anew, under the same ids.
    pub fn edit_and_back(&mut self) -> Option<()> {
        let (id, spec) = self.quick_job(30)?;
        self.write_job(id, JobSpec { is_enabled: false, ..spec.clone() });
        let at_ms = self.now_ms + 300 + self.random.below(600);
        self.mend_at(at_ms, Mend::Job(id, Box::new(spec)));
        Some(())
    }

    /// The leader's write of a row is on its way for long. Meanwhile another one leads, and writes what became of the run since
    /// (PROTOCOL F1).
    pub fn recorder_stalls(&mut self) {
        let Some(leader) = self.leader() else { return };
        if self.edit_and_back().is_none() {
            return;
        }
        let ms = 8_000 + self.random.below(8_000);
        self.store.lock().unwrap().stalls = Some((leader, ms));
        self.mend_at(self.now_ms + 1_000, Mend::Leader(leader));
    }

    /// A controller's disk is exchanged while another one lacks entries that both of them should know: together they are no majority
    /// (PROTOCOL G1). Once in a history, and not where members change.
    pub fn wipe_controller(&mut self) {
        let Some(leader) = self.leader().filter(|_| self.controllers.len() == 3 && self.wiped.is_none()) else { return };
        let mut others = self.others(leader);
        if self.random.chance(50) {
            others.reverse();
        }
        let [wiped, last] = others[..] else { return };
        let is_up = |id: &NodeId| self.controllers[id].life.is_some() && self.controllers[id].paused_until_ms <= self.now_ms;
        if !others.iter().all(is_up) {
            return;
        }
        self.wiped = Some(wiped);
        self.alone_for(11_000);
        for other in [leader, wiped] {
            self.part(last, other, self.now_ms + 1_500);
        }
        self.mend_at(self.now_ms + 1_500, Mend::Wipe([wiped, last, leader]));
    }

    pub fn wipe(&mut self, wiped: NodeId, last: NodeId, leader: NodeId) {
        self.crash(wiped, Loss::Everything, self.now_ms + 100);
        self.controllers[&wiped].disk.wipe();
        if self.is_calm {
            return;
        }
        let until_ms = self.now_ms + 8_000;
        for other in [wiped, last] {
            self.part(leader, other, until_ms);
        }
    }

    /// The member with another disk goes, as an operator has it go who knows.
    pub async fn remove_wiped(&mut self) {
        let Some(wiped) = self.wiped else { return };
        for _ in 0..20 {
            let Some(leader) = self.leader().filter(|_| self.members().contains(&wiped)) else { break };
            self.wish(leader, MembersWish::Remove { id: wiped });
            self.run_until(self.now_ms + 500).await;
        }
        assert!(!self.members().contains(&wiped), "the wiped member {wiped} could not be removed");
    }

    /// A controller comes back with a clock that was set meanwhile.
    pub fn start_by_another_time(&mut self) {
        if self.is_a_clock_off() {
            return;
        }
        let (id, loss, restarts_at_ms) = (self.some_node(), self.loss(), self.later(2_000));
        self.crash(id, loss, restarts_at_ms);
        let jump_ms = self.random.pick(&[-3_600_000, -3_000, 3_000, 3_600_000]);
        self.controllers.get_mut(&id).expect("a known node").clock.jump(jump_ms);
        self.had_clock_trouble = true;
        let at_ms = restarts_at_ms + 10_000;
        self.mend_at(at_ms, Mend::Clock(Place::Controller(id)));
    }

    /// A controller's clock is set while answers to what it has asked the others are long on their way.
    pub fn set_clock_while_asking(&mut self) {
        if self.is_a_clock_off() {
            return;
        }
        self.network.weather = Weather { drop_percent: 0, duplicate_percent: 0, delay_ms_max: 400 };
        self.had_clock_trouble = true;
        let (id, now_ms, ms) = (self.some_node(), self.now_ms, self.random.pick(&[-3_600_000, -3_000, 3_000, 3_600_000]));
        self.mend_at(now_ms + 1_500, Mend::SetsClock(id, ms));
        self.mend_at(now_ms + 3_000, Mend::Weather);
        self.mend_at(now_ms + 6_000, Mend::Clock(Place::Controller(id)));
    }
}
