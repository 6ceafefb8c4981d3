//! The command line. Every flag is also an environment variable, `CHRONO_FLOW_` and its name.
//!
//! Which role takes which flag is decided in `settings`, not by clap: values from the environment would make clap's rules hit client
//! commands too.

pub mod client;
mod settings;

use std::path::PathBuf;

use clap::Parser;

/// A job scheduler that keeps its word: cron for many machines.
///
/// Without a role it is all in one process: API, scheduler, worker and an embedded database.
#[derive(Parser, Debug)]
#[command(name = "chrono-flow", version, about, max_term_width = 120, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    pub flags: Flags,

    /// These have parsers of their own (`client::ClientCli`, `MigrateCli`, `HealthcheckCli`); here they are for the help.
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    #[command(flatten)]
    Client(client::ClientCommand),
    #[command(flatten)]
    Migrate(MigrateCommand),
    #[command(flatten)]
    Healthcheck(HealthcheckCommand),
}

/// What needs a database and no server.
#[derive(Parser, Debug)]
#[command(name = "chrono-flow", version, max_term_width = 120)]
pub struct MigrateCli {
    #[command(subcommand)]
    pub command: MigrateCommand,
}

/// What is asked of a server on this machine, which the same flags and environment describe.
#[derive(Parser, Debug)]
#[command(name = "chrono-flow", version, max_term_width = 120)]
pub struct HealthcheckCli {
    #[command(subcommand)]
    pub command: HealthcheckCommand,
}

#[derive(clap::Subcommand, Debug)]
pub enum HealthcheckCommand {
    /// Asks the server that these flags (or this environment) start whether it works. Exit code: 0 it does, 1 it doesn't.
    Healthcheck(Box<Healthcheck>),
}

#[derive(clap::Args, Debug)]
pub struct Healthcheck {
    /// Ask more: whether a controller sees a leader, a database and workers; whether a worker has its session and takes work.
    #[arg(long)]
    pub ready: bool,

    #[command(flatten)]
    pub flags: Flags,
}

#[derive(clap::Subcommand, Debug)]
pub enum MigrateCommand {
    /// Brings the database's schema up to date, as the first controller would.
    Migrate(DatabaseFlags),
}

#[derive(clap::Args, Debug, Default)]
pub struct Flags {
    /// `controller`: one of three or five that decide and serve the API; `worker`: runs commands. None: everything in one process.
    #[arg(long, env = "CHRONO_FLOW_ROLE", value_name = "ROLE")]
    role: Option<String>,

    /// Directory for everything that must survive: ledger, database, the worker's journal. Made if it is missing.
    /// [default: ./chrono-flow-data/standalone, or ./chrono-flow-data/ROLE-NODE_ID]
    #[arg(long, env = "CHRONO_FLOW_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Where the REST API listens. Whoever reaches it can run commands: keep it on loopback, or behind something that checks who calls.
    /// [default: 127.0.0.1:8080]
    #[arg(long, env = "CHRONO_FLOW_HTTP_LISTEN", value_name = "HOST:PORT")]
    http_listen: Option<String>,

    /// A host name by which clients may call the API (repeatable). Other names in the Host header than these and localhost are refused;
    /// without this flag, only where the API listens on loopback.
    #[arg(long = "http-host", env = "CHRONO_FLOW_HTTP_HOST", value_name = "NAME", value_delimiter = ',')]
    http_hosts: Vec<String>,

    /// Controller: its number, from 1. Worker: its name.
    #[arg(long, env = "CHRONO_FLOW_NODE_ID", value_name = "ID", help_heading = "Cluster")]
    node_id: Option<String>,

    /// Controller: all controllers and where they are, this one included: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT
    #[arg(long, env = "CHRONO_FLOW_CLUSTER", value_name = "ID=HOST:PORT,…", help_heading = "Cluster")]
    cluster: Option<String>,

    /// Worker: the controllers: HOST:PORT,HOST:PORT,HOST:PORT
    #[arg(long, env = "CHRONO_FLOW_CONTROLLERS", value_name = "HOST:PORT,…", help_heading = "Cluster")]
    controllers: Option<String>,

