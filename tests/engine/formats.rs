//! Formats on disk. These bytes are frozen: a change makes logs and snapshots of older versions unreadable, and needs a new version.

use std::collections::BTreeMap;

use chrono_flow::ledger::{Command, Decide, EntryError, Fate, Fire, Ledger, decode_entry, encode_entry};
use chrono_flow::model::{Job, JobId, JobSpec, OnWorkerLost, RunId, SessionId, Trigger, UnixMs, WorkerId};
use uuid::Uuid;

use super::world::{CLUSTER, DAY, Habit, World};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn entries_keep_their_bytes() {
    let mut spec = JobSpec::new("n", "* * * * *", "c");
    spec.worker_selector.insert("zone".into(), "eu".into());
    spec.on_worker_lost = OnWorkerLost::Retry;
    let job =
        Job { id: JobId(1), revision: 2, change_seq: 3, created_at: UnixMs(4), updated_at: UnixMs(5), effective_from: UnixMs(6), spec };
    let fire =
        Fire { job: JobId(1), revision: 2, scheduled_at: UnixMs(7), trigger: Trigger::Schedule, fate: Fate::Launch { session: None } };
    let decide = Decide { at: UnixMs(8), from: UnixMs(0), to: UnixMs(9), feed: 3, fires: vec![fire], ..Decide::default() };
    let session = SessionId(4);
    let commands = vec![
        Command::Found { cluster: CLUSTER },
        Command::PutJob(Box::new(job)),
        Command::Decide(decide),
        Command::Recorded { up_to: 5 },
        Command::EndSession { at: UnixMs(10), session, unstarted_after: UnixMs(11) },
        Command::ForgetSessions { sessions: vec![session] },
        Command::OpenSession {
            at: UnixMs(12),
            worker: WorkerId("w".into()),
            data_dir: Uuid::from_u128(13),
            address: "a:1".into(),
            labels: BTreeMap::from([("zone".into(), "eu".into())]),
            slots: 14,
            not_started: vec![(RunId(Uuid::from_u128(15)), 16)],
            held: vec![(RunId(Uuid::from_u128(17)), 18)],
            unstarted_after: UnixMs::MIN,
            previous: Some(session),
        },
    ];
    let bytes = encode_entry(&commands);
    assert_eq!(hex(&bytes), include_str!("entry.hex").trim());
    assert_eq!(decode_entry(&bytes).unwrap(), commands);
}

#[test]
fn an_entry_that_cant_be_read_says_why() {
    assert_eq!(decode_entry(&[]), Err(EntryError::Empty));
    assert_eq!(decode_entry(&[9, 0]), Err(EntryError::Version(9)));
    let whole = encode_entry(&[Command::Found { cluster: CLUSTER }]);
    for end in 1..whole.len() {
        assert!(matches!(decode_entry(&whole[..end]), Err(EntryError::Malformed(_))), "cut at {end}");
    }
}

#[test]
fn a_snapshot_is_the_whole_state_and_keeps_its_bytes() {
    let mut world = World::new(DAY);
    world.worker_up("w", BTreeMap::new());
    let mut spec = JobSpec::new("a", "*/2 * * * * *", "c");
    spec.overlap = chrono_flow::model::Overlap::QueueOne;
    world.records_automatically = false;
    let id = world.create(spec, Habit { lasts_ms: 3_000, succeeds: false });
    world.run_to(DAY + 5_000);
    // A session that is over, with a run that nobody knows of.
    world.worker_up("v", BTreeMap::new());
    world.apply(vec![Command::EndSession { at: world.now, session: SessionId(2), unstarted_after: world.now }]);
    world.workers.clear();
    assert_eq!(world.ledger.ended_sessions().count(), 1);
    world.edit(id, DAY + 4_500, |spec| spec.command = "d".into());
    let bytes = world.ledger.encode();
    assert_eq!(Ledger::decode(&bytes).unwrap(), world.ledger);
    assert_eq!(hex(&bytes), include_str!("snapshot.hex").trim());
    for end in 0..bytes.len() {
        assert!(Ledger::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
}
