//! TCP between controllers and workers: who is let in, and consensus over real connections.

mod carried;
mod founding;
mod group;
mod handshake;
mod hostile;
mod listener;
#[path = "../consensus/machine.rs"]
mod machine;
mod peers;
mod process;
mod proxy;
mod support;
