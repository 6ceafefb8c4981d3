//! Consensus over real connections on loopback.
