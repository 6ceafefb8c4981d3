//! The guardian as a real process, driven through the agent's client of it. Every test has a guardian and a directory of its own.

mod ends;
mod fence;
mod launch;
mod load;
mod starts;
mod support;
