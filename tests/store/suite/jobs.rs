//! Promises about jobs.

use chrono_flow::model::{CatchUp, JobId, JobSpec, OnWorkerLost, Overlap, Retry, UnixMs};
use chrono_flow::store::{JobFilter, Store, StoreError};

use super::{Harness, NOON, open_fresh, reopen, spec};

/// A specification with no default in it, and texts that are hard on escaping.
fn hard_spec() -> JobSpec {
    let odd = "\0 '; DROP TABLE jobs; -- \"\\%_\u{1F552}\u{FEFF}\r\n\u{2028}é";
    JobSpec {
        description: Some(odd.into()),
        labels: [(odd.to_owned(), odd.to_owned()), ("zone".into(), "eu".into())].into(),
        env: [("A".to_owned(), odd.to_owned())].into(),
        working_dir: Some("/tmp/ü".into()),
        timeout_s: Some(7),
        kill_grace_s: 8,
        retry: Retry { max_attempts: 3, backoff_s: 1, max_backoff_s: 9 },
        overlap: Overlap::QueueOne,
        catch_up: CatchUp::All,
        catch_up_window_s: 10,
        catch_up_max: 11,
        start_deadline_s: 12,
        worker_selector: [(odd.to_owned(), odd.to_owned())].into(),
        on_worker_lost: OnWorkerLost::Retry,
        lost_after_s: 14,
        starts_at: Some(UnixMs(-1)),
        ends_at: Some(UnixMs::MAX),
        max_output_bytes: 13,
        is_enabled: false,
        time_zone: "Europe/Berlin".into(),
        ..JobSpec::new(odd, "0 0 * * *", odd)
    }
}

pub async fn a_job_reads_back_as_it_was_written<H: Harness>() {
    let (harness, store) = open_fresh::<H>().await;
    let written = store.create_job(hard_spec(), NOON).await.unwrap();
    assert!(written.is_new && written.is_changed);
    let job = written.job;
    assert_eq!((job.id, job.revision, job.change_seq), (JobId(1), 1, 1));
    assert_eq!((job.created_at, job.updated_at, job.effective_from), (NOON, NOON, NOON));
    assert_eq!(job.spec, hard_spec());
    let store = reopen(&harness, store).await;
    assert_eq!(store.job(job.id).await.unwrap(), Some(job.clone()));
    assert_eq!(store.job_by_name(&job.spec.name).await.unwrap(), Some(job.clone()));
    assert_eq!(store.jobs(&JobFilter::default(), None, 10).await.unwrap().jobs, [job]);
    assert_eq!(store.job_by_name("\0").await.unwrap(), None);
}

pub async fn ids_are_never_used_twice<H: Harness>() {
    let (harness, store) = open_fresh::<H>().await;
    for number in 1..=3 {
        assert_eq!(store.create_job(spec(&format!("job {number}")), NOON).await.unwrap().job.id, JobId(number));
    }
    let seq = store.delete_job(JobId(3), None, NOON).await.unwrap();
    assert_eq!(store.prune_tombstones(seq, NOON + 1).await, Ok(1));
    let store = reopen(&harness, store).await;
    let next = store.create_job(spec("job 3"), NOON).await.unwrap().job;
    assert_eq!((next.id, next.change_seq), (JobId(4), seq + 1));
}

pub async fn a_name_belongs_to_one_job_at_a_time<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let first = store.create_job(spec("first"), NOON).await.unwrap().job.id;
    let second = store.create_job(spec("second"), NOON).await.unwrap().job;
    let taken = StoreError::NameTaken { name: "first".into(), by: first };
    assert_eq!(store.create_job(spec("first"), NOON).await, Err(taken.clone()));
    assert_eq!(store.replace_job(second.id, None, spec("first"), NOON).await, Err(taken));
    assert_eq!(store.job(second.id).await.unwrap(), Some(second.clone()), "a refused write changes nothing");
    assert_eq!(store.change_seq().await, Ok(2));
    store.create_job(spec("First"), NOON).await.expect("names differ by case");
    store.delete_job(first, None, NOON).await.unwrap();
    let renamed = store.replace_job(second.id, None, spec("first"), NOON).await.unwrap().job;
    assert_eq!(store.job_by_name("first").await.unwrap(), Some(renamed));
    assert_eq!(store.job_by_name("second").await.unwrap(), None);
}

