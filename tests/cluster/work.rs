//! The jobs of a test: when each should have run, as plain arithmetic, and whether it did.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::api::{Api, Row, instant, instant_ms};
use crate::audit::{Span, Story};
use crate::cluster::Cluster;
use crate::wait::{eventually, now_ms};
use crate::witness::Line;

/// A change that the scheduler has not taken up when it is answered is taken up so soon, once somebody leads.
const UNAPPLIED_MS_MAX: i64 = 15_000;

/// Fires that come so soon after their job was made may be staged late.
const SETTLE_MS: i64 = 1_500;

/// What became of each fire of a job: its state, and its reason.
pub type Fates = BTreeMap<i64, (String, String)>;

/// A job, and the times over which it is enabled.
pub struct Job {
    pub name: String,
    pub value: Value,
    every_s: i64,
    spans: Vec<Span>,
    is_enabled: bool,
    /// When revisions came into effect.
    edits: Vec<Edit>,
    /// No two runs at once.
    is_alone: bool,
    /// Its last run goes on until it is cancelled.
    is_endless: bool,
}

/// A revision owns the instants after `from_ms`; after `sure_ms` none of an older one may start.
struct Edit {
    revision: u64,
    from_ms: i64,
    sure_ms: i64,
}

#[derive(Default)]
pub struct Work {
    pub jobs: Vec<Job>,
}

/// What witness and history tell, when all is over.
pub struct Verdict {
    pub rows: Vec<Row>,
    pub lines: Vec<Line>,
    /// By the job's name.
    pub fates: BTreeMap<String, Fates>,
}

impl Job {
    pub fn id(&self) -> i64 {
        self.value["id"].as_i64().expect("an id")
    }

    fn is_allow(&self) -> bool {
        !self.is_alone
    }

    /// Whether the job was enabled at an instant for sure, and not only perhaps.
    fn owns(&self, at_ms: i64) -> bool {
        self.spans.iter().any(|span| span.after_ms < at_ms && at_ms <= span.to_ms)
    }

    /// Changes the job, and waits until nothing of its older revision can start any more; answers when that was.
    #[track_caller]
    fn change(&mut self, api: &Api, change: &Value) -> i64 {
        let path = format!("/jobs/{}", self.value["id"]);
        let known = self.value["revision"].as_u64().expect("a revision");
        let answer = api.call("PATCH", &path, &[("if-match", &format!("\"{known}\""))], Some(&change.to_string()));
        let is_told = answer.status != 412;
        let mut now = if is_told {
            answer.expect(200)
        } else {
            // An earlier try had gone through, and its answer was lost.
            api.get(&path).expect(200)
        };
        assert_eq!(now["revision"].as_u64(), Some(known + 1), "nobody else changes it");
        let is_applied = is_told && now["applied"] != false;
        let mut sure_ms = now_ms();
        if now["pending_revocations"].as_u64().unwrap_or(0) > 0 {
            eventually("what was staged is taken back", || {
                let seen = api.get(&path).expect(200);
                (seen["pending_revocations"].as_u64().unwrap_or(0) == 0).then_some(())
            });
            sure_ms = now_ms();
        }
        if !is_applied {
            sure_ms += UNAPPLIED_MS_MAX;
        }
        for shown in ["applied", "pending_revocations"] {
            now.as_object_mut().expect("a job").remove(shown);
        }
        self.value = now;
        sure_ms
    }

    #[track_caller]
    pub fn pause(&mut self, api: &Api) {
        if !self.is_enabled {
            return;
        }
        let sure_ms = self.change(api, &json!({"is_enabled": false}));
        self.close(instant_ms(&self.value["updated_at"]), sure_ms);
    }

    #[track_caller]
    pub fn resume(&mut self, api: &Api) {
        if self.is_enabled {
            return;
        }
        self.change(api, &json!({"is_enabled": true}));
        let from_ms = instant_ms(&self.value["updated_at"]);
        self.spans.push(Span::new(self.every_s, from_ms, from_ms));
        self.is_enabled = true;
    }

    /// Gives it another command, which says the new revision.
    #[track_caller]
    pub fn edit(&mut self, api: &Api, cluster: &Cluster) {
        let revision = self.value["revision"].as_u64().expect("a revision") + 1;
        let sure_ms = self.change(api, &json!({"command": cluster.witness.command(&says_revision(revision))}));
        self.edits.push(Edit { revision, from_ms: instant_ms(&self.value["updated_at"]), sure_ms });
    }

    #[track_caller]
    pub fn delete(&mut self, api: &Api) {
        let from_ms = now_ms();
        let answer = api.call("DELETE", &format!("/jobs/{}", self.value["id"]), &[], None);
        assert!([204, 404].contains(&answer.status), "{}", answer.text);
        // What is pending can't be asked of a job that is gone.
        self.close(from_ms, now_ms() + UNAPPLIED_MS_MAX);
    }

