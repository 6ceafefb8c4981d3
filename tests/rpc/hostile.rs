//! The worst network peers, on real sockets: strangers that want to lock others out or to fill memory, and known ones gone mad.

use std::io;
use std::time::Duration;

use chrono_flow::model::SessionId;
use chrono_flow::rpc::WorkerClient;
use chrono_flow::rpc::codec::transport;
use chrono_flow::rpc::handshake::{HANDSHAKE_TIMEOUT, Service};
use chrono_flow::rpc::wire::{FRAME_BYTES_MAX, Order, PROTOCOL_VERSION, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::process::Process;
use crate::support::{CLUSTER, PATIENCE};

/// What strangers may add to a worker's memory, all together, is far below what they send.
const GROWTH_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// How many strangers a listener holds at once.
const STRANGERS_MAX: usize = 256;
const MEBIBYTE: usize = 1024 * 1024;

fn greeting(version: u32) -> Vec<u8> {
    [b"chronofl".as_slice(), &version.to_le_bytes(), &[9; 32]].concat()
}

/// What strangers begin with.
fn beginnings() -> Vec<Vec<u8>> {
    let whole = greeting(PROTOCOL_VERSION);
    let with = |rest: &[u8]| [whole.as_slice(), rest].concat();
    vec![
        Vec::new(),
        b"chro".to_vec(),
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3],
        vec![0; 64 * 1024],
        vec![0xFF; MEBIBYTE],
        // Lengths of 4 GiB where a frame's would be, and where nothing of the kind belongs.
        u32::MAX.to_be_bytes().to_vec(),
        with(&u32::MAX.to_be_bytes()),
        greeting(PROTOCOL_VERSION + 1),
        greeting(u32::MAX),
        whole[..43].to_vec(),
        with(&[7; 31]),
        with(&[7; 32]),
        with(&[0; 32]),
        // Wrong, and then all that a member would say and much more.
        with(&vec![7; MEBIBYTE]),
    ]
}

/// Sends what is taken, says no more if `is_finished`, and reads until the other side has closed.
async fn knock(address: &str, bytes: &[u8], is_finished: bool) -> usize {
    let Ok(mut stream) = TcpStream::connect(address).await else { return 0 };
    let _ = stream.write_all(bytes).await;
    if is_finished {
        let _ = stream.shutdown().await;
    }
    rest(&mut stream).await
}

