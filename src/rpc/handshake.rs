//! The first bytes of every TCP connection: both sides prove that they know the cluster's secret before anything else is parsed.
//!
//! ```text
//! each side   magic 8 · version u32 · nonce 32                     the dialler first
//! each side   proof 32 = HMAC-SHA256(secret, role · version · dialler's nonce · acceptor's nonce)
//! dialler     length u16 · Hello (postcard)
//! acceptor    length u16 · Answer (postcard)
//! ```
//!
//! Numbers are little endian. A side without a secret proves with an empty key, so that a secret on one side only is refused like a wrong
//! one. The dialler proves first, and who fails is sent zeros: a stranger gets nothing to guess the secret from. A proof is worth nothing
//! on another connection, for both nonces are in it, nor in the other direction, for the role is.
//!
//! Left out: what follows is neither encrypted nor authenticated. Whoever can read or change the packets on the way can read or change
//! what is said; that needs a private network or a tunnel.

use std::fmt;
use std::io;
use std::time::Duration;

use hmac::{Hmac, Mac};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::secret::ClusterSecret;
use super::wire::PROTOCOL_VERSION;
use crate::model::{ClusterId, NodeId, WorkerId};

/// How long a peer may take until it is known.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a hello or of its answer, at most.
pub const HELLO_BYTES_MAX: usize = 1024;
const MAGIC: [u8; 8] = *b"chronofl";
const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;

/// Who dials, and what for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// None: not founded yet, or a worker that has not joined.
    pub cluster: Option<ClusterId>,
    pub from: Name,
    /// What the dialler wants of the acceptor.
    pub service: Service,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Name {
    Controller(NodeId),
    Worker(WorkerId),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Controller(id) => write!(f, "controller {id}"),
            Name::Worker(id) => write!(f, "worker {id}"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Service {
    /// A controller's for workers.
    Controller,
    /// A worker's for the leader.
    Worker,
    /// A controller's for its peers.
    Peer,
    /// The same, on a connection for nothing but snapshots.
    PeerSnapshots,
}

/// The acceptor's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Answer {
    Welcome,
    OtherCluster { ours: ClusterId },
    NotHere,
}

/// Why two sides don't talk.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the other side does not speak chrono-flow's RPC")]
    NotOurs,
    #[error("the other side speaks version {theirs} of the protocol, and this one version {ours}")]
    OtherVersion { ours: u32, theirs: u32 },
    #[error("the cluster secrets differ: --cluster-secret-file must hold the same secret on both sides, or be given on neither")]
    OtherSecret,
    #[error("the two sides belong to different clusters: this is {ours}, and the other one {theirs}")]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
    #[error("the service {service:?} is not served at this address")]
    NotHere { service: Service },
    #[error("the other side's hello is malformed or longer than {HELLO_BYTES_MAX} bytes")]
    Malformed,
    #[error("the other side did not finish the handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the connection broke in the handshake: {0}")]
    Io(#[from] io::Error),
}

impl HandshakeError {
    /// Somebody has to look at it: no waiting makes it better.
    pub fn is_lasting(&self) -> bool {
        !matches!(self, HandshakeError::TimedOut | HandshakeError::Io(_))
    }
}

impl From<HandshakeError> for io::Error {
    fn from(error: HandshakeError) -> io::Error {
        let kind = match &error {
            HandshakeError::NotOurs | HandshakeError::Malformed => io::ErrorKind::InvalidData,
            HandshakeError::OtherVersion { .. } | HandshakeError::NotHere { .. } => io::ErrorKind::Unsupported,
            HandshakeError::OtherSecret | HandshakeError::OtherCluster { .. } => io::ErrorKind::PermissionDenied,
            HandshakeError::TimedOut => io::ErrorKind::TimedOut,
            HandshakeError::Io(cause) => cause.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// The dialler's side: returns when the acceptor has said welcome.
pub async fn dial<S>(stream: &mut S, secret: Option<&ClusterSecret>, hello: &Hello) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    in_time(async {
        let ours = nonce()?;
        stream.write_all(&greeting(&ours)).await?;
        let theirs = read_greeting(stream).await?;
        theirs.check_version()?;
        let proofs = Proofs { secret, of_dialler: &ours, of_acceptor: &theirs.nonce };
        stream.write_all(&proofs.proof(Role::Dialler)).await?;
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await?;
        proofs.check(Role::Acceptor, &proof)?;
        write_small(stream, hello).await?;
        match read_small(stream).await? {
            Answer::Welcome => Ok(()),
            // It refuses only a cluster that was named.
            Answer::OtherCluster { ours: theirs } => {
                Err(hello.cluster.map_or(HandshakeError::Malformed, |ours| HandshakeError::OtherCluster { ours, theirs }))
            }
            Answer::NotHere => Err(HandshakeError::NotHere { service: hello.service }),
        }
    })
    .await
}

/// The acceptor's side: returns the hello of a peer that it has welcomed.
pub async fn accept<S>(
    stream: &mut S,
    secret: Option<&ClusterSecret>,
    cluster: Option<ClusterId>,
    services: &[Service],
) -> Result<Hello, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    in_time(async {
        let theirs = read_greeting(stream).await?;
        let ours = nonce()?;
        // Sent even to another version, so that the dialler too can say what is wrong.
        stream.write_all(&greeting(&ours)).await?;
        theirs.check_version()?;
        let proofs = Proofs { secret, of_dialler: &theirs.nonce, of_acceptor: &ours };
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await?;
        if let Err(error) = proofs.check(Role::Dialler, &proof) {
            stream.write_all(&[0; PROOF_BYTES]).await?;
            return Err(error);
        }
        stream.write_all(&proofs.proof(Role::Acceptor)).await?;
        let hello: Hello = read_small(stream).await?;
        let (answer, result) = match (cluster, hello.cluster) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                (Answer::OtherCluster { ours }, Err(HandshakeError::OtherCluster { ours, theirs }))
            }
            _ if !services.contains(&hello.service) => (Answer::NotHere, Err(HandshakeError::NotHere { service: hello.service })),
            _ => (Answer::Welcome, Ok(hello)),
        };
        write_small(stream, &answer).await?;
        result
    })
    .await
}

