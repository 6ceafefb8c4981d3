//! The listener and the dialler over real sockets.

use std::io;
use std::sync::Arc;

use chrono_flow::model::ClusterId;
use chrono_flow::rpc::dial::TcpDial;
use chrono_flow::rpc::handshake::{Name, Service};
use chrono_flow::rpc::listen::Listener;
use chrono_flow::rpc::secret::ClusterSecret;
use chrono_flow::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::{CLUSTER, OTHER_CLUSTER, secret};

const SERVICES: &[Service] = &[Service::Peer];

/// Echoes to whoever is let in.
async fn echo(secret: Option<Arc<ClusterSecret>>, cluster: watch::Receiver<Option<ClusterId>>) -> (String, Shutdown) {
    let listener = Listener::bind("127.0.0.1:0", secret).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = Shutdown::default();
    let stop = shutdown.clone();
    let serve = |_, mut stream: TcpStream| async move {
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    };
    tokio::spawn(async move { listener.run(SERVICES, cluster, serve, async move { stop.requested().await }).await });
    (address, shutdown)
}

fn dial(secret: Option<Arc<ClusterSecret>>, cluster: Option<ClusterId>) -> TcpDial {
    TcpDial::new(secret, watch::Sender::new(cluster).subscribe(), Name::Controller(1))
}

async fn is_echoed(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").await.is_ok() && stream.read_exact(&mut answer).await.is_ok() && &answer == b"hello"
}

#[tokio::test]
async fn without_a_secret_only_loopback_is_listened_on() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let error = Listener::bind(address, None).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("--cluster-secret-file") && error.to_string().contains(address), "{error}");
    }
    assert!(Listener::bind("127.0.0.1:0", None).await.is_ok());
    assert!(Listener::bind("localhost:0", None).await.is_ok());
    assert!(Listener::bind("0.0.0.0:0", Some(secret("a secret of the cluster"))).await.is_ok());
}

#[tokio::test]
async fn who_is_let_in_is_served_until_the_stop() {
    let secret = secret("a secret of the cluster");
    let (address, shutdown) = echo(Some(secret.clone()), watch::Sender::new(Some(CLUSTER)).subscribe()).await;
    let mut stream = dial(Some(secret.clone()), Some(CLUSTER)).connect(&address, Service::Peer).await.unwrap();
    assert!(is_echoed(&mut stream).await);
    shutdown.request();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "the stop ends connections");
    crate::support::until("the port to close", async || dial(Some(secret.clone()), None).connect(&address, Service::Peer).await.is_err())
        .await;
}

#[tokio::test]
async fn who_is_refused_learns_why_from_the_error_and_the_others_are_still_served() {
    let secret = secret("a secret of the cluster");
    let (address, _shutdown) = echo(Some(secret.clone()), watch::Sender::new(Some(CLUSTER)).subscribe()).await;
    let error = dial(None, None).connect(&address, Service::Peer).await.unwrap_err();
    assert!(error.to_string().contains("the cluster secrets differ"), "{error}");
    let error = dial(Some(secret.clone()), Some(OTHER_CLUSTER)).connect(&address, Service::Peer).await.unwrap_err();
    assert!(error.to_string().contains(&CLUSTER.to_string()), "{error}");
    let error = dial(Some(secret.clone()), Some(CLUSTER)).connect(&address, Service::Worker).await.unwrap_err();
    assert!(error.to_string().contains("Worker is not served"), "{error}");
    let mut garbage = TcpStream::connect(&address).await.unwrap();
    garbage.write_all(&[0x55; 5_000]).await.unwrap();
    let ended = garbage.read(&mut [0; 64]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let mut stream = dial(Some(secret), None).connect(&address, Service::Peer).await.unwrap();
    assert!(is_echoed(&mut stream).await);
}

#[tokio::test]
async fn the_cluster_counts_from_the_moment_that_it_is_known() {
    let cluster = watch::Sender::new(None);
    let (address, _shutdown) = echo(None, cluster.subscribe()).await;
    let other = dial(None, Some(OTHER_CLUSTER));
    assert!(other.connect(&address, Service::Peer).await.is_ok());
    cluster.send_replace(Some(CLUSTER));
    assert!(other.connect(&address, Service::Peer).await.is_err());
}

#[tokio::test]
async fn strangers_that_stay_silent_keep_no_member_out() {
    let (address, _shutdown) = echo(None, watch::Sender::new(None).subscribe()).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(&address).await.unwrap());
        assert!(dial(None, None).connect(&address, Service::Peer).await.is_ok(), "after {}", silent.len());
    }
}
