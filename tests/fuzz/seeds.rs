//! What the fuzz targets begin with: inputs as the program itself writes them, one of each kind.

use std::collections::BTreeMap;

use chrono_flow::agent::runs::Record;
use chrono_flow::ledger::{Closing, Command, Decide, Fate, Fire, Ledger, Skip, Then, WaitingFate, encode_entry};
use chrono_flow::model::{
    ClusterId, Job, JobId, JobSpec, OnWorkerLost, Outcome, OutputPart, Overlap, Reason, Run, RunId, RunState, SessionId, Stream, Trigger,
    UnixMs, WorkerId,
};
use chrono_flow::rpc::handshake::{Hello, Name, Service};
use chrono_flow::rpc::peer::{MembersWish, PeerRequest, SnapshotChunk};
use chrono_flow::rpc::wire::{
    Cancel, ControllerRequest, Heartbeat, OpenSession, Order, PROTOCOL_VERSION, ReadOutput, Report, RunEvent, RunRef, RunReport, Stage,
    Task, WorkerRequest,
};
use serde::Serialize;
use serde_bytes::ByteBuf;
use uuid::Uuid;

use crate::targets::ledger_entry::LIVED_IN;
use crate::targets::rpc_frames::{CLUSTER, framed};
use crate::targets::rpc_handshake::greeting;
use crate::targets::worker_orders::{SESSION, TERM};

const AT: UnixMs = UnixMs(1_790_000_000_000);
const JOB: JobId = JobId(1);
const RUN: RunId = RunId(Uuid::from_u128(0xA1));

type Seeds = Vec<(&'static str, Vec<u8>)>;

pub fn of(target: &str) -> Seeds {
    match target {
        "consensus_frame" => consensus_frames(),
        "job_json" => bodies(),
        "ledger_entry" => entries(),
        "ledger_snapshot" => snapshots(),
        "rpc_frames" => rpc_frames(),
        "rpc_handshake" => handshakes(),
        "schedule" => schedules(),
        "worker_files" => files(),
        "worker_orders" => orders().into_iter().map(|(name, order)| (name, binary(&order))).collect(),
        _ => Vec::new(),
    }
}

fn binary(what: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(what).unwrap()
}

fn behind(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind], bytes].concat()
}

// ---- consensus

/// Protobuf by hand, as the wire has it: the crate's raft is not this test's.
fn consensus_frames() -> Seeds {
    let header = |kind: u8| [[0, 1, kind].as_slice(), CLUSTER.0.as_bytes(), Uuid::from_u128(3).as_bytes()].concat();
    let heartbeat = [0x08, 0x08, 0x10, 9, 0x18, 2, 0x20, 4, 0x40, 7];
    // An append of one entry: term 4, index 8, data, context.
    let entry = [0x10, 4, 0x18, 8, 0x22, 3, b'a', b'b', b'c', 0x32, 1, b'c'];
    let append = [[0x08, 3, 0x10, 9, 0x18, 2, 0x20, 4, 0x28, 4, 0x30, 7, 0x3A, entry.len() as u8].as_slice(), &entry].concat();
    let deep = [0x0B].repeat(2_000);
    let refused = [2u64.to_le_bytes(), 9u64.to_le_bytes()].concat();
    let image = image();
    let snapshot = [[0x0A, image.len() as u8].as_slice(), &image].concat();
    let install = [[0x08, 7, 0x10, 9, 0x18, 2, 0x4A, snapshot.len() as u8].as_slice(), &snapshot].concat();
    vec![
        ("heartbeat", [header(1), heartbeat.to_vec()].concat()),
        ("append", [header(1), append].concat()),
        ("snapshot", [header(1), install].concat()),
        ("groups", [header(1), deep].concat()),
        ("refused", [header(2), refused].concat()),
        ("image", behind(1, &image[..image.len() - 4])),
    ]
}

