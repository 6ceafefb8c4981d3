//! A state machine that remembers everything it was given.

use chrono_flow::consensus::{StateMachine, Status};

/// What was applied: (index, term, command).
pub type History = Vec<(u64, u64, Vec<u8>)>;

#[derive(Default)]
pub struct Recorder {
    pub history: History,
}

impl StateMachine for Recorder {
    /// How many commands there were before this one.
    type Outcome = usize;

    fn apply(&mut self, index: u64, term: u64, command: &[u8]) -> usize {
        if let Some((last, _, _)) = self.history.last() {
            assert!(*last < index, "entry {index} came after {last}: applied twice or out of order");
        }
        self.history.push((index, term, command.to_vec()));
        self.history.len() - 1
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let history = self.history.clone();
        Box::new(move || postcard::to_stdvec(&history).unwrap())
    }

    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), String> {
        self.history = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
        assert!(self.history.last().is_none_or(|(last, _, _)| *last <= index));
        Ok(())
    }

    fn publish(&mut self, _: &Status) {}
}
