//! How commands are written into a log entry: a version, then the commands.

use super::command::Command;

/// First byte of every entry. A member refuses to start on a log that holds a version it can't read.
const ENTRY_VERSION: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("the entry is empty")]
    Empty,
    #[error("the entry has version {0}; this program reads version {ENTRY_VERSION}: it was written by another one")]
    Version(u8),
    #[error("the entry can't be read: {0}")]
    Malformed(String),
}

pub fn encode_entry(commands: &[Command]) -> Vec<u8> {
    // postcard fails only on types that have no length or on a full buffer; commands are plain data and a Vec grows.
    postcard::to_extend(commands, vec![ENTRY_VERSION]).expect("commands are plain data")
}

pub fn decode_entry(bytes: &[u8]) -> Result<Vec<Command>, EntryError> {
    match bytes.split_first() {
        None => Err(EntryError::Empty),
        Some((&ENTRY_VERSION, body)) => postcard::from_bytes(body).map_err(|error| EntryError::Malformed(error.to_string())),
        Some((version, _)) => Err(EntryError::Version(*version)),
    }
}