/// The snapshot whose bytes are frozen beside its format.
fn image() -> Vec<u8> {
    let membership = [1, 1, 0, 0, 0, 0, 1, 1, 3, b'a', b':', b'1', 0];
    let mut bytes =
        [b"CHRFSNAP".as_slice(), &1u32.to_le_bytes(), CLUSTER.0.as_bytes(), &258u64.to_le_bytes(), &3u64.to_le_bytes()].concat();
    bytes.extend_from_slice(&(membership.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&4u64.to_le_bytes());
    bytes.extend_from_slice(&membership);
    bytes.extend_from_slice(b"body");
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

// ---- the API

fn bodies() -> Seeds {
    let job = br#"{"name":"n","schedule":"*/5 9-17 * * mon-fri","time_zone":"Europe/Berlin","command":"true"}"#;
    let all = br#"{"name":"n","schedule":"@every 1h30m","command":"true","is_enabled":false,"description":"d","labels":{"a":"b"},
        "env":{"A":"b"},"working_dir":"/tmp","timeout_s":60,"kill_grace_s":5,"retry":{"max_attempts":3,"backoff_s":1,"max_backoff_s":9},
        "overlap":"queue_one","catch_up":"all","catch_up_window_s":60,"catch_up_max":5,"start_deadline_s":30,
        "worker_selector":{"zone":"eu"},"on_worker_lost":"retry","lost_after_s":60,"starts_at":"2027-01-01T00:00:00Z",
        "ends_at":"2027-02-01T00:00:00+01:00","max_output_bytes":1024}"#;
    let read_only = br#"{"id":7,"revision":3,"created_at":"2026-09-21T14:13:20Z","updated_at":"2026-09-21T14:13:20Z","name":"n",
        "schedule":"0 0 * * *","command":"true","next_fire_at":null,"last_run":null,"applied":true,"pending_revocations":1}"#;
    let patch = br#"{"schedule":"CRON_TZ=Asia/Tokyo 0 0 * * *","labels":{"a":null},"timeout_s":null,"retry":{"max_attempts":2}}"#;
    let preview = br#"{"schedule":"H H(0-7) * * *","time_zone":"UTC","name":"n","from":"2027-01-31T23:00:00Z","count":3}"#;
    let query = b"name=a%20b+c&enabled=true&label=a%3Db&label=c&state=failed,lost&since=2026-01-01T00:00:00Z&cursor=j7&limit=10&count=5";
    let many = "label=a&".repeat(64);
    vec![
        ("post", behind(0, job)),
        ("post-all", behind(0, all)),
        ("put-read-only", behind(1, read_only)),
        ("patch", behind(2, patch)),
        ("preview", behind(3, preview)),
        ("query", behind(4, query)),
        ("query-full", behind(4, many.as_bytes())),
        ("deep", behind(0, &[b"{\"a\":".repeat(200), b"1".to_vec()].concat())),
    ]
}

fn schedules() -> Seeds {
    let seed = |zone: u8, at: i64, text: &str| [[zone].as_slice(), &at.to_le_bytes(), &AT.0.to_le_bytes(), text.as_bytes()].concat();
    vec![
        ("minute", seed(0, AT.0, "* * * * *")),
        ("seconds", seed(1, AT.0, "*/7 * * * * *")),
        ("prefix", seed(0, AT.0, "CRON_TZ=Asia/Tokyo 30 2 * * *")),
        ("gap", seed(2, 1_774_737_000_000, "30 2 29 3 *")),
        ("fold", seed(3, 1_793_500_000_000, "*/15 1 * * *")),
        ("half-hour", seed(4, AT.0, "15,45 * * * *")),
        ("day-lost", seed(6, 1_325_116_800_000, "0 12 * * *")),
        ("leap", seed(1, AT.0, "0 0 29 feb sun#5")),
        ("last", seed(2, AT.0, "0 0 L * *")),
        ("weekday", seed(2, AT.0, "0 0 15W jan-jun/2 ?")),
        ("friday", seed(5, AT.0, "0 0 1-31/3 * 5L")),
        ("hash", seed(9, AT.0, "H H(0-7)/2 H * H")),
        ("every", seed(10, i64::MIN, "@every 1w2d3h4m5s")),
        ("word", seed(8, i64::MAX, "@monthly")),
        ("end", seed(7, UnixMs::MAX.0 - 1, "59 59 23 31 12 *")),
    ]
}

// ---- the ledger

fn job(id: i64, change_seq: u64) -> Job {
    let mut spec = JobSpec::new("n", "*/2 * * * * *", "c");
    spec.overlap = Overlap::QueueOne;
    spec.on_worker_lost = OnWorkerLost::Retry;
    spec.retry.max_attempts = 3;
    Job { id: JobId(id), revision: 1, change_seq, created_at: AT, updated_at: AT, effective_from: UnixMs(AT.0 - 5_000), spec }
}

