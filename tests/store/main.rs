//! What any store promises (`suite`), checked on each store that there is, and what SQLite's promises besides (`sqlite`).

mod postgres;
#[allow(dead_code)] // of what is shared, not every target uses every word
#[path = "../support/postgres.rs"]
mod postgres_server;
mod sqlite;
mod suite;
