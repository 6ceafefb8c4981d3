//! The whole state as bytes, and back. A revision of a job that several runs refer to is written once (PROTOCOL B6).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{ClusterId, Epoch, Job, JobId, Reason, Revision, Run, RunId, SessionId, Trigger, UnixMs};
use crate::mutation::{self, Mutation};

use super::packed::PackedJob;
use super::state::{Assignment, Heir, Ledger, OpenRun, Owed, Session, Waiting, WaitingKind};

const SNAPSHOT_VERSION: u8 = 3;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("the snapshot has version {0}; this program reads version {SNAPSHOT_VERSION}")]
    Version(u8),
    #[error("the snapshot can't be read: {0}")]
    Malformed(String),
}

type Part<T> = Vec<T>;

#[derive(Serialize, Deserialize)]
struct Image {
    cluster: Option<ClusterId>,
    applied: u64,
    feed: u64,
    watermark: UnixMs,
    /// Every revision that anything refers to, and which of them are the current ones (by place).
    revisions: Part<PackedJob>,
    current: Part<u32>,
    owed: Part<(u32, UnixMs, UnixMs, bool)>,
    decided: Part<(JobId, UnixMs)>,
    skipped: Part<(JobId, UnixMs, UnixMs)>,
    open: Part<OpenImage>,
    waiting: Part<(RunId, u32, Trigger, UnixMs, WaitingKind)>,
    unrecorded: Part<(u64, u32, Arc<Run>)>,
    sessions: Part<Arc<Session>>,
    keys: Part<(RunId, UnixMs)>,
    last_decision: u64,
}

#[derive(Serialize, Deserialize)]
struct OpenImage {
    id: RunId,
    job: u32,
    trigger: Trigger,
    retry_of: Option<RunId>,
    scheduled_at: UnixMs,
    start_at: UnixMs,
    attempt: u32,
    losses: u32,
    assigned: Option<(SessionId, Epoch)>,
    epoch: Epoch,
    cancel: Option<Reason>,
    /// The place of the revision, or none for nobody.
    heir: Option<Option<u32>>,
}

/// Gives each revision its place in the image.
#[derive(Default)]
struct Revisions {
    places: BTreeMap<(JobId, Revision), u32>,
    all: Vec<PackedJob>,
}

impl Revisions {
    fn place(&mut self, job: &Job) -> u32 {
        self.place_of((job.id, job.revision), || PackedJob::of(job))
    }

    fn place_of(&mut self, key: (JobId, Revision), pack: impl FnOnce() -> PackedJob) -> u32 {
        *self.places.entry(key).or_insert_with(|| {
            self.all.push(pack());
            self.all.len() as u32 - 1
        })
    }
}

impl Ledger {
    pub fn encode(&self) -> Vec<u8> {
        let mut revisions = Revisions::default();
        let current = self.jobs.values().map(|job| revisions.place_of(job.key(), || job.clone())).collect();
        let owed = self.owed.values().map(|owed| (revisions.place(&owed.job), owed.from, owed.to, owed.is_dropped)).collect();
        let open = self.open.values().map(|run| open_image(run, &mut revisions)).collect();
        let waiting = self
            .waiting
            .values()
            .filter(|_| !mutation::is(Mutation::SnapshotWithoutWaiting))
            .map(|fire| (fire.id, revisions.place(&fire.job), fire.trigger, fire.scheduled_at, fire.kind))
            .collect();
        let image = Image {
            cluster: self.cluster,
            applied: self.applied,
            feed: self.feed,
            watermark: self.watermark,
            revisions: revisions.all,
            current,
            owed,
            decided: self.decided.iter().copied().collect(),
            skipped: self.skipped.iter().map(|((job, to), from)| (*job, *to, *from)).collect(),
            open,
            waiting,
            unrecorded: self.unrecorded.iter().map(|((index, row), run)| (*index, *row, run.clone())).collect(),
            sessions: self.sessions.values().cloned().collect(),
            keys: self.keys.iter().map(|(run, at)| (*run, *at)).collect(),
            last_decision: self.last_decision,
        };
        postcard::to_extend(&image, vec![SNAPSHOT_VERSION]).expect("the image is plain data")
    }