fn launch_id(at: UnixMs) -> RunId {
    RunId::of_launch(CLUSTER, JobId(9), at, 1)
}

/// The life of a job on an empty ledger: it fires, is late, is refused, waits, is edited, moves, ends, is tried again, and is deleted.
fn life() -> Vec<Command> {
    let second = |n: i64| UnixMs(AT.0 + 1_000 * n);
    let fire = |n: i64| Fire {
        job: JobId(9),
        revision: 1,
        scheduled_at: second(n),
        trigger: Trigger::Schedule,
        fate: if n == 2 { Fate::Launch { session: Some(SessionId(1)) } } else { Fate::Defer },
    };
    let skip = Skip { job: JobId(9), revision: 1, from: second(-4), to: second(0), count: 3, reason: Reason::Missed };
    let outcome = Outcome { exit_code: Some(1), started_at: Some(AT), ..Outcome::unstarted(RunState::Failed, None, second(3)) };
    let mut edited = job(9, 2);
    edited.revision = 2;
    let mut corrected = run();
    corrected.state = RunState::Succeeded;
    vec![
        Command::Found { cluster: CLUSTER },
        Command::PutJob(Box::new(job(9, 1))),
        Command::OpenSession {
            at: AT,
            worker: WorkerId("w".into()),
            data_dir: Uuid::from_u128(2),
            address: "a:1".into(),
            labels: BTreeMap::from([("zone".into(), "eu".into())]),
            slots: 4,
            not_started: vec![(RUN, 1)],
            held: vec![(RUN, 2)],
            unstarted_after: UnixMs::MIN,
            previous: None,
        },
        Command::Decide(Decide {
            at: AT,
            from: UnixMs(0),
            to: second(4),
            feed: 1,
            fires: vec![fire(2), fire(4)],
            skips: vec![skip],
            settled: vec![(JobId(9), 1, second(1))],
            after: 0,
        }),
        Command::Resolve { at: second(4), fires: vec![(JobId(9), second(4), launch_id(second(4)), WaitingFate::Replace)] },
        Command::Trigger { at: second(4), job: JobId(9), run: RUN, has_key: true, session: None },
        Command::Close { at: second(5), runs: vec![Closing { run: launch_id(second(2)), epoch: 1, outcome }] },
        Command::PutJob(Box::new(edited)),
        Command::Unstarted { at: second(5), runs: vec![(RUN, 0, Then::Relaunch { revision: 2, session: None })] },
        Command::Assign { runs: vec![(RUN, SessionId(1))] },
        Command::Cancel { at: second(6), run: RUN, reason: Reason::Requested },
        Command::EndSession { at: second(60), session: SessionId(1), unstarted_after: second(50) },
        Command::Correct { at: second(61), run: Box::new(corrected) },
        Command::DropJob { id: JobId(9), revision: 2, effective_from: second(62), change_seq: 3 },
        Command::Recorded { up_to: 1 },
        Command::ForgetSessions { sessions: vec![SessionId(1)] },
    ]
}

fn run() -> Run {
    Run {
        id: RUN,
        job_id: JOB,
        job_name: "n".into(),
        job_revision: 1,
        trigger: Trigger::CatchUp,
        retry_of: None,
        scheduled_at: AT,
        attempt: 1,
        state: RunState::Lost,
        reason: Some(Reason::WorkerLost),
        worker_id: Some(WorkerId("w".into())),
        started_at: Some(AT),
        finished_at: Some(AT),
        exit_code: None,
        signal: Some(9),
        error: None,
        output_bytes: 7,
        output_truncated: false,
        skipped_from: None,
        skipped_count: None,
    }
}

/// The commands that the ledger of the frozen snapshot has a use for: all that is open or waits there ends or goes on.
fn on_lived_in() -> Vec<Command> {
    let ledger = &*LIVED_IN;
    let mut commands = Vec::new();
    for run in ledger.open_runs() {
        let outcome = Outcome::unstarted(RunState::Lost, Some(Reason::WorkerRestarted), AT);
        commands.push(Command::Unstarted { at: AT, runs: vec![(run.id, run.epoch, Then::Requeue)] });
        commands.push(Command::Assign { runs: ledger.sessions().map(|session| (run.id, session.id)).collect() });
        commands.push(Command::Close { at: AT, runs: vec![Closing { run: run.id, epoch: run.epoch, outcome }] });
    }
    for fire in ledger.waiting() {
        commands.push(Command::Resolve { at: AT, fires: vec![(fire.job.id, fire.scheduled_at, fire.id, WaitingFate::Queue)] });
    }
    for session in ledger.sessions() {
        commands.push(Command::EndSession { at: AT, session: session.id, unstarted_after: AT });
    }
    let (from, feed, after) = (ledger.watermark(), ledger.feed(), ledger.last_decision());
    let settled = ledger.owed().map(|owed| (owed.job.id, owed.job.revision, owed.to)).collect();
    commands.push(Command::Decide(Decide { at: AT, from, to: UnixMs(from.0 + 2_000), feed, settled, after, ..Decide::default() }));
    commands.push(Command::Recorded { up_to: ledger.applied() });
    commands
}

