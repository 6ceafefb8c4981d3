//! The words of the transcripts.

use std::error::Error;

use chrono_flow::ledger::Command as Entry;
use chrono_flow::model::{CatchUp, JobId, JobSpec, OnWorkerLost, Overlap, Reason, Retry, RunId, SessionId};
use goldenscript::{Command, Runner};
use uuid::Uuid;

use super::world::{CLUSTER, DAY, Habit, World, at};

struct Script {
    world: World,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    Ok(serde_json::from_value(serde_json::Value::String(text.to_owned()))?)
}

/// Applies `key=value` arguments to a job.
fn set(spec: &mut JobSpec, key: &str, value: &str) -> Result<()> {
    match key {
        "schedule" => spec.schedule = value.into(),
        "overlap" => spec.overlap = word::<Overlap>(value)?,
        "catch_up" => spec.catch_up = word::<CatchUp>(value)?,
        "catch_up_max" => spec.catch_up_max = value.parse()?,
        "window" => spec.catch_up_window_s = value.parse()?,
        "selector" => {
            let (label, value) = value.split_once(':').ok_or("label:value")?;
            spec.worker_selector = [(label.to_owned(), value.to_owned())].into();
        }
        "on_lost" => spec.on_worker_lost = word::<OnWorkerLost>(value)?,
        "lost_after" => spec.lost_after_s = value.parse()?,
        "kill_grace" => spec.kill_grace_s = value.parse()?,
        "deadline" => spec.start_deadline_s = value.parse()?,
        "attempts" => spec.retry = Retry { max_attempts: value.parse()?, backoff_s: 2, max_backoff_s: 60 },
        "backoff" => (spec.retry.backoff_s, spec.retry.max_backoff_s) = (value.parse()?, value.parse()?),
        "enabled" => spec.is_enabled = value.parse()?,
        "ends_at" => spec.ends_at = Some(at(value)?),
        "starts_at" => spec.starts_at = Some(at(value)?),
        _ => return Err(format!("no such setting: {key}").into()),
    }
    Ok(())
}

impl Script {
    fn job(&self, name: &str) -> Result<JobId> {
        let found = self.world.specs.values().find(|job| &*job.spec.name == name);
        Ok(found.ok_or(format!("no job {name}"))?.id)
    }

    fn create(&mut self, command: &Command) -> Result<()> {
        let mut args = command.consume_args();
        let name = args.next_pos().ok_or("a name")?.value.clone();
        let mut spec = JobSpec::new(&name, "* * * * * *", "true");
        let mut habit = Habit { lasts_ms: 100, succeeds: true };
        for arg in &command.args {
            match (arg.key.as_deref(), &*arg.value) {
                (None, _) => {}
                (Some("lasts"), value) => habit.lasts_ms = (value.parse::<f64>()? * 1000.0) as i64,
                (Some("fails"), value) => habit.succeeds = !value.parse::<bool>()?,
                (Some(key), value) => set(&mut spec, key, value)?,
            }
        }
        self.world.create(spec, habit);
        Ok(())
    }