    pub fn decode(bytes: &[u8]) -> Result<Ledger, SnapshotError> {
        let image: Image = match bytes.split_first() {
            Some((&SNAPSHOT_VERSION, body)) => postcard::from_bytes(body).map_err(|error| SnapshotError::Malformed(error.to_string()))?,
            Some((version, _)) => return Err(SnapshotError::Version(*version)),
            None => return Err(SnapshotError::Malformed("it is empty".into())),
        };
        let packed = |place: u32| {
            let missing = || SnapshotError::Malformed(format!("it has no revision at place {place}"));
            image.revisions.get(place as usize).ok_or_else(missing)
        };
        // What refers to one revision shares it.
        let mut unpacked = BTreeMap::new();
        let mut revision = |place: u32| -> Result<Arc<Job>, SnapshotError> {
            Ok(match unpacked.entry(place) {
                Entry::Occupied(known) => Arc::clone(known.get()),
                Entry::Vacant(new) => new.insert(Arc::new(packed(place)?.unpack())).clone(),
            })
        };
        let mut ledger = Ledger {
            cluster: image.cluster,
            applied: image.applied,
            feed: image.feed,
            watermark: image.watermark,
            last_decision: image.last_decision,
            decided: image.decided.into_iter().collect(),
            skipped: image.skipped.into_iter().map(|(job, to, from)| ((job, to), from)).collect(),
            sessions: image.sessions.into_iter().map(|session| (session.id, session)).collect(),
            keys_by_age: image.keys.iter().map(|(run, at)| (*at, *run)).collect(),
            keys: image.keys.into_iter().collect(),
            ..Ledger::default()
        };
        for place in image.current {
            let job = packed(place)?;
            ledger.jobs.insert(job.key().0, job.clone());
        }
        for (place, from, to, is_dropped) in image.owed {
            let job = revision(place)?;
            ledger.owed.insert((job.id, job.revision), Arc::new(Owed { job, from, to, is_dropped }));
        }
        for run in image.open {
            let job = revision(run.job)?;
            let heir = match run.heir {
                None => None,
                Some(None) => Some(Heir::Nobody),
                Some(Some(place)) => Some(Heir::Revision(revision(place)?)),
            };
            ledger.open_of_job.insert((job.id, run.id));
            ledger.open.insert(run.id, Arc::new(open_run(run, job, heir)));
        }
        for (id, place, trigger, scheduled_at, kind) in image.waiting {
            let job = revision(place)?;
            ledger.waiting_runs.insert(id, (job.id, scheduled_at));
            ledger.waiting.insert((job.id, scheduled_at, id), Arc::new(Waiting { id, job, trigger, scheduled_at, kind }));
        }
        for (index, row, run) in image.unrecorded {
            ledger.unrecorded_runs.insert(run.id, (index, row));
            ledger.unrecorded.insert((index, row), run);
        }
        Ok(ledger)
    }
}

fn open_image(run: &OpenRun, revisions: &mut Revisions) -> OpenImage {
    let job = revisions.place(&run.job);
    OpenImage {
        id: run.id,
        job,
        trigger: run.trigger,
        retry_of: run.retry_of,
        scheduled_at: run.scheduled_at,
        start_at: run.start_at,
        attempt: run.attempt,
        losses: run.losses,
        assigned: run.assigned.map(|assigned| (assigned.session, assigned.epoch)),
        epoch: run.epoch,
        cancel: run.cancel,
        heir: run.heir.as_ref().map(|heir| match heir {
            Heir::Revision(job) => Some(revisions.place(job)),
            Heir::Nobody => None,
        }),
    }
}

fn open_run(image: OpenImage, job: Arc<Job>, heir: Option<Heir>) -> OpenRun {
    OpenRun {
        id: image.id,
        job,
        trigger: image.trigger,
        retry_of: image.retry_of,
        scheduled_at: image.scheduled_at,
        start_at: image.start_at,
        attempt: image.attempt,
        losses: image.losses,
        assigned: image.assigned.map(|(session, epoch)| Assignment { session, epoch }),
        epoch: image.epoch,
        cancel: image.cancel,
        heir,
    }
}
