//! Controllers among themselves: Raft's frames and snapshots over TCP, what peers ask of each other, and the check at the founding.
//!
//! ```text
//!  consensus ──PeerQueues──► PeerLinks ──frames, in order──► (Service::Peer)          PeerServer ──Node::receive──► consensus
//!                                └──snapshots, in chunks──► (Service::PeerSnapshots)      └──PeerRequests──► engine
//!  engine ──PeerCalls──propose, change_members, pulse──────► (Service::Peer)
//! ```
//!
//! What it promises
//! - Frames of one connection reach the node in the order in which it sent them; what a broken connection lost is reported, not repeated.
//! - A snapshot delays no heartbeat: it has a connection of its own. Its sender's node hears in any case what became of it.
//! - A controller whose directory is empty finds out from its peers what it is before it votes for anyone (PROTOCOL G1).
//!
//! Left out: who may ask for what; a peer that knows the cluster's secret is believed.

mod calls;
pub mod founding;
mod links;
mod node;
mod server;
mod snapshots;

pub use calls::{CallError, PeerCalls};
pub use links::PeerLinks;
pub use node::Node;
pub use server::{PeerRequests, PeerServer};

use std::collections::BTreeMap;

use tarpc::client::NewClient;

use crate::model::NodeId;
use crate::rpc::PeerClient;
use crate::rpc::codec::transport_of;
use crate::rpc::link::Connection;
use crate::rpc::peer::PEER_CALL_BYTES_MAX;

/// Controllers and where they are.
pub type Addresses = BTreeMap<NodeId, String>;

/// A client on a connection, and the future that drives it and ends with the connection.
fn client(connection: Connection) -> (PeerClient, impl Future<Output = String> + Send + 'static) {
    let NewClient { client, dispatch } = PeerClient::new(tarpc::client::Config::default(), transport_of(connection, PEER_CALL_BYTES_MAX));
    let ended = async move { dispatch.await.map_or_else(|error| error.to_string(), |()| "the other side has closed it".to_owned()) };
    (client, ended)
}

/// `members` where there are any; before that what this controller was told at its start, without itself.
fn peers_of(own: NodeId, members: &Addresses, configured: &Addresses) -> Addresses {
    let known = if members.is_empty() { configured } else { members };
    known.iter().filter(|(id, _)| **id != own).map(|(id, address)| (*id, address.clone())).collect()
}
