//! What the tests of this program share.

use std::sync::Arc;
use std::time::Duration;

use chrono_flow::model::ClusterId;
use chrono_flow::rpc::handshake::{Hello, Name, Service};
use chrono_flow::rpc::secret::ClusterSecret;
use uuid::Uuid;

pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC1));
pub const OTHER_CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC2));
/// Everything waited for comes well before; only a broken promise takes so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn secret(text: &str) -> Arc<ClusterSecret> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Arc::new(ClusterSecret::read(file.path()).unwrap())
}

pub fn hello(cluster: Option<ClusterId>) -> Hello {
    Hello { cluster, from: Name::Controller(7), service: Service::Peer }
}

/// Looks every 10 ms; fails if it doesn't come true.
pub async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_true().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}