    fn close(&mut self, to_ms: i64, to_at_most_ms: i64) {
        if self.is_enabled {
            let span = self.spans.last_mut().expect("it was enabled");
            (span.to_ms, span.to_at_most_ms) = (to_ms, to_at_most_ms);
            self.is_enabled = false;
        }
    }
}

/// Commands of jobs that are edited say their revision.
pub fn says_revision(revision: u64) -> String {
    format!("w revision-{revision}; w end")
}

impl Work {
    /// A mix of jobs: every second, long and short, and of each way to treat an overlap.
    pub fn start(cluster: &Cluster) -> Work {
        let mut work = Work::default();
        for number in 1..=3 {
            work.add(cluster, &format!("tick-{number}"), 1, "w end", json!({}));
        }
        work.add(cluster, "half-a-second", 1, "sleep 0.5; w end", json!({}));
        work.add(cluster, "long", 2, "sleep 3; w end", json!({}));
        work.add(cluster, "skip", 1, "sleep 1.3; w end", json!({"overlap": "skip"}));
        work.add(cluster, "queue-one", 1, "sleep 1.3; w end", json!({"overlap": "queue_one"}));
        work.add(cluster, "replace", 3, "trap 'w end; exit 0' TERM; sleep 40 & wait", json!({"overlap": "replace"}));
        work
    }

    /// A job that fires every `every_s` seconds, a divisor of 60, from now on. `rest` follows its first word to the witness.
    #[track_caller]
    pub fn add(&mut self, cluster: &Cluster, name: &str, every_s: i64, rest: &str, more: Value) -> &mut Job {
        self.add_by(&cluster.api(), cluster, name, every_s, rest, more)
    }

    #[track_caller]
    pub fn add_by(&mut self, api: &Api, cluster: &Cluster, name: &str, every_s: i64, rest: &str, more: Value) -> &mut Job {
        let schedule = format!("*/{every_s} * * * * *");
        let mut job = json!({"name": name, "schedule": schedule, "command": cluster.witness.command(rest)});
        job.as_object_mut().expect("a job").extend(more.as_object().expect("fields").clone());
        let mut value = api.put(job);
        for shown in ["applied", "pending_revocations"] {
            value.as_object_mut().expect("a job").remove(shown);
        }
        let from_ms = instant_ms(&value["created_at"]);
        let overlap = more["overlap"].as_str().unwrap_or("allow");
        self.jobs.push(Job {
            name: name.to_owned(),
            value,
            every_s,
            spans: vec![Span::new(every_s, from_ms, from_ms)],
            is_enabled: true,
            edits: Vec::new(),
            is_alone: overlap != "allow",
            is_endless: overlap == "replace",
        });
        self.jobs.last_mut().expect("just added")
    }

    pub fn job(&mut self, name: &str) -> &mut Job {
        self.jobs.iter_mut().find(|job| job.name == name).expect("a job")
    }

    /// Lets every job end, and judges: every fire had one fate, which every controller's history and the witness tell alike.
    #[track_caller]
    pub fn finish(&mut self, cluster: &Cluster) -> Verdict {
        self.finish_beside(cluster, &[])
    }

    /// The same beside jobs that the test looks after itself.
    #[track_caller]
    pub fn finish_beside(&mut self, cluster: &Cluster, others: &[&Value]) -> Verdict {
        let api = cluster.api();
        cluster.check_one_leader_a_term();
        for job in self.jobs.iter_mut().filter(|job| job.is_enabled) {
            job.pause(&api);
        }
        self.end_the_endless(&api);
        let rows = settled(cluster);
        let lines = cluster.witness.lines();
        let mut fates = BTreeMap::new();
        for job in &self.jobs {
            let story = Story::of(&job.value, &rows, &lines);
            fates.insert(job.name.clone(), story.check(&job.spans));
            if job.is_alone {
                story.check_one_at_a_time();
            }
            check_revisions(job, &story);
        }
        for other in others {
            Story::of(other, &rows, &lines).check(&[]);
        }
        let mut known: BTreeSet<i64> = self.jobs.iter().map(Job::id).collect();
        known.extend(others.iter().filter_map(|job| job["id"].as_i64()));
        let stranger = lines.iter().find(|line| !known.contains(&line.job));
        assert_eq!(stranger, None, "a job that nobody made");
        Verdict { rows, lines, fates }
    }

    /// Replacements run until they are replaced; the last ones have to be cancelled.
    #[track_caller]
    fn end_the_endless(&self, api: &Api) {
        for job in self.jobs.iter().filter(|job| job.is_endless) {
            eventually(&format!("the last run of {} ends", job.name), || {
                let open = api.open_runs_of(&job.value);
                for row in &open {
                    api.call("POST", &format!("/runs/{}/cancel", row.id), &[], None);
                }
                open.is_empty().then_some(())
            });
        }
    }
}