/// How many bytes come until the other side has closed, in order or not.
async fn rest(stream: &mut TcpStream) -> usize {
    let mut bytes = vec![0; 4096];
    let mut count = 0;
    let reading = async {
        while let Ok(read @ 1..) = stream.read(&mut bytes).await {
            count += read;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the other side closes");
    count
}

/// A member is let in and answered at its first try.
async fn is_served(process: &Process) {
    let stream = process.member().connect(&process.address, Service::Worker).await.expect("a member is let in at once");
    let client = WorkerClient::new(tarpc::client::Config::default(), transport(stream)).spawn();
    let order = Order { cluster: CLUSTER, term: 1, session: SessionId(1), body: () };
    let mut context = tarpc::context::current();
    context.deadline = std::time::Instant::now() + PATIENCE;
    let answer = client.list(context, order).await.expect("a member is answered");
    assert!(matches!(answer, Err(Refusal::Busy { .. })), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_a_greeting_and_a_few_kilobytes_whatever_they_say() {
    let mut process = Process::start().await;
    is_served(&process).await;
    for bytes in beginnings() {
        knock(&process.address, &bytes, true).await;
    }
    let before = process.resident();
    let mut knocking = JoinSet::new();
    for number in 0..1_500 {
        let (address, beginnings) = (process.address.clone(), beginnings());
        while knocking.len() >= 100 {
            let told: usize = knocking.join_next().await.unwrap().unwrap();
            assert!(told <= 44 + 32, "a stranger was told {told} bytes");
        }
        knocking.spawn(async move { knock(&address, &beginnings[number % beginnings.len()], true).await });
    }
    knocking.join_all().await;
    is_served(&process).await;
    let grown = process.resident().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    process.is_well();
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_hold_connections_and_say_nothing_keep_no_member_out() {
    let mut process = Process::start().await;
    is_served(&process).await;
    let (before, descriptors) = (process.resident(), process.descriptors());
    let mut held = Vec::new();
    for number in 0..700 {
        let mut stream = TcpStream::connect(&process.address).await.unwrap();
        // Some say a little first. A connection that made room for others is closed already.
        if number % 3 > 0 {
            let _ = stream.write_all(&greeting(PROTOCOL_VERSION)[..number % 44]).await;
        }
        held.push(stream);
        if number % 100 == 99 {
            is_served(&process).await;
        }
    }
    let taken = process.descriptors() - descriptors;
    assert!(taken < STRANGERS_MAX + 20, "{taken} connections are held of {}", held.len());
    // And one that says a byte now and then.
    let mut dribbler = TcpStream::connect(&process.address).await.unwrap();
    let dribbling = async {
        for (sent, byte) in greeting(PROTOCOL_VERSION).into_iter().enumerate() {
            if dribbler.write_all(&[byte]).await.is_err() {
                return sent;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        usize::MAX
    };
    let (sent, ()) = tokio::join!(dribbling, is_served(&process));
    let most = HANDSHAKE_TIMEOUT.as_millis() as usize / 500 + 10;
    assert!(sent < most, "a byte now and then does not help: {sent}");
    for mut stream in held {
        assert!(rest(&mut stream).await <= 44, "and is told no more than a greeting");
    }
    is_served(&process).await;
    let grown = process.resident().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    process.is_well();
    process.stop().await;
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

/// The beginning of a call as tarpc has it: its kind, its deadline in seconds and nanoseconds, the trace, its number; then the words.
fn call(deadline_s: u64, words: &[u8]) -> Vec<u8> {
    let head = postcard::to_stdvec(&(0u8, deadline_s, 0u32, [0u8; 16], 0u64, 1u8, 7u64)).unwrap();
    framed(&[&head, words].concat())
}

/// Streams that end their connection, whoever sends them.
fn breaches() -> Vec<(&'static str, Vec<u8>)> {
    let length = |bytes: u64| (bytes as u32).to_be_bytes().to_vec();
    let list = [3u8; 60];
    vec![
        ("a frame of 4 GiB", length(u64::from(u32::MAX))),
        ("a frame of one byte too many", length(FRAME_BYTES_MAX as u64 + 1)),
        ("an empty frame", length(0)),
        ("no call at all", framed(&[0xFF; 100])),
        ("a call without an end", framed(&[0])),
        ("a call of another service", call(10, &[9; 10])),
        ("a call that is cut short", call(10, &[3, 16])),
        ("a number that has no end", call(10, &[0x80; 50])),
        ("a list of 2^64 things", call(10, &[[0, 16].as_slice(), &[1; 16], &[1, 1], &[0xFF; 9], &[1]].concat())),
        ("a call that may take for ever", call(u64::MAX, &list)),
        ("a call that may take 100 years", call(100 * 366 * 86_400, &list)),
        ("an answer", framed(&[7, 0, 3, 0, 0])),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("noise", (0..50_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_breaks_the_protocol_loses_its_connection_and_nobody_else_does() {
    let mut process = Process::start().await;
    let member = process.member();
    is_served(&process).await;
    let before = process.resident();
    for round in 0..5 {
        for (what, bytes) in breaches() {
            let mut stream = member.connect(&process.address, Service::Worker).await.unwrap();
            let _ = stream.write_all(&bytes).await;
            assert!(rest(&mut stream).await < 100, "{what} in round {round}");
        }
    }
    // What is announced and does not come, and what breaks off, holds nothing once it has gone.
    let mut half = Vec::new();
    for _ in 0..50 {
        let mut stream = member.connect(&process.address, Service::Worker).await.unwrap();
        stream.write_all(&(FRAME_BYTES_MAX as u32).to_be_bytes()).await.unwrap();
        stream.write_all(&[0; 1000]).await.unwrap();
        half.push(stream);
    }
    is_served(&process).await;
    let grown = process.resident().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes, though 400 MiB were announced");
    for mut stream in half {
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, 0);
    }
    process.is_well();
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_overheard_of_a_member_opens_no_connection() {
    let mut process = Process::start().await;
    let proxy = crate::proxy::Proxy::new(process.address.clone()).await;
    let overheard = proxy.record();
    let stream = process.member().connect(&proxy.address, Service::Worker).await.unwrap();
    let client = WorkerClient::new(tarpc::client::Config::default(), transport(stream)).spawn();
    let order = Order { cluster: CLUSTER, term: 1, session: SessionId(1), body: () };
    assert!(client.list(tarpc::context::current(), order).await.is_ok());
    drop(client);
    let bytes = overheard.lock().unwrap().first().cloned().expect("a connection");
    assert!(bytes.len() > 44 + 32 + 2, "the whole conversation");
    // The acceptor's nonce is another one: all that comes back is its greeting and a proof of zeros.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(&process.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut told = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut told)).await.expect("it is closed");
        assert!(read.is_ok() || read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
        assert!(told.len() <= 44 + 32 && told[told.len().min(44)..].iter().all(|byte| *byte == 0), "{told:?}");
    }
    is_served(&process).await;
    process.is_well();
    process.stop().await;
}
