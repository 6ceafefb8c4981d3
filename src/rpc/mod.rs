//! What controllers and workers say to each other: the tarpc services, their words, how frames are coded, and the TCP connections that they
//! travel on. The words and the handshake are formats that two versions of the program must agree on.

pub mod codec;
mod complaints;
pub mod dial;
pub mod handshake;
pub mod link;
pub mod listen;
pub mod peer;
pub mod secret;
mod socket;
mod strangers;
pub mod wire;

pub use peer::{Peer, PeerClient};
pub use wire::{Controller, ControllerClient, Worker, WorkerClient};
