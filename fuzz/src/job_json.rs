//! Bodies and queries of the API.

use chrono_flow::http::fuzz::{read_job, read_patch, read_preview, read_query, show_job};
use chrono_flow::model::{Job, JobId, JobSpec, UnixMs};

use super::split;

const NOW: UnixMs = UnixMs(1_790_000_000_000);

fn job(spec: JobSpec) -> Job {
    Job { id: JobId(7), revision: 3, change_seq: 9, created_at: NOW, updated_at: NOW, effective_from: NOW, spec }
}

/// What was read as a job is shown to clients, and what is shown may come back and changes nothing.
pub fn run(bytes: &[u8]) {
    let (kind, rest) = split(bytes);
    let current = job(JobSpec::new("n", "0 0 * * *", "true"));
    let read = match kind % 5 {
        0 => read_job(rest, None, NOW),
        1 => read_job(rest, Some(&current), NOW),
        2 => read_patch(rest, &current, NOW),
        3 => {
            assert!(read_preview(rest, NOW).is_none_or(|fires| fires <= 1_000));
            None
        }
        _ => {
            if let Ok(text) = std::str::from_utf8(rest) {
                read_query(text);
            }
            None
        }
    };
    if let Some(spec) = read {
        let job = job(spec);
        let shown = show_job(&job, NOW);
        let again = read_job(&shown, Some(&job), NOW);
        assert_eq!(again.as_ref(), Some(&job.spec), "{}", String::from_utf8_lossy(&shown));
    }
}