fn entries() -> Seeds {
    let entry = |kind: u8, commands: &[Command]| behind(kind, &encode_entry(commands));
    let mut seeds = vec![
        ("life", entry(0, &life())),
        ("begin", entry(0, &life()[..4])),
        ("lived-in", entry(1, &on_lived_in())),
        ("life-on-lived-in", entry(1, &life())),
    ];
    let names = ["found", "put", "open", "decide", "resolve", "trigger", "close", "edit", "unstarted", "assign", "cancel", "end"];
    seeds.extend(names.into_iter().zip(life()).map(|(name, command)| (name, entry(1, &[command]))));
    seeds
}

fn snapshots() -> Seeds {
    let of = |commands: Vec<Command>| {
        let mut ledger = Ledger::default();
        ledger.apply(1, commands, &mut Vec::new());
        ledger.encode()
    };
    vec![
        ("empty", Ledger::default().encode()),
        ("lived-in", LIVED_IN.encode()),
        ("begun", of(life()[..4].to_vec())),
        ("triggered", of(life()[..6].to_vec())),
        ("edited", of(life()[..8].to_vec())),
        ("over", of(life())),
    ]
}

// ---- RPC

fn handshakes() -> Seeds {
    let cluster = Some(CLUSTER);
    let hello = |cluster, from, service| {
        let body = binary(&Hello { cluster, from, service });
        [(body.len() as u16).to_le_bytes().as_slice(), &body].concat()
    };
    let peer = hello(cluster, Name::Controller(2), Service::Peer);
    let worker = hello(None, Name::Worker(WorkerId("w".into())), Service::Controller);
    let wrong = hello(Some(ClusterId(Uuid::from_u128(2))), Name::Controller(2), Service::Worker);
    let welcome = [1, 0, 0];
    let other = [[18, 0, 1, 16].as_slice(), CLUSTER.0.as_bytes()].concat();
    vec![
        ("accept", behind(0, &[greeting(), vec![7; 32], peer.clone()].concat())),
        ("dial", behind(1, &[greeting(), vec![7; 32], welcome.to_vec()].concat())),
        ("http", behind(0, b"GET / HTTP/1.1\r\n\r\n")),
        ("version", behind(0, &[b"chronofl".as_slice(), &[9; 36]].concat())),
        ("peer", behind(2, &peer)),
        ("worker", behind(2, &worker)),
        ("wrong", behind(2, &wrong)),
        ("long", behind(2, &[0xFF; 80])),
        ("welcome", behind(3, &welcome)),
        ("other-cluster", behind(3, &other)),
        ("not-here", behind(3, &[1, 0, 2])),
    ]
}

/// A call as tarpc's client sends it: variant, deadline, trace, id, then the words.
fn call(id: u64, deadline_s: u64, words: &impl Serialize) -> Vec<u8> {
    let trace = ([0u8; 16], 0u64, 1u8);
    [binary(&(0u8, deadline_s, 0u32)), binary(&trace), binary(&id), binary(words)].concat()
}

fn chunk(offset: u64, bytes_total: u64, bytes: &[u8]) -> PeerRequest {
    PeerRequest::Snapshot { chunk: SnapshotChunk { transfer: Uuid::from_u128(1), offset, bytes_total, bytes: ByteBuf::from(bytes) } }
}