    fn edit(&mut self, command: &Command) -> Result<()> {
        let id = self.job(&command.args.first().ok_or("a name")?.value)?;
        let mut from = self.world.now;
        let mut failure = None;
        let given = command.args.clone();
        if let Some(arg) = given.iter().find(|arg| arg.key.as_deref() == Some("from")) {
            from = at(&arg.value)?;
        }
        self.world.edit(id, from, |spec| {
            for arg in given.iter().filter(|arg| arg.key.as_deref().is_some_and(|key| key != "from")) {
                if let Err(error) = set(spec, arg.key.as_deref().unwrap_or(""), &arg.value) {
                    failure = Some(error.to_string());
                }
            }
        });
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// `worker up|away|dies|cut|back [NAME] [label=value…]`; NAME' is another process that goes by the same name.
    fn worker(&mut self, command: &Command) -> Result<()> {
        let mut args = command.consume_args();
        let word = args.next_pos().ok_or("a word")?.value.clone();
        let name: &'static str = args.next_pos().map_or("w", |arg| String::leak(arg.value.clone()));
        match word.as_str() {
            "up" => {
                let labels = command.args.iter().filter_map(|arg| Some((arg.key.clone()?, arg.value.clone())));
                if !self.world.worker_up(name, labels.collect()) {
                    self.world.diary.push(format!("         {name} has to wait"));
                }
            }
            "away" => self.world.worker_down(name),
            "dies" => self.world.worker_dies(name),
            "cut" => self.world.workers.get_mut(name).ok_or("no such worker")?.is_cut = true,
            "back" => self.world.workers.get_mut(name).ok_or("no such worker")?.is_cut = false,
            other => return Err(format!("worker {other}?").into()),
        }
        Ok(())
    }

    fn trigger(&mut self, command: &Command) -> Result<()> {
        let job = self.job(&command.args.first().ok_or("a name")?.value)?;
        let key = command.args.iter().find(|arg| arg.key.as_deref() == Some("key")).map(|arg| arg.value.clone());
        let run = match &key {
            Some(key) => RunId::of_key(CLUSTER, job, key),
            None => RunId::at(self.world.now, Uuid::new_v5(&CLUSTER.0, &self.world.starts.len().to_be_bytes()).as_u128()),
        };
        let now = self.world.now;
        let replies = self.world.apply(vec![Entry::Trigger { at: now, job, run, has_key: key.is_some(), session: None }]);
        self.world.diary.push(format!("         answer {replies:?}"));
        Ok(())
    }

    fn cancel(&mut self, command: &Command) -> Result<()> {
        let job = self.job(&command.args.first().ok_or("a name")?.value)?;
        let open = self.world.ledger.open_runs_of(job).map(|run| run.id).collect::<Vec<_>>();
        let now = self.world.now;
        for run in open {
            self.world.apply(vec![Entry::Cancel { at: now, run, reason: Reason::Requested }]);
        }
        Ok(())
    }
}

impl Runner for Script {
    fn run(&mut self, command: &Command) -> std::result::Result<String, Box<dyn Error>> {
        let first = || command.args.first().map(|arg| arg.value.clone()).ok_or("an argument is missing");
        match command.name.as_str() {
            "at" => self.world.now = at(&first()?)?,
            "create" => self.create(command)?,
            "edit" => self.edit(command)?,
            "delete" => {
                let job = self.job(&first()?)?;
                self.world.delete(job);
            }
            "trigger" => self.trigger(command)?,
            "cancel" => self.cancel(command)?,
            "worker" => self.worker(command)?,
            "workers" => {
                let state = |worker: &super::workers::Worker| if worker.has_session() { "session" } else { "none" };
                return Ok(self.world.workers.iter().map(|(name, worker)| format!("{name}: {}\n", state(worker))).collect());
            }
            "slots" => self.world.set_slots(first()?.parse()?),
            "takeover" => self.world.take_over(),
            "run" => self.world.run_to(at(&first()?)?),
            "settle" => self.world.settle(),
            "store" => match first()?.as_str() {
                "away" => self.world.records_automatically = false,
                "back" => {
                    self.world.records_automatically = true;
                    self.world.record();
                }
                other => return Err(format!("store {other}?").into()),
            },
            "lookahead" => self.world.set_lookahead(first()?.parse::<i64>()? * 1000),
            "unrecorded_max" => self.world.set_unrecorded_max(first()?.parse()?),
            "revokes" => match first()?.as_str() {
                "wait" => self.world.holds_back_revokes = true,
                "answer" => {
                    self.world.holds_back_revokes = false;
                    self.world.answer_revokes();
                }
                other => return Err(format!("revokes {other}?").into()),
            },
            "stale_decide" => {
                let decide = chrono_flow::ledger::Decide { at: self.world.now, from: DAY, to: DAY, ..Default::default() };
                let replies = self.world.apply(vec![Entry::Decide(decide)]);
                self.world.diary.push(format!("         answer {replies:?}"));
            }
            "assign_to_ended_session" => {
                let runs = self.world.ledger.open_runs().map(|run| (run.id, SessionId(0))).collect();
                self.world.apply(vec![Entry::Assign { runs }]);
            }
            "watermark" => return Ok(super::world::clock(self.world.ledger.watermark()) + "\n"),
            other => return Err(format!("no such word: {other}").into()),
        }
        let diary = std::mem::take(&mut self.world.diary);
        Ok(diary.into_iter().map(|line| line + "\n").collect())
    }
}

fn play(path: &std::path::Path) {
    let mut script = Script { world: World::new(DAY) };
    goldenscript::run(&mut script, path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[test]
fn transcripts_are_as_they_were() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "the transcripts are missing");
    paths.iter().for_each(|path| play(path));
}