pub async fn of_many_creates_of_one_name_one_wins<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let creates = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.create_job(spec("wanted"), NOON).await })
    });
    let mut won = Vec::new();
    let mut lost = Vec::new();
    for create in creates.collect::<Vec<_>>() {
        match create.await.unwrap() {
            Ok(written) => won.push(written.job.id),
            Err(StoreError::NameTaken { by, .. }) => lost.push(by),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((won.len(), lost.len()), (1, 49));
    assert!(lost.iter().all(|by| *by == won[0]));
    assert_eq!(store.change_seq().await, Ok(1));
}

pub async fn a_stale_revision_is_refused<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let id = store.create_job(spec("job"), NOON).await.unwrap().job.id;
    let edit = |command: &str| JobSpec::new("job", "* * * * *", command);
    assert_eq!(store.replace_job(id, Some(1), edit("a"), NOON).await.unwrap().job.revision, 2);
    let stale = StoreError::Stale { current: 2 };
    assert_eq!(store.replace_job(id, Some(1), edit("b"), NOON).await, Err(stale.clone()));
    assert_eq!(store.replace_job(id, Some(3), edit("a"), NOON).await, Err(stale.clone()), "also where nothing would change");
    assert_eq!(store.put_job_by_name(Some(1), edit("b"), NOON).await, Err(stale.clone()));
    assert_eq!(store.delete_job(id, Some(1), NOON).await, Err(stale));
    assert_eq!(store.change_seq().await, Ok(2));
    assert_eq!(store.put_job_by_name(Some(2), edit("b"), NOON).await.unwrap().job.revision, 3);
    assert_eq!(store.delete_job(id, Some(3), NOON).await, Ok(4));
}

pub async fn the_same_specification_again_changes_nothing<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let job = store.create_job(hard_spec(), NOON).await.unwrap().job;
    for again in [
        store.replace_job(job.id, None, hard_spec(), NOON + 5).await.unwrap(),
        store.replace_job(job.id, Some(1), hard_spec(), NOON + 5).await.unwrap(),
        store.put_job_by_name(None, hard_spec(), NOON + 5).await.unwrap(),
    ] {
        assert!(!again.is_new && !again.is_changed);
        assert_eq!(again.job, job);
    }
    assert_eq!(store.job(job.id).await.unwrap(), Some(job));
    assert_eq!(store.change_seq().await, Ok(1));
}

pub async fn effective_from_never_decreases<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let id = store.create_job(spec("job"), NOON).await.unwrap().job.id;
    let mut newest = NOON;
    for (edit, step_ms) in [(1, 500), (2, -10_000), (3, 0), (4, 501)] {
        newest = newest.max(NOON + step_ms);
        let job = store.replace_job(id, None, JobSpec::new("job", "* * * * *", &format!("echo {edit}")), NOON + step_ms).await.unwrap().job;
        assert_eq!((job.effective_from, job.updated_at, job.created_at), (newest, newest, NOON));
        assert_eq!(store.job(id).await.unwrap(), Some(job));
    }
    store.delete_job(id, None, NOON - 10_000).await.unwrap();
    let changes = store.changes(0, 10).await.unwrap();
    let chrono_flow::store::ChangeKind::Drop { effective_from, .. } = changes[0].kind else { panic!("{changes:?}") };
    assert_eq!(effective_from, newest);
}

pub async fn by_name_creates_then_replaces<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    assert_eq!(store.put_job_by_name(Some(1), spec("job"), NOON).await, Err(StoreError::NoSuchJob));
    let made = store.put_job_by_name(None, spec("job"), NOON).await.unwrap();
    assert!(made.is_new && made.is_changed);
    let edited = store.put_job_by_name(None, JobSpec { is_enabled: false, ..spec("job") }, NOON + 1).await.unwrap();
    assert!(!edited.is_new && edited.is_changed);
    assert_eq!((edited.job.id, edited.job.revision), (made.job.id, 2));
    store.delete_job(made.job.id, None, NOON).await.unwrap();
    let anew = store.put_job_by_name(None, spec("job"), NOON).await.unwrap();
    assert!(anew.is_new);
    assert_ne!(anew.job.id, made.job.id);
}

