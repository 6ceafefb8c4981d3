//! What controllers and workers say to each other: the tarpc services, their words, and how frames are coded. Everything here is a
//! format that two versions of the program must agree on.

pub mod codec;
pub mod link;
pub mod peer;
pub mod wire;

pub use peer::{Peer, PeerClient};
pub use wire::{Controller, ControllerClient, Worker, WorkerClient};
