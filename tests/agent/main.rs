//! The agent with real processes through the real guardian. A small controller inside the tests stands for the leader.

mod leader;
mod load;
mod log;
mod orders;
mod outcomes;
mod output;
mod restart;
mod sessions;
mod support;
