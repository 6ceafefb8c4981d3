//! The accept loop of a role's RPC address: greets whoever dials, within bounds, and hands the connection over.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::complaints::Complaints;
use super::handshake::{self, HandshakeError, Hello, Service};
use super::secret::ClusterSecret;
use super::socket;
use super::strangers::Strangers;
use crate::model::ClusterId;

/// Connections at once, at most: three for each peer and one for each worker, with room to spare.
const CONNECTIONS_MAX: usize = 4_096;
/// Connections at once whose peer is not known yet; beyond that, the most tiresome one makes room.
const HANDSHAKES_MAX: usize = 256;
/// How long the loop rests when no connection can be taken, as when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that is listened on.
pub struct Listener {
    listener: TcpListener,
    secret: Option<Arc<ClusterSecret>>,
}

impl Listener {
    /// Listens on `address` (`host:port`; port 0 takes a free one). Without a secret only on loopback: whoever reaches this address could
    /// have commands executed.
    pub async fn bind(address: &str, secret: Option<Arc<ClusterSecret>>) -> io::Result<Listener> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("can't listen for RPC on {address}: {error}"));
        let addresses: Vec<SocketAddr> = lookup_host(address).await.map_err(named)?.collect();
        if secret.is_none() && !addresses.iter().all(|address| address.ip().is_loopback()) {
            let what = "without --cluster-secret-file it may only listen on a loopback address, such as 127.0.0.1";
            return Err(named(io::Error::new(io::ErrorKind::PermissionDenied, what)));
        }
        let listener = TcpListener::bind(addresses.as_slice()).await.map_err(named)?;
        Ok(Listener { listener, secret })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Hands every connection for one of `services` to `handle`, until `stop` is ready; then all connections are cut. A connection counts
    /// against the limit until its handler ends. `cluster` is looked at anew for each connection.
    pub async fn run<H, F>(
        self,
        services: &'static [Service],
        cluster: watch::Receiver<Option<ClusterId>>,
        handle: H,
        stop: impl Future<Output = ()>,
    ) where
        H: Fn(Hello, TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let greeter = Arc::new(Greeter {
            secret: self.secret,
            services,
            cluster,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            strangers: Strangers::new(HANDSHAKES_MAX),
            complaints: Complaints::default(),
            handle,
        });
        let mut connections = JoinSet::new();
        tokio::select! {
            () = accept(&self.listener, &greeter, &mut connections) => {}
            () = stop => {}
        }
        connections.shutdown().await;
    }
}

struct Greeter<H> {
    secret: Option<Arc<ClusterSecret>>,
    services: &'static [Service],
    cluster: watch::Receiver<Option<ClusterId>>,
    places: Arc<Semaphore>,
    strangers: Strangers,
    complaints: Complaints,
    handle: H,
}

async fn accept<H, F>(listener: &TcpListener, greeter: &Arc<Greeter<H>>, connections: &mut JoinSet<()>)
where
    H: Fn(Hello, TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                greeter.rest_after(error).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = greeter.places.clone().try_acquire_owned() else {
            greeter.complaints.warn("RPC", "connections are refused: too many are open");
            continue;
        };
        let (stranger, is_crowded) = greeter.strangers.enter(peer.ip());
        if is_crowded {
            greeter.complaints.warn("RPC", "connections are cut off: too many have not said who they are");
        }
        let greeter = greeter.clone();
        connections.spawn(async move {
            if let Some((hello, stream)) = stranger.unless_sent_away(greeter.greet(stream, peer)).await {
                (greeter.handle)(hello, stream).await;
            }
            drop(place);
        });
    }
}

impl<H> Greeter<H> {
    async fn greet(&self, mut stream: TcpStream, peer: SocketAddr) -> Option<(Hello, TcpStream)> {
        if let Err(error) = socket::tune(&stream) {
            log::debug!("{peer}: the socket's options can't be set: {error}");
        }
        let cluster = *self.cluster.borrow();
        match handshake::accept(&mut stream, self.secret.as_deref(), cluster, self.services).await {
            Ok(hello) => Some((hello, stream)),
            // A probe of the port, or a peer that has died.
            Err(HandshakeError::Io(error)) => {
                log::debug!("{peer}: the connection broke in the handshake: {error}");
                None
            }
            Err(error) => {
                self.complaints.warn(&format!("refused an RPC connection from {}", peer.ip()), &error.to_string());
                None
            }
        }
    }

    /// A connection that broke before it was taken is nobody's loss; anything else, such as too few file descriptors, may last.
    async fn rest_after(&self, error: io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            self.complaints.warn("RPC", &format!("connections can't be taken: {error}"));
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}
