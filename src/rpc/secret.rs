//! The secret that controllers and workers of one cluster share.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of a secret, at least: a shorter one could be guessed from one overheard handshake.
pub const SECRET_BYTES_MIN: usize = 16;
/// Bytes of a secret, at most.
pub const SECRET_BYTES_MAX: usize = 4 * 1024;

/// Known to every member, and shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret(Vec<u8>);

/// Why a file holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the cluster secret {} can't be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("the cluster secret in {place} has {bytes} bytes; it needs at least {SECRET_BYTES_MIN}, best random ones")]
    TooShort { place: String, bytes: usize },
    #[error("the cluster secret in {place} has more than {SECRET_BYTES_MAX} bytes; is it the right one?")]
    TooLong { place: String },
}

impl ClusterSecret {
    /// The content of a file, without the end of its last line.
    pub fn read(path: &Path) -> Result<ClusterSecret, SecretError> {
        let unreadable = |error| SecretError::Unreadable { path: path.to_owned(), error };
        let mut bytes = Vec::new();
        let room = SECRET_BYTES_MAX as u64 + b"\r\n!".len() as u64;
        File::open(path).and_then(|file| file.take(room).read_to_end(&mut bytes)).map_err(unreadable)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            bytes.pop_if(|byte| *byte == b'\r');
        }
        ClusterSecret::check(bytes, &path.display().to_string())
    }

    /// The secret as the variable `place` of the environment has it.
    pub fn from_text(text: &str, place: &str) -> Result<ClusterSecret, SecretError> {
        ClusterSecret::check(text.as_bytes().to_vec(), place)
    }

    fn check(bytes: Vec<u8>, place: &str) -> Result<ClusterSecret, SecretError> {
        match bytes.len() {
            0..SECRET_BYTES_MIN => Err(SecretError::TooShort { place: place.to_owned(), bytes: bytes.len() }),
            SECRET_BYTES_MIN..=SECRET_BYTES_MAX => Ok(ClusterSecret(bytes)),
            _ => Err(SecretError::TooLong { place: place.to_owned() }),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}
