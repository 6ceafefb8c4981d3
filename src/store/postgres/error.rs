//! What PostgreSQL's errors mean to callers of a store. Only the server's message and code are repeated: a detail may quote a whole row,
//! with the secrets of a job in it.

use std::error::Error;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// Why something was not done, while it may still be mended.
#[derive(Debug)]
pub(super) enum Fault {
    Store(StoreError),
    /// Two transactions were in each other's way; the same may succeed at once.
    Again(String),
    /// It is of the row that was to be written: it would fail again, however often it is tried, and others would not.
    Row(String),
    /// A day of history has no partition yet.
    NoPartition,
}

pub(super) type Outcome<T> = std::result::Result<T, Fault>;

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Fault::Store(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> StoreError {
        match fault {
            Fault::Store(error) => error,
            Fault::Again(why) => StoreError::Unavailable(why),
            Fault::Row(why) => StoreError::Internal(why),
            Fault::NoPartition => StoreError::Unavailable("a day of history was removed while it was written".into()),
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Fault {
        Fault::from(&error)
    }
}

impl From<&tokio_postgres::Error> for Fault {
    fn from(error: &tokio_postgres::Error) -> Fault {
        let text = describe(error);
        let Some(code) = error.code() else {
            // A conversion of a parameter or a column is the program's fault; all else without a code is of the connection.
            let is_ours = error.source().is_some_and(|source| source.is::<tokio_postgres::types::WrongType>());
            return Fault::Store(if is_ours { StoreError::Internal(text) } else { StoreError::Unavailable(text) });
        };
        if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED {
            return Fault::Again(text);
        }
        match &code.code()[..2] {
            // Connections, credentials, a missing database, resources, an operator, the system; a server that only reads; rights; locks.
            "08" | "28" | "3D" | "53" | "57" | "58" => Fault::Store(StoreError::Unavailable(text)),
            _ if ["25006", "42501", "55P03", "25P03"].contains(&code.code()) => Fault::Store(StoreError::Unavailable(text)),
            // Data, constraints, limits, and what a trigger raises.
            "22" | "23" | "54" | "P0" => Fault::Row(text),
            _ => Fault::Store(StoreError::Internal(text)),
        }
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Fault {
        match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(_) => Fault::Store(StoreError::Unavailable("no connection to PostgreSQL within the time allowed".into())),
            other => Fault::Store(StoreError::Unavailable(other.to_string())),
        }
    }
}

impl From<refinery::Error> for Fault {
    fn from(error: refinery::Error) -> Fault {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(link) = cause {
            if let Some(error) = link.downcast_ref::<tokio_postgres::Error>() {
                return match Fault::from(error) {
                    Fault::Row(why) => Fault::Store(StoreError::Internal(format!("the schema was not brought up to date: {why}"))),
                    other => other,
                };
            }
            cause = link.source();
        }
        Fault::Store(StoreError::Internal(format!("the schema was not brought up to date: {error}")))
    }
}

/// What the server said, or what became of the connection.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("PostgreSQL says: {} ({})", said.message(), said.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(link) = cause {
        let said = link.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = link.source();
    }
    text
}