/// Every controller's history, once all runs have ended: they are the same.
#[track_caller]
pub fn settled(cluster: &Cluster) -> Vec<Row> {
    let apis: Vec<Api> = cluster.up().into_iter().map(|id| cluster.api_of(id)).collect();
    for api in &apis {
        let mut open = Vec::new();
        let settled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("all runs end", || {
                open = api.open_runs();
                open.is_empty().then_some(())
            });
        }));
        assert!(settled.is_ok(), "these runs don't end: {open:#?}");
    }
    eventually("every controller has the same history", || {
        let mut told: Vec<Vec<Row>> = apis.iter().map(Api::runs).collect();
        let first = told.pop().expect("a controller");
        (first.iter().all(Row::is_final) && told.iter().all(|rows| *rows == first)).then_some(first)
    })
}

/// Which revision ran is what the history says, and the one of that instant.
#[track_caller]
fn check_revisions(job: &Job, story: &Story) {
    if job.edits.is_empty() {
        return;
    }
    for row in story.rows.iter().filter(|row| !row.is_skipped()) {
        let said = story.lines.iter().find_map(|line| (line.run == row.id).then(|| line.word.strip_prefix("revision-")).flatten());
        assert!(said.is_none_or(|said| said == row.revision.to_string()), "another revision ran than history says: {row:?} {said:?}");
        for edit in &job.edits {
            let is_newer = row.revision >= edit.revision;
            assert!(is_newer || row.at_ms <= edit.sure_ms, "revision {} was in effect: {row:?}\n{}", edit.revision, story.told());
            assert!(!is_newer || row.at_ms > edit.from_ms, "revision {} was not yet in effect: {row:?}", edit.revision);
        }
    }
}

impl Verdict {
    /// Everything that may run at any time ran and succeeded; of the others, each fire ran or has its policy's reason.
    #[track_caller]
    pub fn check_undisturbed(&self, work: &Work) {
        self.check_fates(work, |_, _| false);
    }

    /// As `check_undisturbed`, but for fates that `is_excused` by what the test has done.
    #[track_caller]
    pub fn check_fates(&self, work: &Work, is_excused: impl Fn(&str, &str) -> bool) {
        for job in &work.jobs {
            for (at_ms, (state, reason)) in &self.fates[&job.name] {
                let by_policy = ["overlap", "queue_full", "superseded", "replaced", "requested"];
                let is_taken_back = state == "skipped" && ["revoked", "superseded"].contains(&reason.as_str());
                let is_right = state == "succeeded"
                    || (job.is_alone && by_policy.contains(&reason.as_str()))
                    || (is_taken_back && !job.owns(*at_ms))
                    || is_excused(state, reason);
                assert!(is_right, "{}: the fire of {} is {state} ({reason})\n{}", job.name, instant(*at_ms), self.told(job));
            }
        }
    }

    /// No fire of an `allow` job within a time was handed to its worker after its instant, by the workers' logs.
    #[track_caller]
    pub fn check_staged_ahead(&self, cluster: &Cluster, work: &Work, from_ms: i64, to_ms: i64) {
        let staged = stagings(cluster);
        // A fire that comes right after its job was made can't be.
        let settled = |job: &Job| (job.id(), instant_ms(&job.value["created_at"]) + SETTLE_MS);
        let allow: BTreeMap<i64, i64> = work.jobs.iter().filter(|job| job.is_allow()).map(settled).collect();
        let is_due = |row: &Row| allow.get(&row.job).is_some_and(|settled_ms| (from_ms.max(*settled_ms)..=to_ms).contains(&row.at_ms));
        let within = |row: &&Row| is_due(row) && row.is_started && row.attempt == 1;
        let fires: Vec<&Row> = self.rows.iter().filter(within).collect();
        let late: Vec<_> = fires.iter().filter(|row| staged.get(&row.id).is_none_or(|in_ms| *in_ms < 0)).collect();
        assert!(fires.len() > 5, "too few fires to speak of: {}", fires.len());
        assert!(late.is_empty(), "{} of {} fires were staged after their instant: {late:?}", late.len(), fires.len());
    }

    fn told(&self, job: &Job) -> String {
        Story::of(&job.value, &self.rows, &self.lines).told()
    }
}

/// How long before its instant each run was first taken in by a worker, by its log:
/// `staged run <id> of job <name>, starts in <ms> ms`.
fn stagings(cluster: &Cluster) -> BTreeMap<String, i64> {
    let mut first = BTreeMap::new();
    for line in cluster.workers.values().flat_map(|node| node.log()) {
        let parsed = line.split_once("staged run ").and_then(|(_, rest)| {
            let run = rest.split(' ').next()?;
            let in_ms: i64 = rest.rsplit_once("starts in ")?.1.split(' ').next()?.parse().ok()?;
            Some((run.to_owned(), in_ms))
        });
        if let Some((run, in_ms)) = parsed {
            let earliest = first.entry(run).or_insert(in_ms);
            *earliest = in_ms.max(*earliest);
        }
    }
    first
}