fn rpc_frames() -> Seeds {
    let frames = PeerRequest::Frames { frames: vec![ByteBuf::from(b"one".as_slice()), ByteBuf::from(b"two".as_slice())] };
    let propose = PeerRequest::Propose { commands: ByteBuf::from(encode_entry(&life()[..1])) };
    let wish = PeerRequest::ChangeMembers { change: MembersWish::Add { id: 4, address: "a:1".into() } };
    let peers = [frames, chunk(0, 5, b"abc"), chunk(3, 5, b"de"), PeerRequest::Standing { asker: 2 }, propose, wish];
    let stream: Vec<u8> = (1..).zip(&peers).flat_map(|(id, words)| framed(&call(id, 10, words))).collect();
    let cancel = framed(&binary(&(1u8, [0u8; 16], 0u64, 1u8, 3u64)));
    let open = ControllerRequest::OpenSession { request: open_session() };
    let beat = ControllerRequest::Heartbeat { heartbeat: heartbeat() };
    let report = ControllerRequest::Report { report: report() };
    let mut seeds = vec![
        ("peer-stream", behind(0, &[stream, cancel].concat())),
        ("peer-standing", behind(0x80 + 4, &call(1, 10, &PeerRequest::Standing { asker: 2 }))),
        ("peer-deadline", behind(0, &framed(&call(1, u64::MAX, &PeerRequest::Pulse {})))),
        ("peer-length", behind(0, &[0xFF; 8])),
        ("open", behind(1, &framed(&call(1, 10, &open)))),
        ("heartbeat", behind(1, &framed(&call(2, 10, &beat)))),
        ("report", behind(1, &framed(&call(3, 10, &report)))),
    ];
    seeds.extend(orders().into_iter().map(|(name, order)| (name, behind(2, &framed(&call(1, 10, &order))))));
    // An answer: the call's id, then a result.
    seeds.push(("pulse-answer", behind(3, &framed(&[5, 0, 5, 0, 7]))));
    seeds.push(("error-answer", behind(4, &framed(&[5, 1, 3, 2, b'n', b'o']))));
    seeds.push(("list-answer", behind(5, &framed(&[5, 0, 3, 0, 0]))));
    seeds
}

fn open_session() -> OpenSession {
    OpenSession {
        cluster: Some(CLUSTER),
        protocol_version: PROTOCOL_VERSION,
        worker: WorkerId("w".into()),
        data_dir: Uuid::from_u128(2),
        address: "a:1".into(),
        labels: BTreeMap::from([("zone".into(), "eu".into())]),
        slots: 4,
        now: AT,
        previous: Some(SessionId(3)),
        not_started: vec![RunRef { run: RUN, epoch: 1 }],
        adopted: Vec::new(),
        to_report: vec![RunRef { run: RUN, epoch: 2 }],
        journal_is_whole: true,
    }
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        cluster: CLUSTER,
        worker: WorkerId("w".into()),
        session: SESSION,
        now: AT,
        slots: 4,
        running: 1,
        waiting: 0,
        is_draining: false,
        trouble: Some("full".into()),
    }
}

fn report() -> Report {
    let output = vec![OutputPart { offset: 0, stream: Stream::Stderr, bytes: b"no".to_vec() }];
    let outcome = Outcome { exit_code: Some(1), ..Outcome::unstarted(RunState::Failed, None, AT) };
    let ended = RunEvent::Ended { outcome, output: Some(output) };
    let runs = [RunEvent::Started { at: AT }, ended].map(|event| RunReport { run: RUN, epoch: 1, event }).into();
    Report { cluster: CLUSTER, worker: WorkerId("w".into()), session: SESSION, runs }
}

fn order<T>(body: T) -> Order<T> {
    Order { cluster: CLUSTER, term: TERM, session: SESSION, body }
}

fn orders() -> Vec<(&'static str, WorkerRequest)> {
    let task = Task {
        command: "true".into(),
        env: BTreeMap::from([("A".into(), "b".into())]),
        working_dir: Some("/tmp".into()),
        timeout_ms: Some(60_000),
        kill_grace_ms: 10_000,
        max_output_bytes: 1024,
        ends_with_lease: true,
    };
    let stage = Stage {
        run: RUN,
        epoch: 1,
        job: JOB,
        job_name: "n".into(),
        attempt: 1,
        scheduled_at: AT,
        start_at: AT,
        in_ms: 1_500,
        max_skew_ms: 500,
        not_after_in_ms: Some(30_000),
        task,
    };
    let far = Stage { in_ms: i64::MIN, start_at: UnixMs(i64::MIN), not_after_in_ms: Some(i64::MAX), ..stage.clone() };
    let again = Stage { run: RunId(Uuid::from_u128(0xA2)), epoch: 2, not_after_in_ms: None, ..stage.clone() };
    let of = RunRef { run: RUN, epoch: 1 };
    vec![
        ("stage", WorkerRequest::Stage { order: order(vec![stage.clone(), again]) }),
        ("far", WorkerRequest::Stage { order: order(vec![far]) }),
        ("revoke", WorkerRequest::Revoke { order: order(vec![of]) }),
        ("cancel", WorkerRequest::Cancel { order: order(vec![Cancel { run: RUN, epoch: 1, reason: Reason::Requested }]) }),
        ("list", WorkerRequest::List { order: order(()) }),
        ("read", WorkerRequest::ReadOutput { request: ReadOutput { cluster: CLUSTER, run: RUN, from: 3, bytes_max: 100, wait_ms: 1 } }),
    ]
}

