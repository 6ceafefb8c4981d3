//! The first bytes of a connection: who is let in, and what both sides are told.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use chrono_flow::model::{ClusterId, WorkerId};
use chrono_flow::rpc::handshake::{HANDSHAKE_TIMEOUT, HELLO_BYTES_MAX, HandshakeError, Hello, Name, Service, accept, dial};
use chrono_flow::rpc::secret::{ClusterSecret, SECRET_BYTES_MAX, SecretError};
use chrono_flow::rpc::wire::PROTOCOL_VERSION;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::support::{CLUSTER, OTHER_CLUSTER, hello, secret};

const SERVICES: &[Service] = &[Service::Peer, Service::PeerSnapshots];
const GREETING_BYTES: usize = 8 + 4 + 32;
const PROOF_BYTES: usize = 32;

type Dialled = Result<(), HandshakeError>;
type Accepted = Result<Hello, HandshakeError>;

async fn meet(
    (dialler, hello): (Option<&ClusterSecret>, Hello),
    (acceptor, cluster): (Option<&ClusterSecret>, Option<ClusterId>),
) -> (Dialled, Accepted) {
    let (mut one, mut other) = duplex(64);
    tokio::join!(dial(&mut one, dialler, &hello), accept(&mut other, acceptor, cluster, SERVICES))
}

fn fails<T: Debug>(result: Result<T, HandshakeError>, says: &str) {
    let text = result.unwrap_err().to_string();
    assert!(text.contains(says), "{text}");
}

#[tokio::test]
async fn who_knows_the_secret_is_let_in_and_named() {
    let secret = secret("a secret of the cluster\n");
    for (ours, theirs) in [(None, None), (Some(CLUSTER), None), (None, Some(CLUSTER)), (Some(CLUSTER), Some(CLUSTER))] {
        let (dialled, accepted) = meet((Some(&secret), hello(theirs)), (Some(&secret), ours)).await;
        dialled.unwrap();
        assert_eq!(accepted.unwrap(), hello(theirs));
    }
    let (dialled, accepted) = meet((None, hello(None)), (None, None)).await;
    assert!(dialled.is_ok() && accepted.is_ok(), "without secrets on loopback");
}

#[tokio::test]
async fn a_wrong_secret_and_a_missing_one_are_refused_and_named_on_both_sides() {
    let (one, other) = (secret("a secret of the cluster"), secret("a secret of the cluster "));
    for (dialler, acceptor) in [(Some(&*one), Some(&*other)), (Some(&*one), None), (None, Some(&*one))] {
        let (dialled, accepted) = meet((dialler, hello(None)), (acceptor, None)).await;
        fails(dialled, "the cluster secrets differ");
        fails(accepted, "the cluster secrets differ");
    }
}

#[tokio::test]
async fn another_cluster_is_refused_by_name_on_both_sides() {
    let (dialled, accepted) = meet((None, hello(Some(OTHER_CLUSTER))), (None, Some(CLUSTER))).await;
    fails(dialled, &format!("this is {OTHER_CLUSTER}, and the other one {CLUSTER}"));
    fails(accepted, &format!("this is {CLUSTER}, and the other one {OTHER_CLUSTER}"));
}

#[tokio::test]
async fn a_service_that_is_not_served_here_is_refused_by_name() {
    let worker = Hello { cluster: None, from: Name::Worker(WorkerId("w".into())), service: Service::Controller };
    let (dialled, accepted) = meet((None, worker), (None, None)).await;
    fails(dialled, "Controller is not served");
    fails(accepted, "Controller is not served");
}

/// A greeting as another version of the program would send it.
fn greeting(version: u32) -> Vec<u8> {
    [b"chronofl".as_slice(), &version.to_le_bytes(), &[9; 32]].concat()
}

#[tokio::test]
async fn another_version_is_refused_by_name_on_both_sides() {
    let newer = PROTOCOL_VERSION + 1;
    let says = format!("speaks version {newer} of the protocol, and this one version {PROTOCOL_VERSION}");
    let (mut one, mut other) = duplex(1024);
    one.write_all(&greeting(newer)).await.unwrap();
    fails(accept(&mut other, None, None, SERVICES).await, &says);
    let mut answer = [0; GREETING_BYTES];
    one.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..12], greeting(PROTOCOL_VERSION)[..12], "the dialler is told the version too");

    let (mut one, mut other) = duplex(1024);
    other.write_all(&greeting(newer)).await.unwrap();
    fails(dial(&mut one, None, &hello(None)).await, &says);
}

