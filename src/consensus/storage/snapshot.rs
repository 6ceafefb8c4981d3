//! Snapshots: their bytes, which are the same in a file and on the wire, and their files.
//!
//! ```text
//! magic 8 · version u32 · cluster id 16 · index u64 · term u64 · header length u32 · body length u64     (little endian)
//! header: the membership (postcard) · body: the state machine's own bytes · CRC-32 of all before
//! ```

use std::path::Path;

use bytes::Bytes;
use raft::eraftpb;
use uuid::Uuid;

use super::disk::Disk;
use super::error::StorageError;
use crate::consensus::members::Membership;
use crate::model::ClusterId;

const MAGIC: &[u8; 8] = b"CHRFSNAP";
const VERSION: u32 = 1;
const FIXED_BYTES: usize = 8 + 4 + 16 + 8 + 8 + 4 + 8;
const CRC_BYTES: usize = 4;

/// The entry that a snapshot stands behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    pub index: u64,
    pub term: u64,
}

impl Mark {
    pub fn file_name(self) -> String {
        format!("snapshot-{:020}-{:020}", self.term, self.index)
    }

    pub fn is_file_name(name: &str) -> bool {
        name.starts_with("snapshot-")
    }
}

/// A checked snapshot.
#[derive(Clone, Debug)]
pub struct Image {
    pub mark: Mark,
    pub membership: Membership,
    bytes: Bytes,
    body_at: usize,
}

/// Why bytes are no snapshot that can be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("{0}")]
    Damaged(String),
    #[error("it belongs to cluster {0}")]
    OtherCluster(ClusterId),
    #[error("it has format {0}")]
    Newer(u32),
}

impl Image {
    /// Puts a snapshot together.
    pub fn encode(cluster: ClusterId, mark: Mark, membership: &Membership, body: &[u8]) -> Vec<u8> {
        let header = postcard::to_stdvec(membership).expect("a membership is maps and integers, which postcard always writes");
        let mut bytes = Vec::with_capacity(FIXED_BYTES + header.len() + body.len() + CRC_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(cluster.0.as_bytes());
        bytes.extend_from_slice(&mark.index.to_le_bytes());
        bytes.extend_from_slice(&mark.term.to_le_bytes());
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(body);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Checks and takes apart.
    pub fn decode(cluster: ClusterId, bytes: Bytes) -> Result<Image, ImageError> {
        let damaged = |what: &str| ImageError::Damaged(what.to_owned());
        if bytes.get(..8) != Some(MAGIC.as_slice()) {
            return Err(damaged("it is no snapshot (wrong magic)"));
        }
        if bytes.len() < FIXED_BYTES + CRC_BYTES {
            return Err(damaged("it was cut short"));
        }
        let version = u32_at(&bytes, 8);
        if version > VERSION {
            return Err(ImageError::Newer(version));
        }
        let header_bytes = u32_at(&bytes, 44) as u64;
        let expected = (FIXED_BYTES + CRC_BYTES) as u64 + header_bytes;
        if expected.checked_add(u64_at(&bytes, 48)) != Some(bytes.len() as u64) {
            return Err(damaged("it was cut short, or its lengths are damaged"));
        }
        let crc_at = bytes.len() - CRC_BYTES;
        if crc32fast::hash(&bytes[..crc_at]) != u32_at(&bytes, crc_at) {
            return Err(damaged("its checksum is wrong"));
        }
        let found = ClusterId(Uuid::from_slice(&bytes[12..28]).map_err(|_| damaged("it has no cluster id"))?);
        if found != cluster {
            return Err(ImageError::OtherCluster(found));
        }
        let body_at = FIXED_BYTES + header_bytes as usize;
        let membership = postcard::from_bytes(&bytes[FIXED_BYTES..body_at]).map_err(|_| damaged("its membership can't be read"))?;
        Ok(Image { mark: Mark { index: u64_at(&bytes, 28), term: u64_at(&bytes, 36) }, membership, bytes, body_at })
    }

    /// The state machine's part.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body_at..self.bytes.len() - CRC_BYTES]
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same as raft passes it around.
    pub fn to_raft(&self) -> eraftpb::Snapshot {
        let mut snapshot = eraftpb::Snapshot { data: self.bytes.clone(), ..eraftpb::Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.mark.index;
        metadata.term = self.mark.term;
        metadata.set_conf_state(self.membership.conf_state());
        snapshot
    }

    /// Reads and checks a snapshot's file.
    pub fn load(disk: &impl Disk, cluster: ClusterId, mark: Mark) -> Result<Image, StorageError> {
        let name = mark.file_name();
        let path = disk.path(&name);
        if disk.len(&name).map_err(|e| StorageError::io(&path, "look at it", e))?.is_none() {
            return Err(StorageError::damaged(&path, "the log needs this snapshot, and it is missing"));
        }
        let bytes = disk.read(&name).map_err(|e| StorageError::io(&path, "read it", e))?;
        let image = Image::decode(cluster, bytes.into()).map_err(|error| image_error(&path, error))?;
        if image.mark != mark {
            return Err(StorageError::damaged(&path, format!("it holds the snapshot of entry {}", image.mark.index)));
        }
        Ok(image)
    }

    /// Writes the file; durable once this returns `Ok`.
    pub fn store(disk: &impl Disk, mark: Mark, bytes: &[u8]) -> Result<(), StorageError> {
        let name = mark.file_name();
        disk.write_durably(&name, bytes).map_err(|e| StorageError::io(&disk.path(&name), "write it", e))
    }
}

fn image_error(path: &Path, error: ImageError) -> StorageError {
    match error {
        ImageError::Damaged(problem) => StorageError::damaged(path, problem),
        ImageError::OtherCluster(found) => StorageError::foreign(path, format!("it belongs to cluster {found}")),
        ImageError::Newer(found) => StorageError::Newer { path: path.to_owned(), found, known: VERSION },
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_format_of_a_snapshot_stands_still() {
        let membership = Membership::founding(&BTreeMap::from([(1, "a:1".to_owned())]));
        let mark = Mark { index: 258, term: 3 };
        let bytes = Image::encode(ClusterId(Uuid::from_u128(1)), mark, &membership, b"body");
        let golden = [
            b"CHRFSNAP".as_slice(),
            &[1, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[2, 1, 0, 0, 0, 0, 0, 0],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[13, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            // voters [1] · no learners · none outgoing · none to become learners · no auto leave · one record: 1, "a:1", store unknown
            &[1, 1, 0, 0, 0, 0, 1, 1, 3, b'a', b':', b'1', 0],
            b"body",
            &[0x0A, 0xFA, 0x3F, 0x5D],
        ]
        .concat();
        assert_eq!(bytes, golden);
        let image = Image::decode(ClusterId(Uuid::from_u128(1)), golden.into()).unwrap();
        assert_eq!((image.mark, image.body(), &image.membership), (mark, b"body".as_slice(), &membership));
        assert_eq!(mark.file_name(), "snapshot-00000000000000000003-00000000000000000258");
    }
}
