//! What members send each other: a raft message under the name of the cluster and of the sender's directory (PROTOCOL G1).
//!
//! ```text
//! version u8 · kind u8 · cluster id 16 · store id 16 · payload
//! kind 1: a raft message (protobuf) · kind 2: from u64, to u64 (little endian): "I know you under another store"
//! ```

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::Message;
use uuid::Uuid;

use crate::consensus::storage::Identity;
use crate::model::{ClusterId, NodeId};

const VERSION: u8 = 1;
const KIND_RAFT: u8 = 1;
const KIND_REFUSED: u8 = 2;
const HEADER_BYTES: usize = 2 + 16 + 16;

pub struct Frame {
    pub cluster: ClusterId,
    pub store: Uuid,
    pub body: Body,
}

pub enum Body {
    Raft(Box<Message>),
    Refused { from: NodeId, to: NodeId },
}

pub fn encode_raft(identity: &Identity, message: &Message) -> Vec<u8> {
    let mut bytes = header(identity, KIND_RAFT, message.compute_size() as usize);
    message.write_to_vec(&mut bytes).expect("protobuf writes any message into memory");
    bytes
}

pub fn encode_refused(identity: &Identity, to: NodeId) -> Vec<u8> {
    let mut bytes = header(identity, KIND_REFUSED, 16);
    bytes.extend_from_slice(&identity.node_id.to_le_bytes());
    bytes.extend_from_slice(&to.to_le_bytes());
    bytes
}

fn header(identity: &Identity, kind: u8, payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload_bytes);
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes.extend_from_slice(identity.cluster_id.0.as_bytes());
    bytes.extend_from_slice(identity.store.as_bytes());
    bytes
}

/// `None` for what is no frame of this version.
pub fn decode(bytes: Vec<u8>) -> Option<Frame> {
    let bytes = Bytes::from(bytes);
    let header = bytes.get(..HEADER_BYTES)?;
    if header[0] != VERSION {
        return None;
    }
    let cluster = ClusterId(Uuid::from_slice(&header[2..18]).ok()?);
    let store = Uuid::from_slice(&header[18..34]).ok()?;
    let payload = bytes.slice(HEADER_BYTES..);
    let body = match header[1] {
        KIND_RAFT => Body::Raft(Box::new(Message::parse_from_carllerche_bytes(&payload).ok()?)),
        KIND_REFUSED => {
            let (from, to) = payload.split_at_checked(8)?;
            Body::Refused { from: u64::from_le_bytes(from.try_into().ok()?), to: u64::from_le_bytes(to.try_into().ok()?) }
        }
        _ => return None,
    };
    Some(Frame { cluster, store, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { cluster_id: ClusterId(Uuid::from_u128(1)), node_id: 2, store: Uuid::from_u128(3) };

    #[test]
    fn the_format_of_the_frames_stands_still() {
        let header = |kind| [[1, kind].as_slice(), Uuid::from_u128(1).as_bytes(), Uuid::from_u128(3).as_bytes()].concat();
        let refused = [header(2).as_slice(), &[2, 0, 0, 0, 0, 0, 0, 0], &[9, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(encode_refused(&IDENTITY, 9), refused);
        assert!(matches!(decode(refused), Some(Frame { body: Body::Refused { from: 2, to: 9 }, .. })));
        let message = Message { to: 9, from: 2, term: 4, ..Message::default() };
        let raft = [header(1).as_slice(), &[0x10, 9, 0x18, 2, 0x20, 4]].concat();
        assert_eq!(encode_raft(&IDENTITY, &message), raft);
        assert!(matches!(decode(raft), Some(Frame { body: Body::Raft(decoded), .. }) if *decoded == message));
    }

    #[test]
    fn what_is_no_frame_is_dropped_without_a_panic() {
        let whole = encode_refused(&IDENTITY, 9);
        for length in 0..whole.len() {
            assert!(decode(whole[..length].to_vec()).is_none(), "{length}");
        }
        for at in [0, 1] {
            let mut other = whole.clone();
            other[at] = 77;
            assert!(decode(other).is_none());
        }
        let mut rubbish = encode_raft(&IDENTITY, &Message::default());
        rubbish.extend_from_slice(&[0xFF; 20]);
        assert!(decode(rubbish).is_none());
    }
}
