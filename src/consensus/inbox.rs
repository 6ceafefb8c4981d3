//! The bounded way in to the node's thread. Requests and messages have limits of their own, so that a flood of proposals can't push out the
//! heartbeats that keep the leader in office.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::sync::oneshot;

use super::config::Limits;
use super::members::MemberChange;
use super::node::{Applied, Input, ProposeError, ReadAt, ReadError, RequestError};
use crate::model::NodeId;

pub(super) type ProposeReply<O> = oneshot::Sender<Result<Applied<O>, ProposeError>>;
pub(super) type ReadReply = oneshot::Sender<Result<ReadAt, ReadError>>;
pub(super) type RequestReply = oneshot::Sender<Result<(), RequestError>>;

/// What comes in.
pub(super) enum Mail<O> {
    Propose(Vec<u8>, ProposeReply<O>),
    Read {
        as_leader: bool,
        reply: ReadReply,
    },
    Change(Vec<MemberChange>, RequestReply),
    Transfer(Option<NodeId>, RequestReply),
    /// A message of a peer, or news about one.
    Peer(Input),
    /// Outside of the limits: there is one at most of each.
    Own(Input),
    Stop,
}

impl<O> Mail<O> {
    fn class(&self) -> Class {
        match self {
            Mail::Propose(..) | Mail::Read { .. } | Mail::Change(..) | Mail::Transfer(..) => Class::Request,
            Mail::Peer(_) => Class::Message,
            Mail::Own(_) | Mail::Stop => Class::Free,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Mail::Propose(command, _) => command.len(),
            Mail::Peer(Input::Frame(frame)) => frame.len(),
            _ => 0,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Request,
    Message,
    Free,
}

#[derive(Default)]
struct Load {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

#[derive(Default)]
struct Loads {
    requests: Load,
    messages: Load,
}

impl Loads {
    fn of(&self, class: Class) -> Option<&Load> {
        match class {
            Class::Request => Some(&self.requests),
            Class::Message => Some(&self.messages),
            Class::Free => None,
        }
    }
}

/// Why something was not taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Full,
    Stopped,
}

pub(super) struct Sender<O> {
    sender: mpsc::Sender<Mail<O>>,
    loads: Arc<Loads>,
    requests_max: usize,
    messages_max: usize,
    bytes_max: usize,
}

impl<O> Clone for Sender<O> {
    fn clone(&self) -> Sender<O> {
        Sender { sender: self.sender.clone(), loads: Arc::clone(&self.loads), ..*self }
    }
}

pub(super) struct Receiver<O> {
    pub receiver: mpsc::Receiver<Mail<O>>,
    loads: Arc<Loads>,
}

/// An empty inbox.
pub(super) fn inbox<O>(limits: &Limits) -> (Sender<O>, Receiver<O>) {
    let (sender, receiver) = mpsc::channel();
    let loads = Arc::new(Loads::default());
    let sender = Sender {
        sender,
        loads: Arc::clone(&loads),
        requests_max: limits.inbox_proposals_max,
        messages_max: limits.inbox_messages_max,
        bytes_max: limits.inbox_bytes_max,
    };
    (sender, Receiver { receiver, loads })
}

impl<O> Sender<O> {
    /// Puts something in, if there is room.
    pub fn post(&self, mail: Mail<O>) -> Result<(), Refused> {
        let (class, bytes) = (mail.class(), mail.bytes());
        let count_max = if class == Class::Request { self.requests_max } else { self.messages_max };
        if let Some(load) = self.loads.of(class) {
            let count = load.count.fetch_add(1, Ordering::Relaxed);
            let waiting = load.bytes.fetch_add(bytes, Ordering::Relaxed);
            // A single piece larger than the limit still comes in alone.
            if count >= count_max || (waiting > 0 && waiting.saturating_add(bytes) > self.bytes_max) {
                release(load, bytes);
                return Err(Refused::Full);
            }
        }
        self.sender.send(mail).map_err(|_| Refused::Stopped)
    }
}

impl<O> Receiver<O> {
    /// To be called for each piece of mail that was taken out.
    pub fn taken(&self, mail: &Mail<O>) {
        if let Some(load) = self.loads.of(mail.class()) {
            release(load, mail.bytes());
        }
    }
}

fn release(load: &Load, bytes: usize) {
    load.count.fetch_sub(1, Ordering::Relaxed);
    load.bytes.fetch_sub(bytes, Ordering::Relaxed);
}
