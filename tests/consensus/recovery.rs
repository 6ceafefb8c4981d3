//! One member, its disk, and the power.

use chrono_flow::consensus::{Core, Failure, Input, StorageError};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use uuid::Uuid;

use crate::disk::{Loss, MemoryDisk};
use crate::machine::Recorder;
use crate::random::{OnPanic, Random, seeds};
use crate::sim::{CLUSTER, MemoryCore, Sim, Yield, config};

fn open(disk: &MemoryDisk, seed: u64) -> Result<MemoryCore, Failure> {
    Core::open(disk.clone(), config(1, &[1]), Recorder::default(), seed, Uuid::from_u128(u128::from(seed)), 0)
}

fn turn(core: &mut MemoryCore, inputs: Vec<Input>) -> Result<Yield, Failure> {
    let mut yielded = Yield::default();
    core.turn(0, inputs, &mut yielded).map(|()| yielded)
}

fn propose(core: &mut MemoryCore, tokens: std::ops::Range<u64>) -> Yield {
    let inputs = tokens.map(|token| Input::Propose { token, command: token.to_le_bytes().to_vec() }).collect();
    turn(core, inputs).unwrap()
}

/// A started member that leads and has nothing left to do.
fn leader(disk: &MemoryDisk, seed: u64) -> MemoryCore {
    let mut core = open(disk, seed).unwrap();
    turn(&mut core, vec![]).unwrap();
    turn(&mut core, vec![]).unwrap();
    core
}

#[test]
fn whatever_was_acknowledged_is_there_after_any_crash_once_and_in_order() {
    for seed in seeds(30) {
        let _name_the_seed = OnPanic(seed);
        let mut sim = Sim::new(seed, 1);
        for _ in 0..30 {
            for _ in 0..sim.random.below(30) {
                sim.propose(1);
            }
            if sim.random.chance(60) {
                let syncs = sim.random.below(5);
                sim.disk(1).cut_after(syncs);
            }
            let ms = sim.random.below(120);
            sim.run(ms);
            if sim.is_up(1) && sim.random.chance(50) {
                let loss = sim.loss();
                sim.crash(1, loss);
            }
            while !sim.is_up(1) {
                sim.start(1);
            }
        }
        sim.heal();
        sim.commit();
        sim.run(1_000);
        sim.check_promises();
        assert!(sim.fates.values().filter(|fate| fate.is_ok()).count() > 10, "hardly anything was acknowledged");
    }
}

#[test]
fn a_batch_of_proposals_costs_one_fsync() {
    let disk = MemoryDisk::default();
    let mut core = leader(&disk, 1);
    for _ in 0..20 {
        let (syncs, length) = (disk.syncs(), disk.file("log.redb").len());
        let yielded = propose(&mut core, 0..1000);
        assert_eq!(yielded.proposals.iter().filter(|(_, fate)| fate.is_ok()).count(), 1000);
        // redb syncs a new length of the file before it uses it.
        let growth = u64::from(disk.file("log.redb").len() != length);
        assert_eq!(disk.syncs() - syncs, 1 + growth);
        let done = yielded.works.into_iter().map(|work| Input::Done(work.run())).collect();
        turn(&mut core, done).unwrap();
    }
    assert!(disk.file("log.redb").len() < 1 << 20, "compaction keeps the file small: {}", disk.file("log.redb").len());
}

#[test]
fn an_idle_member_writes_nothing() {
    let disk = MemoryDisk::default();
    let mut core = leader(&disk, 1);
    let before = disk.syncs();
    for now_ms in 1..10_000 {
        core.turn(now_ms, vec![], &mut Yield::default()).unwrap();
    }
    assert_eq!(disk.syncs(), before);
}

#[test]
fn a_founding_that_is_cut_short_anywhere_starts_over() {
    for syncs in 0..10 {
        for loss in [Loss::Everything, Loss::Some] {
            let disk = MemoryDisk::default();
            let mut random = Random(syncs);
            disk.cut_after(syncs);
            let _ = open(&disk, 1).and_then(|mut core| turn(&mut core, vec![]).map(drop));
            disk.crash(loss, &mut random);
            let core = leader(&disk, 2);
            assert!(core.status().first_own_applied, "after {syncs} syncs");
        }
    }
}

