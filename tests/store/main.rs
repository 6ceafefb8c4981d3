//! What any store promises (`suite`), checked on each store that there is, and what SQLite's promises besides (`sqlite`).

mod sqlite;
mod suite;
