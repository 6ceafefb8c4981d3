//! The command line. Every flag is also an environment variable, `CHRONO_FLOW_` and its name.

pub mod client;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Parser;

use crate::config::Config;
use crate::model::limits;

/// A job scheduler that keeps its word: cron for many machines.
///
/// Without a role it is all in one process: API, scheduler, worker and an embedded database.
#[derive(Parser, Debug)]
#[command(name = "chrono-flow", version, about, max_term_width = 120, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Client commands have their own parser (`client::ClientCli`); here they are for the help.
    #[command(subcommand)]
    pub client: Option<client::ClientCommand>,

    /// Directory for everything that must survive: ledger, database, the worker's journal. Made if it is missing.
    #[arg(long, env = "CHRONO_FLOW_DATA_DIR", value_name = "DIR", default_value = "./chrono-flow-data/standalone")]
    data_dir: PathBuf,

    /// Where the REST API listens. Whoever reaches it can run commands: keep it on loopback, or behind something that checks who calls.
    #[arg(long, env = "CHRONO_FLOW_HTTP_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    http_listen: String,

    /// A further host name by which clients may call the API (repeatable). On loopback, other names in the Host header are refused.
    #[arg(long = "http-host", env = "CHRONO_FLOW_HTTP_HOST", value_name = "NAME", value_delimiter = ',')]
    http_hosts: Vec<String>,

    /// Commands that run at once, at most; further ones wait their turn.
    #[arg(long, env = "CHRONO_FLOW_SLOTS", value_name = "N", default_value_t = limits::WORKER_SLOTS_DEFAULT)]
    slots: u32,

    /// A label of this worker, as name=value (repeatable).
    #[arg(long = "label", env = "CHRONO_FLOW_LABEL", value_name = "NAME=VALUE", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,

    /// How far ahead of its instant a fire is decided and handed to its worker, in milliseconds.
    #[arg(long, env = "CHRONO_FLOW_LOOKAHEAD_MS", value_name = "MS", default_value_t = limits::LOOKAHEAD_MS_DEFAULT)]
    lookahead_ms: i64,

    /// How far a clock may be off, in milliseconds; a jump of more than half of it suspends deciding for a moment.
    #[arg(long, env = "CHRONO_FLOW_MAX_CLOCK_SKEW_MS", value_name = "MS", default_value_t = limits::CLOCK_SKEW_MS_DEFAULT)]
    max_clock_skew_ms: i64,

    /// How long running commands may go on after SIGTERM or ctrl-C before they are stopped, in seconds.
    #[arg(long, env = "CHRONO_FLOW_DRAIN_S", value_name = "S", default_value_t = 10)]
    drain_s: u64,

    /// History is kept for so many days.
    #[arg(long, env = "CHRONO_FLOW_HISTORY_DAYS", value_name = "DAYS", default_value_t = limits::HISTORY_DAYS_DEFAULT)]
    history_days: u32,

    /// And at most so many runs of it.
    #[arg(long, env = "CHRONO_FLOW_HISTORY_RUNS", value_name = "N", default_value_t = limits::HISTORY_RUNS_DEFAULT)]
    history_runs: u64,

    /// Ended runs that are held while the database can't take them; at this many, launching stops.
    #[arg(long, env = "CHRONO_FLOW_MAX_UNRECORDED", value_name = "N", default_value_t = limits::UNRECORDED_MAX_DEFAULT)]
    max_unrecorded: u64,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is written name=value".into()),
    }
}

impl Cli {
    pub fn config(self) -> Result<Config, String> {
        let config = Config {
            data_dir: self.data_dir,
            http_listen: self.http_listen,
            http_hosts: self.http_hosts,
            slots: self.slots,
            labels: self.labels.into_iter().collect::<BTreeMap<_, _>>(),
            lookahead_ms: self.lookahead_ms,
            clock_skew_ms: self.max_clock_skew_ms,
            drain_s: self.drain_s,
            history_days: self.history_days,
            history_runs: self.history_runs,
            unrecorded_max: self.max_unrecorded,
        };
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_arguments_it_is_standalone_on_loopback() {
        let config = Cli::parse_from(["chrono-flow"]).config().unwrap();
        assert_eq!(config.http_listen, "127.0.0.1:8080");
        assert_eq!(config.data_dir, PathBuf::from("./chrono-flow-data/standalone"));
        assert_eq!((config.slots, config.lookahead_ms), (64, 2_000));
    }

    #[test]
    fn labels_are_pairs() {
        let config = Cli::parse_from(["chrono-flow", "--label", "zone=eu", "--label", "gpu="]).config().unwrap();
        assert_eq!(config.labels, BTreeMap::from([("zone".into(), "eu".into()), ("gpu".into(), String::new())]));
        assert!(Cli::try_parse_from(["chrono-flow", "--label", "=x"]).is_err());
        assert!(Cli::try_parse_from(["chrono-flow", "--label", "x"]).is_err());
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