    /// Where this node listens for the others. Without a cluster secret only loopback is allowed.
    /// [default: controller 127.0.0.1:12000, worker 127.0.0.1:50051]
    #[arg(long, env = "CHRONO_FLOW_RPC_LISTEN", value_name = "HOST:PORT", help_heading = "Cluster")]
    rpc_listen: Option<String>,

    /// Worker: where controllers reach it. [default: what --rpc-listen says]
    #[arg(long, env = "CHRONO_FLOW_RPC_ADVERTISE", value_name = "HOST:PORT", help_heading = "Cluster")]
    rpc_advertise: Option<String>,

    /// File with the secret that all nodes of the cluster share. (Or give it in CHRONO_FLOW_CLUSTER_SECRET.)
    #[arg(long, env = "CHRONO_FLOW_CLUSTER_SECRET_FILE", value_name = "FILE", help_heading = "Cluster")]
    cluster_secret_file: Option<PathBuf>,

    /// Controller: how long a leader may be silent before the others elect another, in milliseconds; up to twice that, by chance.
    /// [default: 500]
    #[arg(long, env = "CHRONO_FLOW_ELECTION_TIMEOUT_MS", value_name = "MS", help_heading = "Cluster")]
    election_timeout_ms: Option<u64>,

    #[command(flatten)]
    database: DatabaseFlags,

    /// Commands that run at once, at most; further ones wait their turn. [default: 64]
    #[arg(long, env = "CHRONO_FLOW_SLOTS", value_name = "N")]
    slots: Option<u32>,

    /// A label of this worker, as name=value (repeatable).
    #[arg(long = "label", env = "CHRONO_FLOW_LABEL", value_name = "NAME=VALUE", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,

    /// How far ahead of its instant a fire is decided and handed to its worker, in milliseconds. [default: 2000]
    #[arg(long, env = "CHRONO_FLOW_LOOKAHEAD_MS", value_name = "MS")]
    lookahead_ms: Option<i64>,

    /// How far a clock may be off, in milliseconds; a jump of more than half of it suspends deciding for a moment. [default: 500]
    #[arg(long, env = "CHRONO_FLOW_MAX_CLOCK_SKEW_MS", value_name = "MS")]
    max_clock_skew_ms: Option<i64>,

    /// How long running commands may go on after SIGTERM or ctrl-C before they are stopped, in seconds. [default: 10]
    #[arg(long, env = "CHRONO_FLOW_DRAIN_S", value_name = "S")]
    drain_s: Option<u64>,

    /// History is kept for so many days. [default: 30]
    #[arg(long, env = "CHRONO_FLOW_HISTORY_DAYS", value_name = "DAYS")]
    history_days: Option<u32>,

    /// And at most so many runs of it. [default: 10000000]
    #[arg(long, env = "CHRONO_FLOW_HISTORY_RUNS", value_name = "N")]
    history_runs: Option<u64>,

    /// Ended runs that are held while the database can't take them; at this many, launching stops. [default: 1000000]
    #[arg(long, env = "CHRONO_FLOW_MAX_UNRECORDED", value_name = "N")]
    max_unrecorded: Option<u64>,
}

/// How the database is reached.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DatabaseFlags {
    /// Controller: the PostgreSQL database: postgres://USER@HOST:PORT/NAME; several hosts are tried in turn.
    #[arg(long, env = "CHRONO_FLOW_DATABASE_URL", hide_env_values = true, value_name = "URL", help_heading = "Database")]
    database_url: Option<String>,

    /// Controller: file with the database's password. (Or give it in CHRONO_FLOW_DATABASE_PASSWORD.)
    #[arg(long, env = "CHRONO_FLOW_DATABASE_PASSWORD_FILE", value_name = "FILE", help_heading = "Database")]
    database_password_file: Option<PathBuf>,

    /// Controller: file with the certificates (PEM) that the database's certificate must lead to; turns TLS on.
    #[arg(long, env = "CHRONO_FLOW_DATABASE_CA_FILE", value_name = "FILE", help_heading = "Database")]
    database_ca_file: Option<PathBuf>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is written name=value".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