pub async fn a_deleted_job_is_gone_but_did_exist<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    assert_eq!(store.job_existed(JobId(1)).await, Ok(false));
    let id = store.create_job(spec("job"), NOON).await.unwrap().job.id;
    let seq = store.delete_job(id, None, NOON).await.unwrap();
    assert_eq!(store.job(id).await, Ok(None));
    assert_eq!(store.job_by_name("job").await, Ok(None));
    assert_eq!(store.jobs(&JobFilter::default(), None, 10).await.unwrap().total, 0);
    assert_eq!(store.delete_job(id, None, NOON).await, Err(StoreError::NoSuchJob));
    assert_eq!(store.replace_job(id, None, spec("job"), NOON).await, Err(StoreError::NoSuchJob));
    assert_eq!(store.job_existed(id).await, Ok(true));
    store.prune_tombstones(seq, NOON + 1).await.unwrap();
    assert_eq!(store.job_existed(id).await, Ok(true), "whether or not its tombstone is still there");
    for never in [0, -1, 2, i64::MAX, i64::MIN] {
        assert_eq!(store.job_existed(JobId(never)).await, Ok(false), "{never}");
    }
}

pub async fn pages_of_jobs_are_complete_and_in_order<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    for number in 1..=7 {
        store.create_job(spec(&format!("job {}", 100 - number)), NOON).await.unwrap();
    }
    store.delete_job(JobId(4), None, NOON).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.jobs(&JobFilter::default(), after, 2).await.unwrap();
        assert_eq!(page.total, 6);
        seen.extend(page.jobs.iter().map(|job| job.id.0));
        assert!(seen.len() <= 6, "{seen:?}");
        after = page.jobs.last().map(|job| job.id);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(seen, [1, 2, 3, 5, 6, 7]);
    let empty = store.jobs(&JobFilter::default(), Some(JobId(7)), 2).await.unwrap();
    assert_eq!((empty.jobs.len(), empty.total, empty.has_more), (0, 6, false));
}

pub async fn filters_find_jobs_by_name_state_and_labels<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    type Labels = &'static [(&'static str, &'static str)];
    let jobs: [(&str, bool, Labels); 5] = [
        ("Nightly Backup", true, &[("zone", "eu"), ("tier", "1")]),
        ("backup of 100%", false, &[("zone", "us")]),
        ("a_b", true, &[("zone", ""), ("quo\"te\\", "\0\u{1F552}")]),
        ("acb", true, &[]),
        ("ÄPFEL", false, &[("eu", "zone")]),
    ];
    for (name, is_enabled, labels) in jobs {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        store.create_job(JobSpec { is_enabled, labels, ..spec(name) }, NOON).await.unwrap();
    }
    let named = |name: &str| JobFilter { name: Some(name.into()), ..JobFilter::default() };
    let labelled = |labels: &[(&str, Option<&str>)]| JobFilter {
        labels: labels.iter().map(|(name, value)| ((*name).into(), value.map(Into::into))).collect(),
        ..JobFilter::default()
    };
    let cases = [
        (JobFilter::default(), vec![1, 2, 3, 4, 5]),
        (named("BACKUP"), vec![1, 2]),
        (named("%"), vec![2]),
        (named("_"), vec![3]),
        (named(""), vec![1, 2, 3, 4, 5]),
        (named("'"), vec![]),
        (named("Äpf"), vec![5]),
        (JobFilter { is_enabled: Some(false), ..JobFilter::default() }, vec![2, 5]),
        (JobFilter { is_enabled: Some(true), ..named("backup") }, vec![1]),
        (labelled(&[("zone", None)]), vec![1, 2, 3]),
        (labelled(&[("zone", Some("eu"))]), vec![1]),
        (labelled(&[("zone", Some(""))]), vec![3]),
        (labelled(&[("zone", None), ("tier", Some("1"))]), vec![1]),
        (labelled(&[("zone", Some("us")), ("tier", None)]), vec![]),
        (labelled(&[("quo\"te\\", Some("\0\u{1F552}"))]), vec![3]),
        (labelled(&[("quo\"te\\", Some("\0"))]), vec![]),
    ];
    for (filter, expected) in cases {
        let page = store.jobs(&filter, None, 10).await.unwrap();
        assert_eq!(page.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), expected, "{filter:?}");
        assert_eq!((page.total, page.has_more), (expected.len() as u64, false), "{filter:?}");
        if expected.len() > 1 {
            let page = store.jobs(&filter, None, 1).await.unwrap();
            assert_eq!((page.jobs.len(), page.total, page.has_more), (1, expected.len() as u64, true), "{filter:?}");
        }
    }
}

pub async fn what_would_not_read_back_is_not_written<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    let spec = JobSpec { starts_at: Some(UnixMs(i64::MAX)), ..spec("job") }; // outside of the calendar
    assert!(matches!(store.create_job(spec, NOON).await, Err(StoreError::Internal(_))));
    assert_eq!(store.jobs(&JobFilter::default(), None, 10).await.unwrap().total, 0);
    assert_eq!(store.change_seq().await, Ok(0));
}
