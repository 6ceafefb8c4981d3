//! Whose directory this is: a small text file beside the log, and the same in the log. The file is written last when a directory is
//! founded, so that a log that has gone missing later is noticed instead of being founded anew.

use uuid::Uuid;

use super::disk::Disk;
use super::error::StorageError;
use crate::model::{ClusterId, NodeId};

pub const IDENTITY_FILE: &str = "identity";
/// The format of the directory as a whole: log, snapshots and this file.
pub const FORMAT_VERSION: u32 = 1;
const FIRST_LINE: &str = "chrono-flow consensus directory, format ";
const DAMAGED: &str = "it is no identity file, or was damaged";

/// Whose directory it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub cluster_id: ClusterId,
    pub node_id: NodeId,
    /// Drawn when the directory is founded: tells a wiped disk from the one that was known under the same node id (PROTOCOL G1).
    pub store: Uuid,
}

impl Identity {
    pub(crate) fn write(&self, disk: &impl Disk) -> Result<(), StorageError> {
        let text = self.to_text();
        disk.write_durably(IDENTITY_FILE, text.as_bytes()).map_err(|e| StorageError::io(&disk.path(IDENTITY_FILE), "write it", e))
    }

    /// The identity in the file; `None` if there is no file.
    pub(crate) fn read(disk: &impl Disk) -> Result<Option<Identity>, StorageError> {
        let path = disk.path(IDENTITY_FILE);
        if disk.len(IDENTITY_FILE).map_err(|e| StorageError::io(&path, "look at it", e))?.is_none() {
            return Ok(None);
        }
        let bytes = disk.read(IDENTITY_FILE).map_err(|e| StorageError::io(&path, "read it", e))?;
        let text = String::from_utf8(bytes).map_err(|_| StorageError::damaged(&path, DAMAGED))?;
        let version = text.strip_prefix(FIRST_LINE).and_then(|rest| rest.lines().next()).and_then(|number| number.parse::<u32>().ok());
        match version {
            None => Err(StorageError::damaged(&path, DAMAGED)),
            Some(found) if found > FORMAT_VERSION => Err(StorageError::Newer { path, found, known: FORMAT_VERSION }),
            Some(_) => Identity::from_text(&text).map(Some).ok_or_else(|| StorageError::damaged(&path, DAMAGED)),
        }
    }

    fn to_text(self) -> String {
        let body = format!("{FIRST_LINE}{FORMAT_VERSION}\ncluster {}\nnode {}\nstore {}\n", self.cluster_id, self.node_id, self.store);
        format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes()))
    }

    fn from_text(text: &str) -> Option<Identity> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let identity = Identity {
            cluster_id: ClusterId(field("cluster")?.parse().ok()?),
            node_id: field("node")?.parse().ok()?,
            store: field("store")?.parse().ok()?,
        };
        // Written back it must be the same text to the letter: that covers the checksum and everything else.
        (identity.to_text() == text).then_some(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_the_identity_stands_still() {
        let identity = Identity { cluster_id: ClusterId(Uuid::from_u128(1)), node_id: 2, store: Uuid::from_u128(3) };
        let golden = "chrono-flow consensus directory, format 1\ncluster 00000000-0000-0000-0000-000000000001\nnode 2\n\
                      store 00000000-0000-0000-0000-000000000003\ncrc32 a33df6fa\n";
        assert_eq!(identity.to_text(), golden);
        assert_eq!(Identity::from_text(golden), Some(identity));
    }
}