#[tokio::test]
async fn what_is_not_ours_is_told_apart_from_its_first_bytes() {
    let (mut one, mut other) = duplex(1024);
    one.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    fails(accept(&mut other, None, None, SERVICES).await, "does not speak chrono-flow's RPC");
    let (mut one, mut other) = duplex(1024);
    other.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    fails(dial(&mut one, None, &hello(None)).await, "does not speak chrono-flow's RPC");
    let (mut one, other) = duplex(1024);
    drop(other);
    fails(dial(&mut one, None, &hello(None)).await, "broke in the handshake");
}

/// Sends `bytes`, one each time that `every` has passed, or all at once.
async fn is_given_up_in_time(bytes: Vec<u8>, every: Option<Duration>) {
    let (mut one, mut other) = duplex(1024);
    let sending = tokio::spawn(async move {
        match every {
            None => one.write_all(&bytes).await.unwrap(),
            Some(every) => {
                for byte in bytes {
                    tokio::time::sleep(every).await;
                    if one.write_all(&[byte]).await.is_err() {
                        return None;
                    }
                }
            }
        }
        Some(one)
    });
    let since = Instant::now();
    fails(accept(&mut other, None, None, SERVICES).await, "did not finish the handshake within 5 s");
    let took = since.elapsed();
    assert!((HANDSHAKE_TIMEOUT..HANDSHAKE_TIMEOUT + Duration::from_secs(3)).contains(&took), "{took:?}");
    drop(other);
    drop(sending.await);
}

#[tokio::test]
async fn a_peer_that_says_nothing_or_stops_half_way_is_given_up_in_time() {
    let no_proof = [greeting(PROTOCOL_VERSION), vec![0; PROOF_BYTES - 1]].concat();
    tokio::join!(
        is_given_up_in_time(vec![], None),
        is_given_up_in_time(b"chro".to_vec(), None),
        is_given_up_in_time(greeting(PROTOCOL_VERSION), None),
        is_given_up_in_time(no_proof, None),
        // A byte now and then doesn't help.
        is_given_up_in_time(greeting(PROTOCOL_VERSION), Some(Duration::from_millis(500))),
    );
}

/// Carries bytes between the two sides and keeps what the dialler sent.
async fn overhear(mut dialler: DuplexStream, mut acceptor: DuplexStream) -> Vec<u8> {
    let mut heard = Vec::new();
    let (mut up, mut down) = ([0; 256], [0; 256]);
    loop {
        tokio::select! {
            count = dialler.read(&mut up) => match count.unwrap() {
                0 => return heard,
                count => {
                    heard.extend_from_slice(&up[..count]);
                    acceptor.write_all(&up[..count]).await.unwrap();
                }
            },
            count = acceptor.read(&mut down) => match count.unwrap() {
                0 => return heard,
                count => dialler.write_all(&down[..count]).await.unwrap(),
            },
        }
    }
}

#[tokio::test]
async fn a_proof_that_was_overheard_is_worth_nothing_on_another_connection() {
    let secret = secret("a secret of the cluster");
    let ((mut one, tap_one), (tap_other, mut other)) = (duplex(1024), duplex(1024));
    let tap = tokio::spawn(overhear(tap_one, tap_other));
    let hello = hello(None);
    let (dialled, accepted) = tokio::join!(dial(&mut one, Some(&secret), &hello), accept(&mut other, Some(&secret), None, SERVICES));
    assert!(dialled.is_ok() && accepted.is_ok());
    drop((one, other));
    let heard = tap.await.unwrap();
    assert!(heard.len() > GREETING_BYTES + PROOF_BYTES);

    let (mut one, mut other) = duplex(1024);
    one.write_all(&heard).await.unwrap();
    fails(accept(&mut other, Some(&secret), None, SERVICES).await, "the cluster secrets differ");
    let mut answer = [1; GREETING_BYTES + PROOF_BYTES];
    one.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[GREETING_BYTES..], [0; PROOF_BYTES], "it gets no proof in return");
}

