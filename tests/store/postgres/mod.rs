//! The suite on PostgreSQL, and what only a server can promise: that it may be away (`away`), whom it is shared with (`shared`), and how
//! it is reached (`reach`).

mod away;
mod history;
mod reach;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use chrono_flow::store::postgres::{PostgresConfig, PostgresStore};

use crate::postgres_server::Postgres;
use crate::suite::Harness;

pub struct OnPostgres {
    url: String,
    /// Goes with the harness, if it was made for it.
    server: Option<Postgres>,
}

impl Harness for OnPostgres {
    type Store = PostgresStore;

    fn fresh() -> OnPostgres {
        let server = Postgres::start();
        OnPostgres { url: server.url(), server: Some(server) }
    }

    fn at(location: &str) -> OnPostgres {
        OnPostgres { url: location.into(), server: None }
    }

    fn location(&self) -> String {
        self.url.clone()
    }

    async fn open(&self) -> Arc<PostgresStore> {
        Arc::new(PostgresStore::open(&self.config()).unwrap())
    }

    async fn close(&self, store: Arc<PostgresStore>) {
        store.close();
    }
}

impl OnPostgres {
    fn config(&self) -> PostgresConfig {
        PostgresConfig::new(&self.url)
    }

    fn server(&mut self) -> &mut Postgres {
        self.server.as_mut().unwrap()
    }

    /// A connection to the database behind the store, to be tampered with.
    async fn raw(&self) -> tokio_postgres::Client {
        self.server.as_ref().unwrap().client(&self.url).await
    }
}

/// Tries until it is so; panics if that takes too long.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    for _ in 0..1_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

mod promises {
    use super::OnPostgres;
    crate::suite::promises!(OnPostgres);
}
