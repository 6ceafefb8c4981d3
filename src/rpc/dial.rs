//! The way out: names are resolved anew for each connection, so that a peer whose address has changed is found again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::timeout;

use super::complaints::Complaints;
use super::handshake::{self, Hello, Name, Service};
use super::link::{Connection, Dial};
use super::secret::ClusterSecret;
use super::socket;
use crate::model::ClusterId;

/// How long a name may take to resolve, and one of its addresses to answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Dials as one member of a cluster. Clones share what they have complained about.
#[derive(Clone)]
pub struct TcpDial {
    secret: Option<Arc<ClusterSecret>>,
    cluster: watch::Receiver<Option<ClusterId>>,
    from: Name,
    complaints: Arc<Complaints>,
}

impl TcpDial {
    /// `cluster` is looked at anew for each connection: it is not known before the founding.
    pub fn new(secret: Option<Arc<ClusterSecret>>, cluster: watch::Receiver<Option<ClusterId>>, from: Name) -> TcpDial {
        TcpDial { secret, cluster, from, complaints: Arc::default() }
    }

    /// A connection to `address` (`host:port`) on which `service` is served. A refusal by name comes as a [`handshake::HandshakeError`]
    /// within the error, and is logged.
    pub async fn connect(&self, address: &str, service: Service) -> io::Result<TcpStream> {
        let mut stream = reach(address).await?;
        socket::tune(&stream)?;
        let hello = Hello { cluster: *self.cluster.borrow(), from: self.from.clone(), service };
        match handshake::dial(&mut stream, self.secret.as_deref(), &hello).await {
            Ok(()) => Ok(stream),
            Err(error) => {
                if error.is_lasting() {
                    self.complaints.warn(&format!("can't talk to {address}"), &error.to_string());
                }
                Err(error.into())
            }
        }
    }

    /// The same, for one service.
    pub fn to(&self, service: Service) -> Arc<dyn Dial> {
        Arc::new(ToService { dial: self.clone(), service })
    }
}

struct ToService {
    dial: TcpDial,
    service: Service,
}

#[async_trait]
impl Dial for ToService {
    async fn dial(&self, address: &str) -> io::Result<Connection> {
        Ok(Box::new(self.dial.connect(address, self.service).await?))
    }
}

async fn reach(address: &str) -> io::Result<TcpStream> {
    let timed_out = |what: &str| io::Error::new(io::ErrorKind::TimedOut, format!("{what} took too long"));
    let resolved = timeout(RESOLVE_TIMEOUT, lookup_host(address)).await.unwrap_or_else(|_| Err(timed_out("resolving the name")))?;
    let addresses: Vec<SocketAddr> = resolved.take(ADDRESSES_MAX).collect();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(timed_out("connecting"))) {
            Ok(stream) => return Ok(stream),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}