#[test]
fn a_snapshot_shortens_the_log_and_a_restart_begins_at_it() {
    let disk = MemoryDisk::default();
    let mut core = leader(&disk, 1);
    for round in 0..10 {
        let yielded = propose(&mut core, round * 10..round * 10 + 10);
        let done = yielded.works.into_iter().map(|work| Input::Done(work.run())).collect();
        turn(&mut core, done).unwrap();
    }
    let history = core.machine().history.clone();
    assert_eq!(history.len(), 100);
    let files = disk.snapshot_files();
    assert_eq!(files.len(), 1, "{files:?}");
    core.close(&mut Yield::default()).unwrap();
    drop(core);

    let core = open(&disk, 2).unwrap();
    let restored = core.machine().history.len();
    assert!(restored >= 80 && core.machine().history == history[..restored], "the snapshot alone held {restored}");
    drop(core);
    assert_eq!(leader(&disk, 3).machine().history, history);
    assert_eq!(disk.snapshot_files(), files);
}

#[test]
fn a_snapshot_that_the_log_does_not_name_yet_is_a_left_over() {
    let disk = MemoryDisk::default();
    let mut core = leader(&disk, 1);
    let yielded = propose(&mut core, 0..30);
    let done: Vec<_> = yielded.works.into_iter().map(|work| work.run()).collect();
    assert_eq!((done.len(), disk.snapshot_files().len()), (1, 1));
    // The power goes before the node hears of it.
    disk.crash(Loss::Everything, &mut Random(1));
    drop(core);
    let core = leader(&disk, 2);
    assert_eq!(core.machine().history.len(), 30);
    assert_eq!(disk.snapshot_files().len(), 0);
}

/// The answer of member 1 to a candidate of term 5 that knows as much as a founder.
fn vote(core: &mut MemoryCore, candidate: u64) -> Message {
    let mut request = Message { to: 1, from: candidate, term: 5, index: 1, log_term: 1, ..Message::default() };
    request.set_msg_type(MessageType::MsgRequestVote);
    let header = [&[1, 1], CLUSTER.0.as_bytes().as_slice(), Uuid::from_u128(u128::from(candidate)).as_bytes()].concat();
    let frame = [header, request.write_to_bytes().unwrap()].concat();
    let yielded = turn(core, vec![Input::Frame(frame)]).unwrap();
    let (to, frame, _) = yielded.frames.into_iter().next_back().expect("an answer");
    assert_eq!(to, candidate);
    Message::parse_from_bytes(&frame[34..]).unwrap()
}

#[test]
fn a_vote_is_remembered_across_a_crash() {
    let disk = MemoryDisk::default();
    let open = || Core::open(disk.clone(), config(1, &[1, 2, 3]), Recorder::default(), 1, Uuid::from_u128(1), 0).unwrap();
    let mut core = open();
    let granted = vote(&mut core, 2);
    assert!(granted.get_msg_type() == MessageType::MsgRequestVoteResponse && !granted.reject, "{granted:?}");
    disk.crash(Loss::Everything, &mut Random(1));
    drop(core);
    let mut core = open();
    assert!(vote(&mut core, 3).reject, "it had voted for node 2 in this term");
    assert!(!vote(&mut core, 2).reject, "and says so again to who asks again");
}

#[test]
fn a_full_disk_stops_the_node_with_a_clear_word_and_loses_nothing() {
    let disk = MemoryDisk::default();
    let mut core = leader(&disk, 1);
    propose(&mut core, 0..10);
    disk.set_broken(Some(28));
    let command = Input::Propose { token: 10, command: vec![1] };
    let mut yielded = Yield::default();
    let failure = core.turn(0, [command], &mut yielded).unwrap_err();
    assert!(matches!(failure, Failure::Storage(StorageError::Full { .. })), "{failure}");
    let text = failure.to_string();
    assert!(text.contains("log.redb") && text.contains("no space left") && text.contains("start again"), "{text}");
    assert!(yielded.proposals.is_empty(), "nothing was acknowledged");
    let _ = core.close(&mut yielded);
    assert_eq!(yielded.proposals, [(10, Err(chrono_flow::consensus::ProposeError::Unknown))]);
    drop(core);
    disk.set_broken(None);
    let core = leader(&disk, 2);
    assert!(core.machine().history.len() >= 10);
}

#[test]
fn a_snapshot_that_cannot_be_written_stops_the_node() {
    let disk = MemoryDisk::default();
    let mut core = leader(&disk, 1);
    let works = propose(&mut core, 0..30).works;
    disk.set_broken(Some(5));
    let done = works.into_iter().map(|work| Input::Done(work.run())).collect();
    let failure = turn(&mut core, done).err().expect("the node must stop");
    assert!(failure.to_string().contains("snapshot-"), "{failure}");
    drop(core);
    disk.set_broken(None);
    assert_eq!(leader(&disk, 2).machine().history.len(), 30);
}
