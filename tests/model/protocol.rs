//! The launch protocol as a stateright model: which steps there are, in what order the parts take them (any), and when time may pass.

use stateright::{Model, Property};

use crate::properties;
use crate::rules::{Rules, Scope, Tick};
use crate::world::{Message, Place, Weather, World};

#[derive(Clone, Debug)]
pub struct Protocol {
    pub rules: Rules,
    pub scope: Scope,
}

/// One step of one part. `leader.rs`, `worker.rs` and `faults.rs` say when each is possible and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    // The leader that the quorum follows, by the applied state.
    Propose(Place),
    Apply,
    Stage,
    Revoke,
    /// Answers a heartbeat.
    Grant,
    EndSession,
    /// The run's start lies behind the last permit of a session that is over.
    ProvePermitOver,
    NewAttempt,
    Give(Place),
    Supersede,
    TakeReport,
    // A leader that was deposed and doesn't know it.
    GrantDeposed,

    // The worker.
    /// Asks for a session, or asks again.
    Register,
    Begin,
    Spawn,
    /// The guardian refuses what the agent has begun.
    Refuse,
    /// The process is written down when it is already there (only without `journal_before_spawn`).
    NoteStarted,
    Finish,

    // The second worker.
    StartElsewhere,
    FinishElsewhere,

    // Outside.
    Arrive(Message),
    Edit,
    /// Time passes; by how much on the worker's clock.
    Tick(Tick),
    Elect,
    Crash,
    GuardianNotices,
    Restart,
    Calm {
        messages_lost: bool,
        worker_lost: bool,
    },
}

impl Protocol {
    /// Takes a step, or says that it isn't possible.
    fn take(&self, world: &mut World, step: Step) -> bool {
        match step {
            Step::Propose(place) => self.propose(world, place),
            Step::Apply => self.apply(world),
            Step::Stage => self.stage(world),
            Step::Revoke => self.revoke(world),
            Step::Grant => self.grant(world),
            Step::GrantDeposed => self.grant_deposed(world),
            Step::EndSession => self.end_session(world),
            Step::ProvePermitOver => self.prove_permit_over(world),
            Step::NewAttempt => self.new_attempt(world),
            Step::Give(place) => self.give(world, place),
            Step::Supersede => self.supersede(world),
            Step::TakeReport => self.take_report(world),
            Step::Register => self.register(world),
            Step::Begin => self.begin(world),
            Step::Spawn => self.spawn(world),
            Step::Refuse => self.refuse(world),
            Step::NoteStarted => self.note_started(world),
            Step::Finish => self.finish(world),
            Step::StartElsewhere => self.start_elsewhere(world),
            Step::FinishElsewhere => self.finish_elsewhere(world),
            Step::Arrive(message @ Message::NotStarted { .. }) => self.hear_not_started(world, message),
            Step::Arrive(message @ Message::Open { .. }) => self.open(world, message),
            Step::Arrive(message) => self.obey(world, message),
            Step::Edit => self.edit(world),
            Step::Tick(beats) => self.tick(world, beats),
            Step::Elect => self.elect(world),
            Step::Crash => self.crash(world),
            Step::GuardianNotices => self.guardian_notices(world),
            Step::Restart => self.restart(world),
            Step::Calm { messages_lost, worker_lost } => self.calm(world, messages_lost, worker_lost),
        }
    }

    fn after(&self, world: &World, step: Step) -> Option<World> {
        let mut after = world.clone();
        (self.take(&mut after, step) && after != *world).then_some(after)
    }

    /// What the parts of the protocol can do, apart from time, faults and people.
    fn own_steps(&self, world: &World) -> Vec<Step> {
        let here = Place::Worker(world.ledger.session);
        let mut steps = vec![
            Step::Propose(here),
            Step::Propose(Place::Elsewhere),
            Step::Apply,
            Step::Stage,
            Step::Revoke,
            Step::Grant,
            Step::EndSession,
            Step::ProvePermitOver,
            Step::NewAttempt,
            Step::Give(here),
            Step::Give(Place::Elsewhere),
            Step::Supersede,
            Step::TakeReport,
            Step::Register,
            Step::Begin,
            Step::Spawn,
            Step::Refuse,
            Step::NoteStarted,
            Step::Finish,
            Step::StartElsewhere,
            Step::FinishElsewhere,
            Step::GuardianNotices,
        ];
        if world.weather != Weather::CalmWithoutWorker {
            steps.push(Step::Restart);
        }
        steps.extend(world.sent.iter().map(|message| Step::Arrive(*message)));
        steps
    }

    /// In calm weather, time waits until all is done that can be.
    fn may_time_pass(&self, world: &World) -> bool {
        world.is_stormy() || self.own_steps(world).into_iter().all(|step| self.after(world, step).is_none())
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let clocks_ahead = 0..=if self.scope.skew { 1 } else { 0 };
        clocks_ahead.map(|ahead| World::new(&self.scope, ahead)).collect()
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        steps.extend(self.own_steps(world));
        if world.is_stormy() {
            steps.extend([Step::GrantDeposed, Step::Edit, Step::Elect, Step::Crash]);
            for messages_lost in [false, true] {
                steps.extend([false, true].map(|worker_lost| Step::Calm { messages_lost, worker_lost }));
            }
        }
        if self.may_time_pass(world) {
            steps.extend((0..=2).map(Step::Tick));
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        self.after(world, step)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        let examples = properties::examples().into_iter().filter(|example| self.scope.examples.contains(&example.name));
        properties::promises().into_iter().chain(examples).collect()
    }
}