#[tokio::test]
async fn what_a_side_proves_cannot_be_sent_back_to_it() {
    // Somebody without the secret dials, and echoes whatever the acceptor says.
    let secret = secret("a secret of the cluster");
    let (mut one, mut other) = duplex(1024);
    let echo = tokio::spawn(async move {
        one.write_all(&greeting(PROTOCOL_VERSION)).await.unwrap();
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = one.read(&mut bytes).await {
            if one.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    });
    fails(accept(&mut other, Some(&secret), None, SERVICES).await, "the cluster secrets differ");
    drop(other);
    echo.await.unwrap();
    // And the same for one who is dialled: the greeting and the proof come back.
    let (mut one, mut other) = duplex(1024);
    let echo = tokio::spawn(async move {
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = other.read(&mut bytes).await {
            if other.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    });
    fails(dial(&mut one, Some(&secret), &hello(None)).await, "the cluster secrets differ");
    drop(one);
    echo.await.unwrap();
}

/// Goes through the dialler's proof and then sends `bytes` where the hello belongs.
async fn after_the_proof(bytes: &[u8]) -> Accepted {
    use hmac::{Hmac, Mac};
    let (mut one, mut other) = duplex(8 * 1024);
    let dialling = async {
        let ours = greeting(PROTOCOL_VERSION);
        one.write_all(&ours).await.unwrap();
        let mut theirs = [0; GREETING_BYTES];
        one.read_exact(&mut theirs).await.unwrap();
        let proof = Hmac::<sha2::Sha256>::new_from_slice(&[])
            .unwrap()
            .chain_update(b"chrono-flow dialler ")
            .chain_update(PROTOCOL_VERSION.to_le_bytes())
            .chain_update(&ours[12..])
            .chain_update(&theirs[12..])
            .finalize()
            .into_bytes();
        one.write_all(&proof).await.unwrap();
        one.write_all(bytes).await.unwrap();
    };
    let (accepted, ()) = tokio::join!(accept(&mut other, None, None, SERVICES), dialling);
    accepted
}

#[tokio::test]
async fn a_hello_that_is_too_long_or_malformed_is_refused() {
    let sound = postcard::to_stdvec(&hello(None)).unwrap();
    let framed = |length: usize, body: &[u8]| [&(length as u16).to_le_bytes(), body].concat();
    assert!(after_the_proof(&framed(sound.len(), &sound)).await.is_ok(), "the test speaks the protocol");
    fails(after_the_proof(&framed(HELLO_BYTES_MAX + 1, &[])).await, "longer than 1024 bytes");
    fails(after_the_proof(&framed(65_535, &[])).await, "longer than 1024 bytes");
    fails(after_the_proof(&framed(3, &[0xFF; 3])).await, "malformed");
    let (mut one, mut other) = duplex(1024);
    let long = Hello { from: Name::Worker(WorkerId("w".repeat(2_000))), ..hello(None) };
    let dialling = async {
        let result = dial(&mut one, None, &long).await;
        drop(one);
        result
    };
    let (dialled, _) = tokio::join!(dialling, accept(&mut other, None, None, SERVICES));
    fails(dialled, "longer than 1024 bytes");
}

#[test]
fn a_secret_is_read_without_its_line_end_and_shown_to_nobody() {
    assert!(secret("a secret of the cluster\n") == secret("a secret of the cluster"));
    assert!(secret("a secret of the cluster\r\n") == secret("a secret of the cluster"));
    assert!(secret("a secret of the cluster\n\n") != secret("a secret of the cluster"));
    assert_eq!(format!("{:?}", secret("a secret of the cluster")), "ClusterSecret(…)");
    let read = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        ClusterSecret::read(file.path())
    };
    assert!(matches!(read("only fifteen ch\n"), Err(SecretError::TooShort { bytes: 15, .. })));
    assert!(read(&format!("{}\n", "x".repeat(SECRET_BYTES_MAX))).is_ok());
    assert!(matches!(read(&"x".repeat(SECRET_BYTES_MAX + 1)), Err(SecretError::TooLong { .. })));
    let missing = ClusterSecret::read("/no/such/file".as_ref()).unwrap_err().to_string();
    assert!(missing.contains("/no/such/file"), "{missing}");
}
