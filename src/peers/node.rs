//! What this part needs of the consensus node, whatever its state machine.

use crate::consensus::{Handle, Status};
use crate::model::{ClusterId, NodeId};
use tokio::sync::watch;

pub trait Node: Send + Sync + 'static {
    fn cluster(&self) -> ClusterId;
    fn status(&self) -> watch::Receiver<Status>;
    /// Takes in a peer's frame; false if there is no room.
    fn receive(&self, frame: Vec<u8>) -> bool;
    fn report_unreachable(&self, peer: NodeId);
    fn report_snapshot(&self, peer: NodeId, arrived: bool);
}

impl<O: Send + 'static> Node for Handle<O> {
    fn cluster(&self) -> ClusterId {
        self.identity().cluster_id
    }
    fn status(&self) -> watch::Receiver<Status> {
        Handle::status(self)
    }
    fn receive(&self, frame: Vec<u8>) -> bool {
        Handle::receive(self, frame)
    }
    fn report_unreachable(&self, peer: NodeId) {
        Handle::report_unreachable(self, peer);
    }
    fn report_snapshot(&self, peer: NodeId, arrived: bool) {
        Handle::report_snapshot(self, peer, arrived);
    }
}