async fn in_time<T>(handshake: impl Future<Output = Result<T, HandshakeError>>) -> Result<T, HandshakeError> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.unwrap_or(Err(HandshakeError::TimedOut))
}

fn nonce() -> io::Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    // Up to 256 bytes come at once or not at all (getrandom(2)).
    getrandom(&mut nonce, GetRandomFlags::empty())?;
    Ok(nonce)
}

fn greeting(nonce: &[u8; NONCE_BYTES]) -> Vec<u8> {
    [MAGIC.as_slice(), &PROTOCOL_VERSION.to_le_bytes(), nonce].concat()
}

/// The same size in every version.
struct Greeting {
    version: u32,
    nonce: [u8; NONCE_BYTES],
}

impl Greeting {
    fn check_version(&self) -> Result<(), HandshakeError> {
        let (ours, theirs) = (PROTOCOL_VERSION, self.version);
        if ours == theirs { Ok(()) } else { Err(HandshakeError::OtherVersion { ours, theirs }) }
    }
}

async fn read_greeting(stream: &mut (impl AsyncRead + Unpin)) -> Result<Greeting, HandshakeError> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic != MAGIC {
        return Err(HandshakeError::NotOurs);
    }
    let version = stream.read_u32_le().await?;
    let mut nonce = [0; NONCE_BYTES];
    stream.read_exact(&mut nonce).await?;
    Ok(Greeting { version, nonce })
}

#[derive(Clone, Copy)]
enum Role {
    Dialler,
    Acceptor,
}

struct Proofs<'a> {
    secret: Option<&'a ClusterSecret>,
    of_dialler: &'a [u8; NONCE_BYTES],
    of_acceptor: &'a [u8; NONCE_BYTES],
}

impl Proofs<'_> {
    fn mac(&self, role: Role) -> Hmac<Sha256> {
        let key = self.secret.map_or([].as_slice(), ClusterSecret::bytes);
        let label = match role {
            Role::Dialler => b"chrono-flow dialler ",
            Role::Acceptor => b"chrono-flow acceptor",
        };
        let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104)");
        mac.chain_update(label).chain_update(PROTOCOL_VERSION.to_le_bytes()).chain_update(self.of_dialler).chain_update(self.of_acceptor)
    }

    fn proof(&self, role: Role) -> [u8; PROOF_BYTES] {
        self.mac(role).finalize().into_bytes().into()
    }

    /// In constant time.
    fn check(&self, role: Role, proof: &[u8; PROOF_BYTES]) -> Result<(), HandshakeError> {
        self.mac(role).verify_slice(proof).map_err(|_| HandshakeError::OtherSecret)
    }
}

async fn write_small(stream: &mut (impl AsyncWrite + Unpin), what: &impl Serialize) -> Result<(), HandshakeError> {
    let bytes = postcard::to_stdvec(what).map_err(|_| HandshakeError::Malformed)?;
    let length = u16::try_from(bytes.len()).ok().filter(|length| usize::from(*length) <= HELLO_BYTES_MAX);
    let length = length.ok_or(HandshakeError::Malformed)?;
    stream.write_all(&[length.to_le_bytes().as_slice(), &bytes].concat()).await?;
    Ok(stream.flush().await?)
}

async fn read_small<T: for<'de> Deserialize<'de>>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, HandshakeError> {
    let length = usize::from(stream.read_u16_le().await?);
    if length > HELLO_BYTES_MAX {
        return Err(HandshakeError::Malformed);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    postcard::from_bytes(&bytes).map_err(|_| HandshakeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_format_of_the_handshake_stands_still() {
        let (dialler, acceptor) = ([1; NONCE_BYTES], [2; NONCE_BYTES]);
        assert_eq!(hex(&greeting(&dialler)), format!("6368726f6e6f666c{:02x}000000{}", PROTOCOL_VERSION, "01".repeat(32)));
        let proofs = Proofs { secret: None, of_dialler: &dialler, of_acceptor: &acceptor };
        assert_eq!(hex(&proofs.proof(Role::Dialler)), "af017784efad54f40b9d2762d77158e73c259a0c9bcd233b8393bed546a83761");
        assert_eq!(hex(&proofs.proof(Role::Acceptor)), "912c63e8859f6e5d0172d4ecee980a849d3640bdb7b388dd3faef3005c695416");
        let hello = Hello { cluster: Some(ClusterId(Uuid::from_u128(1))), from: Name::Controller(2), service: Service::PeerSnapshots };
        let id = "00000000000000000000000000000001";
        assert_eq!(hex(&postcard::to_stdvec(&hello).unwrap()), format!("0110{id}000203"));
        let hello = Hello { cluster: None, from: Name::Worker(WorkerId("w".into())), service: Service::Controller };
        assert_eq!(hex(&postcard::to_stdvec(&hello).unwrap()), "0001017700");
        assert_eq!(hex(&postcard::to_stdvec(&Answer::OtherCluster { ours: ClusterId(Uuid::from_u128(1)) }).unwrap()), format!("0110{id}"));
    }
}