// ---- the worker's files

fn records() -> Vec<Record> {
    vec![
        Record::Session { cluster: CLUSTER, session: SESSION },
        Record::Accepted { run: RUN, epoch: 1, job: JOB, job_name: "n".into() },
        Record::Starting { run: RUN },
        Record::Started { run: RUN, pid: 100, start_time_ticks: 7, at: AT },
        Record::NotStarted { run: RUN },
        Record::Revoked { run: RUN, epoch: 1 },
        Record::Acknowledged { run: RUN, closed_at: 9 },
        Record::RecordedUpTo { index: 9 },
    ]
}

fn files() -> Seeds {
    // Each record behind its length, as the target takes them.
    let lengths: Vec<u8> = records().iter().map(binary).flat_map(|record| [binary(&(record.len() as u16)), record].concat()).collect();
    let frames = crate::targets::worker_files::framed(&lengths);
    // Batches: checksum, bytes of the body, bytes of output, offset; then pieces, each behind its length and stream.
    let batch = |offset: u64, pieces: &[(&[u8], bool)]| {
        let body: Vec<u8> =
            pieces.iter().flat_map(|(bytes, is_error)| [&[(bytes.len() as u8) << 1 | u8::from(*is_error)], *bytes].concat()).collect();
        let output: usize = pieces.iter().map(|(bytes, _)| bytes.len()).sum();
        [[0; 4], (body.len() as u32).to_le_bytes(), (output as u32).to_le_bytes()]
            .concat()
            .into_iter()
            .chain(offset.to_le_bytes())
            .chain(body)
    };
    let spool: Vec<u8> =
        [40, 0, 40, 0].into_iter().chain(batch(0, &[(b"hello ", false), (b"world", true)])).chain(batch(11, &[(b"!", false)])).collect();
    // libFuzzer found it: a batch whose offset is near the end of all numbers.
    let far: Vec<u8> = [40, 0, 40, 0].into_iter().chain(batch(0, &[(b"a", false)])).chain(batch(u64::MAX, &[(b"b", true)])).collect();
    vec![
        ("journal", behind(0, &frames)),
        ("records", behind(1, &lengths)),
        ("spool", behind(2, &spool)),
        ("spool-far", behind(2, &far)),
        ("spool-page", behind(2, &FOUND)),
    ]
}

/// libFuzzer found it: a page without a limit that does not begin at offset 0.
const FOUND: [u8; 41] =
    [0, 0, 4, 0, 0, 0, 0, 38, 13, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 104, 101, 1, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 2, 33];

#[test]
fn the_seeds_speak_the_protocol() {
    use tarpc::ClientMessage;
    for (name, words) in orders() {
        let bytes = call(7, 10, &words);
        let read: ClientMessage<WorkerRequest> = postcard::from_bytes(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(matches!(read, ClientMessage::Request(request) if request.id == 7 && binary(&request.message) == binary(&words)), "{name}");
    }
    for (name, entry) in entries() {
        assert!(chrono_flow::ledger::decode_entry(&entry[1..]).is_ok(), "{name}");
    }
    for (name, snapshot) in snapshots() {
        assert!(Ledger::decode(&snapshot).is_ok(), "{name}");
    }
    for (name, frame) in consensus_frames().into_iter().filter(|(_, frame)| frame[0] == 0) {
        assert!(chrono_flow::consensus::fuzz::read_frame(frame[1..].to_vec()) != (name == "groups"), "{name}");
    }
    assert!(chrono_flow::consensus::fuzz::read_snapshot(CLUSTER, image().into()));
    let files = files();
    assert_eq!(chrono_flow::agent::fuzz::read_journal(&files[0].1[1..]), records().len());
}
