//! A job as the ledger keeps it: in its serialised form, a third of the size. A ledger holds every job, and reads few of them at a time.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{Job, JobId, Revision};

/// Serialises as the job that it holds.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct PackedJob(Arc<[u8]>);

impl PackedJob {
    pub fn of(job: &Job) -> PackedJob {
        PackedJob(postcard::to_stdvec(job).expect("a job is plain data").into())
    }

    pub fn unpack(&self) -> Job {
        postcard::from_bytes(&self.0).expect("it was made from a job")
    }

    /// Reads no more of it than its beginning.
    pub fn key(&self) -> (JobId, Revision) {
        let (key, _) = postcard::take_from_bytes(&self.0).expect("a job begins with its id and its revision");
        key
    }
}

impl Serialize for PackedJob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.unpack().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PackedJob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PackedJob, D::Error> {
        Job::deserialize(deserializer).map(|job| PackedJob::of(&job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{JobSpec, UnixMs};

    fn job() -> Job {
        let mut spec = JobSpec::new("Tidy", "@every 1h", "true");
        spec.labels.insert("team".into(), "a".into());
        spec.starts_at = Some(UnixMs(-1));
        let now = UnixMs(1_790_000_000_000);
        Job { id: JobId(300), revision: 77, change_seq: 5, created_at: now, updated_at: now, effective_from: now, spec }
    }

    #[test]
    fn a_packed_job_is_the_job_and_is_written_as_it() {
        let packed = PackedJob::of(&job());
        assert_eq!(packed.unpack(), job());
        assert_eq!(packed.key(), (JobId(300), 77));
        let bytes = postcard::to_stdvec(&packed).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(&job()).unwrap());
        assert_eq!(postcard::from_bytes::<PackedJob>(&bytes).unwrap(), packed);
    }
}
