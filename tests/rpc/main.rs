//! TCP between controllers and workers: who is let in, and consensus over real connections.

mod handshake;
mod listener;
mod peers;
mod support;
