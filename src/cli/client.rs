//! The client commands as they are typed. What they do is in `client/`.
//!
//! They have a parser of their own, so that what the environment says of a server's flags can't break them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The server that is asked when none is named.
pub const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";

const EXIT_CODES: &str = "Exit codes: 0 done · 1 it failed, was refused, or there is no such thing · 2 wrong usage · 3 no server could be \
                          reached, or it can't do this now (503); try again later";

/// A command line that asks a server for something.
#[derive(Parser, Debug)]
#[command(name = "chrono-flow", version, max_term_width = 120, after_help = EXIT_CODES)]
pub struct ClientCli {
    #[command(flatten)]
    pub options: ClientOptions,
    #[command(subcommand)]
    pub command: ClientCommand,
}

#[derive(Args, Clone, Debug)]
pub struct ClientOptions {
    /// The server's API. Of several, separated by commas, the next one is asked when one can't be reached.
    #[arg(long = "server", env = "CHRONO_FLOW_SERVER", value_name = "URL", value_delimiter = ',', global = true,
        default_value = SERVER_DEFAULT, help_heading = "Client options")]
    pub servers: Vec<String>,

    /// A table for people, or the API's JSON as it is.
    #[arg(short, long, value_name = "FORMAT", global = true, default_value = "table", help_heading = "Client options")]
    pub output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Subcommand, Debug)]
pub enum ClientCommand {
    /// Jobs: what is run, and when.
    #[command(subcommand, after_help = EXIT_CODES)]
    Job(JobCommand),
    /// Runs: what was run, what it printed, how it ended.
    #[command(subcommand, after_help = EXIT_CODES)]
    Run(RunCommand),
    /// Workers: who runs it.
    #[command(subcommand, after_help = EXIT_CODES)]
    Worker(WorkerCommand),
    /// Controllers: who decides.
    #[command(subcommand, after_help = EXIT_CODES)]
    Cluster(ClusterCommand),
    /// Schedules, without a server.
    #[command(subcommand, after_help = EXIT_CODES)]
    Schedule(ScheduleCommand),
}

const JOB_HELP: &str = "Id or name; digits are an id first, `name:…` is a name";
const RUN_HELP: &str = "The run's id, or the beginning of the id of a recent run";

