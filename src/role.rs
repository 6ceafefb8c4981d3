//! What the roles have in common: the lock on the data directory, signals, and limits of starting and stopping.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{CLUSTER_SECRET_VARIABLE, SecretConfig};
use crate::rpc::secret::ClusterSecret;

/// How long the parts of a process may take to end once they were asked to.
pub const STOP_WAIT: Duration = Duration::from_secs(10);

/// Runs a role to its end.
pub fn block_on<T>(role: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let result = runtime.block_on(role);
    runtime.shutdown_timeout(STOP_WAIT);
    result
}

/// Makes the directory if it is missing, and takes it for this process.
pub fn take_data_dir(data_dir: &Path) -> Result<File> {
    std::fs::create_dir_all(data_dir).with_context(|| format!("can't make the data directory {}", data_dir.display()))?;
    let path = data_dir.join("LOCK");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("can't open {}: the data directory must be writable", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another chrono-flow works in {}; give this one a --data-dir of its own, or stop the other", data_dir.display())
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("can't lock {}", path.display())),
    }
}

/// The secret of the cluster, if there is one.
pub fn cluster_secret(config: &SecretConfig) -> Result<Option<Arc<ClusterSecret>>> {
    let secret = match config {
        SecretConfig::None => return Ok(None),
        SecretConfig::File(path) => ClusterSecret::read(path)?,
        SecretConfig::Text(text) => ClusterSecret::from_text(text, CLUSTER_SECRET_VARIABLE)?,
    };
    Ok(Some(Arc::new(secret)))
}

/// SIGTERM and SIGINT (ctrl-C).
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn listen() -> Result<Signals> {
        let listen = |kind| signal(kind).context("can't listen for signals");
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What reading the log took at start-up is free again, but the C library keeps it for itself; with many jobs that is as much as a quarter.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number, touches nothing but free memory of the allocator, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
