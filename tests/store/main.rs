//! What any store promises (`suite`), checked on each store that there is, and what SQLite's promises besides (`sqlite`).

mod postgres;
#[path = "../support/postgres.rs"]
mod postgres_server;
mod sqlite;
mod suite;