#[derive(Subcommand, Debug)]
pub enum JobCommand {
    /// List jobs.
    List(JobList),
    /// Show a job.
    Show {
        #[arg(value_name = "JOB", help = JOB_HELP)]
        job: String,
    },
    /// Create a job, from flags, from a file, or from a file with flags for what is to differ from it.
    Create {
        /// The job's name; may stand in the file instead.
        name: Option<String>,
        #[command(flatten)]
        fields: Box<JobFields>,
        /// A JSON object with the job's fields; `-` is standard input.
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Change a job: by flags, by a merge patch (RFC 7396) in a file, or without either in $VISUAL or $EDITOR.
    Edit {
        #[arg(value_name = "JOB", help = JOB_HELP)]
        job: String,
        /// A new name.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        fields: Box<JobFields>,
        /// Give a field its default again; `labels.NAME` and `env.NAME` take one pair out (repeatable).
        #[arg(long, value_name = "FIELD")]
        unset: Vec<String>,
        /// A JSON object with the fields to change; `-` is standard input.
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Delete jobs. What runs goes on to its end; the history stays.
    Delete {
        #[arg(value_name = "JOB", required = true, help = JOB_HELP)]
        jobs: Vec<String>,
        /// Don't ask; without a terminal nothing is asked anyway.
        #[arg(short, long)]
        yes: bool,
    },
    /// Run a job now.
    Run {
        #[arg(value_name = "JOB", help = JOB_HELP)]
        job: String,
        /// The same key names the same run: the request may be repeated. Drawn at random unless given.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        /// Show what the command prints, and end as it does: 0 if it succeeded, or else 1.
        #[arg(short, long)]
        wait: bool,
    },
    /// Pause jobs: they don't fire until they are resumed.
    Pause {
        #[arg(value_name = "JOB", required = true, help = JOB_HELP)]
        jobs: Vec<String>,
    },
    /// Resume paused jobs.
    Resume {
        #[arg(value_name = "JOB", required = true, help = JOB_HELP)]
        jobs: Vec<String>,
    },
    /// Show when a job fires next.
    Next {
        #[arg(value_name = "JOB", help = JOB_HELP)]
        job: String,
        /// How many fires.
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
        count: u32,
    },
}

#[derive(Args, Debug)]
pub struct JobList {
    /// Only jobs that fire (true), or only paused ones (false).
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub enabled: Option<bool>,
    /// Only jobs with this label, as name=value or just name (repeatable).
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// Only jobs whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
}

/// One flag for each field of a job that users write. What is allowed in each is the server's business.
#[derive(Args, Debug, Default)]
pub struct JobFields {
    /// When it fires: 5 or 6 fields, @daily, @every 1h …
    #[arg(long, value_name = "EXPRESSION")]
    pub schedule: Option<String>,
    /// What `sh -c` runs.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub command: Option<String>,
    /// The IANA time zone of the schedule.
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// What kind of job it is: shell.
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// It does not fire until it is enabled.
    #[arg(long, conflicts_with = "enabled")]
    pub disabled: bool,
    /// It fires by its schedule.
    #[arg(long)]
    pub enabled: bool,
    /// A note for people.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub description: Option<String>,
    /// A label (repeatable).
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// A variable of the command's environment (repeatable).
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Where the command starts.
    #[arg(long, value_name = "DIR")]
    pub working_dir: Option<String>,
    /// As whom the command runs.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Seconds after which a run is stopped.
    #[arg(long, value_name = "S")]
    pub timeout_s: Option<u64>,
    /// Seconds between SIGTERM and SIGKILL.
    #[arg(long, value_name = "S")]
    pub kill_grace_s: Option<u64>,
    /// Attempts in all; 1 is no retry.
    #[arg(long, value_name = "N")]
    pub retry_max_attempts: Option<u64>,
    /// Seconds before the second attempt; doubles with each further one.
    #[arg(long, value_name = "S")]
    pub retry_backoff_s: Option<u64>,
    /// Seconds before an attempt, at most.
    #[arg(long, value_name = "S")]
    pub retry_max_backoff_s: Option<u64>,
    /// What a fire does while a run is open: allow, skip, queue_one, queue_all, replace.
    #[arg(long, value_name = "POLICY")]
    pub overlap: Option<String>,
    /// Which missed fires are made up for: none, last, all.
    #[arg(long, value_name = "POLICY")]
    pub catch_up: Option<String>,
    /// Seconds back to which missed fires are made up for.
    #[arg(long, value_name = "S")]
    pub catch_up_window_s: Option<u64>,
    /// Missed fires that are made up for, at most.
    #[arg(long, value_name = "N")]
    pub catch_up_max: Option<u64>,
    /// Seconds after its instant within which a fire may start.
    #[arg(long, value_name = "S")]
    pub start_deadline_s: Option<u64>,
    /// A label that a worker must have (repeatable).
    #[arg(long = "worker-selector", value_name = "NAME=VALUE", value_parser = pair)]
    pub worker_selector: Vec<(String, String)>,
    /// What becomes of a run whose worker is lost: wait, retry.
    #[arg(long, value_name = "POLICY")]
    pub on_worker_lost: Option<String>,
    /// Seconds after which a run on a silent worker counts as lost.
    #[arg(long, value_name = "S")]
    pub lost_after_s: Option<u64>,
    /// The job's span begins here (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub starts_at: Option<String>,
    /// And ends before this (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub ends_at: Option<String>,
    /// Seconds over which fires are spread.
    #[arg(long, value_name = "S")]
    pub jitter_s: Option<u64>,
    /// Bytes of output that are kept of a run.
    #[arg(long, value_name = "BYTES")]
    pub max_output_bytes: Option<u64>,
}

#[derive(Subcommand, Debug)]
pub enum RunCommand {
    /// List runs, newest first.
    List {
        /// Only runs of this job: id or name; `name:…` is a name.
        #[arg(long, value_name = "JOB")]
        job: Option<String>,
        /// Only runs in these states, separated by commas.
        #[arg(long = "state", value_name = "STATES", value_delimiter = ',')]
        states: Vec<String>,
        /// Scheduled at or after: RFC 3339, or so long ago (90s, 15m, 1h30m, 2d).
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Scheduled before: RFC 3339, or so long ago.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// How many runs; 0 is all of them.
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
        count: u64,
    },
    /// Show a run.
    Show {
        #[arg(value_name = "RUN", help = RUN_HELP)]
        run: String,
    },
    /// Show what a run printed, byte for byte.
    Logs {
        #[arg(value_name = "RUN", help = RUN_HELP)]
        run: String,
        /// Go on until the run has ended; what it prints to stderr goes to stderr.
        #[arg(short, long)]
        follow: bool,
        /// Only one of its streams.
        #[arg(long, value_name = "STREAM")]
        stream: Option<StreamName>,
    },
    /// Stop a run, or keep it from starting.
    Cancel {
        #[arg(value_name = "RUN", help = RUN_HELP)]
        run: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum StreamName {
    Stdout,
    Stderr,
}

#[derive(Subcommand, Debug)]
pub enum WorkerCommand {
    /// List workers.
    List,
}

#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Show the controllers, and who leads.
    Status,
    /// Make a controller a member, and wait until it has caught up. May be asked again.
    Add {
        /// Its --node-id.
        id: u64,
        /// Where the other controllers reach it (host:port).
        address: String,
    },
    /// Take a controller out.
    Remove {
        /// Its --node-id.
        id: u64,
    },
    /// Replace a controller whose disk is gone by one with an empty data directory under the same id. May be asked again.
    Replace {
        /// Its --node-id.
        id: u64,
        /// Where the new one is reached (host:port), if that differs.
        address: Option<String>,
    },
    /// Hand leadership over.
    Transfer {
        /// To this controller; or else to the one that lags least.
        id: Option<u64>,
    },
}

#[derive(Subcommand, Debug)]
pub enum ScheduleCommand {
    /// Show when an expression fires.
    Next {
        /// 5 or 6 fields, @daily, @every 1h …
        expression: String,
        /// The IANA time zone.
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<String>,
        /// How many fires.
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
        count: u32,
        /// Fires after this (RFC 3339); now unless given. `@every` counts from it.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// The job's name, which decides what `H` stands for.
        #[arg(long, value_name = "NAME", default_value = "")]
        name: String,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is written NAME=VALUE".into()),
    }
}

/// Whether the arguments (without the program's name) are those of a client command: its noun comes first, but for client options.
pub fn is_asked_for(args: impl IntoIterator<Item = OsString>) -> bool {
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str() else { return false };
        match text {
            "--server" | "--output" | "-o" => drop(args.next()),
            _ if text.starts_with("--server=") || text.starts_with("--output=") => {}
            _ if text.starts_with("-o") => {}
            noun => return ClientCommand::has_subcommand(noun),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        ClientCli::command().debug_assert();
    }

    #[test]
    fn a_client_command_is_known_by_its_noun() {
        let asked = |line: &str| is_asked_for(line.split_whitespace().map(OsString::from));
        for line in ["job list", "--server a job", "--server=a -o json run list", "-ojson schedule", "cluster", "worker list --help"] {
            assert!(asked(line), "{line}");
        }
        for line in ["", "--data-dir job", "help job", "--server job", "--role worker", "nope job", "--help"] {
            assert!(!asked(line), "{line}");
        }
    }

    #[test]
    fn options_may_stand_anywhere() {
        for line in ["--server a,b -o json job list", "job --server a,b list -o json", "job list --output=json --server=a,b"] {
            let cli = ClientCli::try_parse_from(["chrono-flow"].into_iter().chain(line.split_whitespace())).unwrap();
            assert_eq!((cli.options.servers, cli.options.output), (vec!["a".to_owned(), "b".to_owned()], Format::Json), "{line}");
        }
    }
}
