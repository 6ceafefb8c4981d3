//! The schema: numbered migrations, applied by whoever comes first while the others wait, and refused where a newer version was before.

use refinery::{Migration, Runner};
use tokio_postgres::Client;

use super::connect::Connector;
use super::error::Outcome;
use crate::store::{Result, StoreError};

/// In the order of their versions. A migration that was released is never changed.
const MIGRATIONS: [(&str, &str); 1] = [("V1__jobs_and_history", include_str!("../../../sql/postgres/migrations/V1__jobs_and_history.sql"))];
/// A name of our own, so that another program with refinery may live in the same database.
const MIGRATIONS_TABLE: &str = "chrono_flow_schema";
/// The advisory lock that a migration holds: "CrFl" and 1.
const MIGRATION_LOCK: i64 = 0x4372_466C_0000_0001;
/// The oldest server that is supported, as `server_version_num` has it.
const SERVER_VERSION_MIN: i32 = 140_000;

/// What `prepare` found and did.
pub(super) struct Prepared {
    /// The schema's version before.
    pub(super) before: i32,
    pub(super) after: i32,
}

/// Brings the database's schema up to date, on a connection of its own.
///
/// # Errors
/// `Refused`: the server is too old, or the schema newer than this program.
pub(super) async fn prepare(connector: &Connector) -> Outcome<Prepared> {
    let mut client = connector.alone().await?;
    let place = &connector.0.place;
    check_server(&client, place).await?;
    let known = migrations()?;
    let newest = known.last().map_or(0, Migration::version);
    let before = applied_version(&client, &known, place).await?;
    if before == newest {
        return Ok(Prepared { before, after: newest });
    }
    // The connection's end lets go of the lock. A migration may take long; waiting for another's may not.
    client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    client.batch_execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0").await?;
    let before = applied_version(&client, &known, place).await?; // another may have been first
    if before < newest {
        // All in one transaction, so that a crash leaves the old schema or the new one.
        Runner::new(&known).set_grouped(true).set_migration_table_name(MIGRATIONS_TABLE).run_async(&mut client).await?;
        log::info!("the schema of {place} was brought from version {before} to {newest}");
    }
    Ok(Prepared { before, after: newest })
}

async fn check_server(client: &Client, place: &str) -> Outcome<()> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding')",
            &[],
        )
        .await?;
    let (number, version, encoding): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
    if number < SERVER_VERSION_MIN {
        let needed = SERVER_VERSION_MIN / 10_000;
        return Err(StoreError::Refused(format!("{place} is PostgreSQL {version}; chrono-flow needs version {needed} or newer")).into());
    }
    if encoding != "UTF8" {
        let what = format!("{place} has the encoding {encoding}; chrono-flow needs a database with ENCODING 'UTF8'");
        return Err(StoreError::Refused(what).into());
    }
    Ok(())
}

/// The version of the schema that is there, 0 for none; refused, if it is not one of ours.
async fn applied_version(client: &Client, known: &[Migration], place: &str) -> Outcome<i32> {
    let table = client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&MIGRATIONS_TABLE]).await?;
    if !table.get::<_, bool>(0) {
        return Ok(0);
    }
    let rows = client.query(&format!("SELECT version::bigint, checksum FROM {MIGRATIONS_TABLE} ORDER BY version"), &[]).await?;
    let applied: Vec<(i64, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let newest = known.last().map_or(0, Migration::version);
    for (version, checksum) in &applied {
        let refusal = match known.iter().find(|migration| i64::from(migration.version()) == *version) {
            None => format!(
                "{place} was written by a newer version of chrono-flow (schema {}; this one knows {newest}); run that version",
                applied.last().map_or(0, |(version, _)| *version)
            ),
            Some(migration) if migration.checksum().to_string() != *checksum => {
                format!("{place} has another schema {version} than this version of chrono-flow; run the version that wrote it")
            }
            Some(_) => continue,
        };
        return Err(StoreError::Refused(refusal).into());
    }
    Ok(applied.last().map_or(0, |(version, _)| i32::try_from(*version).unwrap_or(i32::MAX)))
}

fn migrations() -> Result<Vec<Migration>> {
    let read = MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, sql)).collect();
    let read: std::result::Result<Vec<Migration>, refinery::Error> = read;
    read.map_err(|error| StoreError::Internal(format!("a migration in the program is unusable: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_in_the_folder_is_known_to_the_program() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/postgres/migrations");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.sort_by_key(|name| Migration::unapplied(name.trim_end_matches(".sql"), "").unwrap().version());
        assert_eq!(files, MIGRATIONS.map(|(name, _)| format!("{name}.sql")));
    }
}
