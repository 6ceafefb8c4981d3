//! What a known peer sends: calls to the services of controllers and workers, and answers to calls. The whole way of the bytes: frames,
//! tarpc, words; and of a controller's peers also what is done with them.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono_flow::consensus::{Member, MemberRole, Status};
use chrono_flow::model::{ClusterId, NodeId, UnixMs};
use chrono_flow::peers::{Node, PeerRequests, PeerServer};
use chrono_flow::rpc::codec::{serving, transport};
use chrono_flow::rpc::peer::{MembersWish, PeerResponse, Proposed, Pulse};
use chrono_flow::rpc::wire::{ControllerRequest, ControllerResponse, FRAME_BYTES_MAX, Refusal, WorkerRequest, WorkerResponse};
use futures::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::server::{BaseChannel, Channel};
use tarpc::{ClientMessage, Response};
use tokio::sync::watch;
use uuid::Uuid;

use super::script::{Script, block_on};
use super::split;

pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC1));

/// A byte that chooses who reads, and a stream of frames; or, with its highest bit set, one frame without its length.
pub fn run(bytes: &[u8]) {
    let (kind, rest) = split(bytes);
    let stream = if kind & 0x80 == 0 { rest.to_vec() } else { framed(rest) };
    block_on(async {
        match kind % 6 {
            0 => peer(stream).await,
            1 => called::<ControllerRequest>(stream).await,
            2 => called::<WorkerRequest>(stream).await,
            3 => answered::<PeerResponse>(stream).await,
            4 => answered::<ControllerResponse>(stream).await,
            _ => answered::<WorkerResponse>(stream).await,
        }
    });
}

pub fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

/// The service of a controller for its peers, as it is.
async fn peer(stream: Vec<u8>) {
    let (server, notes) = (PeerServer::default(), Arc::new(Notes::default()));
    server.open(notes.clone(), notes.clone());
    server.serve(Script::new(stream)).await;
}

/// The calls that a channel takes for what they are.
async fn called<Req>(stream: Vec<u8>)
where
    Req: for<'de> serde::Deserialize<'de> + Unpin + 'static,
{
    let channel: BaseChannel<Req, (), _> = BaseChannel::with_defaults(serving(Script::new(stream), FRAME_BYTES_MAX));
    let mut calls = std::pin::pin!(channel.requests());
    while let Some(Ok(call)) = calls.next().await {
        drop(call);
    }
}

/// The answers that a client reads.
async fn answered<Resp>(stream: Vec<u8>)
where
    Resp: for<'de> serde::Deserialize<'de> + 'static,
{
    let answers = transport::<_, Response<Resp>, ClientMessage<()>>(Script::new(stream));
    let mut answers = std::pin::pin!(answers);
    while let Some(Ok(answer)) = answers.next().await {
        drop(answer);
    }
}

/// A node and an engine that only take notes.
#[derive(Default)]
struct Notes(Mutex<Vec<Vec<u8>>>);

impl Node for Notes {
    fn cluster(&self) -> ClusterId {
        CLUSTER
    }
    fn status(&self) -> watch::Receiver<Status> {
        let member =
            Member { id: 1, address: "a:1".into(), role: MemberRole::Voter, store: Some(Uuid::nil()), reachable: true, applied: 1 };
        watch::Sender::new(Status { members: vec![member], ..Status::default() }).subscribe()
    }
    fn receive(&self, frame: Vec<u8>) -> bool {
        let mut frames = self.0.lock().expect("nothing panics under this lock");
        frames.push(frame);
        frames.len() < 100
    }
    fn report_unreachable(&self, _: NodeId) {}
    fn report_snapshot(&self, _: NodeId, _: bool) {}
}

#[async_trait]
impl PeerRequests for Notes {
    async fn propose(&self, commands: Vec<u8>) -> Result<Proposed, Refusal> {
        match chrono_flow::ledger::decode_entry(&commands) {
            Ok(_) => Ok(Proposed { index: 1, term: 1, replies: ByteBuf::new() }),
            Err(error) => Err(Refusal::Failed(error.to_string())),
        }
    }
    async fn change_members(&self, _: MembersWish) -> Result<(), Refusal> {
        Err(Refusal::NotLeader { leader: None, address: None })
    }
    fn pulse(&self) -> Pulse {
        Pulse { now: UnixMs(0), applied: 0 }
    }
}
