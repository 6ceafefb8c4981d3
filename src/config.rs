//! Typed settings: what the command line and the environment said, checked once. Each role has its own; a setting that a role has no use
//! for is refused by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::{NodeId, limits};

/// The shortest election time-out that can be asked for, in milliseconds, and the longest.
const ELECTION_TIMEOUT_MS_MIN: u64 = 50;
const ELECTION_TIMEOUT_MS_MAX: u64 = 60_000;
/// Controllers in a cluster, at most: more only make every commit slower.
const CONTROLLERS_MAX: usize = 9;
/// Characters in a worker's name, at most.
const WORKER_NAME_CHARS_MAX: usize = 255;

/// Secrets that are settings come from the environment or from files, never from the command line, which everybody can read.
pub const CLUSTER_SECRET_VARIABLE: &str = "CHRONO_FLOW_CLUSTER_SECRET";
pub const DATABASE_PASSWORD_VARIABLE: &str = "CHRONO_FLOW_DATABASE_PASSWORD";

/// What the environment says that no flag does.
#[derive(Clone, Default)]
pub struct Secrets {
    pub cluster_secret: Option<String>,
    pub database_password: Option<String>,
}

/// Who this process is to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    Standalone(StandaloneConfig),
    Controller(ControllerConfig),
    Worker(WorkerConfig),
}

/// The API.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConfig {
    /// host:port
    pub listen: String,
    /// Further names by which clients may call the API in their Host header, beside loopback and what `listen` says.
    pub hosts: Vec<String>,
}

/// What decides: the engine of a controller.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    pub lookahead_ms: i64,
    pub clock_skew_ms: i64,
    pub history_days: u32,
    pub history_runs: u64,
    pub unrecorded_max: u64,
}

/// What executes.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    pub slots: u32,
    pub labels: BTreeMap<String, String>,
    pub drain_s: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StandaloneConfig {
    pub data_dir: PathBuf,
    pub http: HttpConfig,
    pub engine: EngineSettings,
    pub execution: Execution,
}

/// Where jobs and history are kept.
#[derive(Clone, PartialEq)]
pub struct DatabaseConfig {
    pub url: String,
    pub password: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
}

impl std::fmt::Debug for DatabaseConfig {
    /// Without the password, which may also stand in the URL.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseConfig").field("password_file", &self.password_file).field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

/// Where the secret is that all nodes of a cluster share.
#[derive(Clone, PartialEq)]
pub enum SecretConfig {
    /// There is none: RPC on loopback only.
    None,
    File(PathBuf),
    /// From the environment.
    Text(String),
}

impl std::fmt::Debug for SecretConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SecretConfig::None => f.write_str("None"),
            SecretConfig::File(path) => f.debug_tuple("File").field(path).finish(),
            SecretConfig::Text(_) => f.write_str("Text(…)"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ControllerConfig {
    pub node_id: NodeId,
    /// All controllers that found the cluster, this one included, and where they are now.
    pub cluster: BTreeMap<NodeId, String>,
    pub rpc_listen: String,
    pub cluster_secret: SecretConfig,
    pub election_timeout_ms: u64,
    pub database: DatabaseConfig,
    pub data_dir: PathBuf,
    pub http: HttpConfig,
    pub engine: EngineSettings,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WorkerConfig {
    pub name: String,
    pub controllers: Vec<String>,
    pub rpc_listen: String,
    /// Where the leader reaches this worker.
    pub rpc_advertise: String,
    pub cluster_secret: SecretConfig,
    pub data_dir: PathBuf,
    pub execution: Execution,
}

type Checked = Result<(), String>;

impl Config {
    /// Says what is wrong, by the flag's name, and what is allowed.
    pub fn validate(&self) -> Checked {
        match self {
            Config::Standalone(config) => {
                config.http.validate()?;
                config.engine.validate()?;
                config.execution.validate()
            }
            Config::Controller(config) => config.validate(),
            Config::Worker(config) => config.validate(),
        }
    }
}

impl HttpConfig {
    fn validate(&self) -> Checked {
        address("http-listen", &self.listen, 0)
    }
}

impl EngineSettings {
    fn validate(&self) -> Checked {
        // A fire must be staged before the permit that lets it start can run out (PROTOCOL C5).
        within("lookahead-ms", self.lookahead_ms.into(), 0, (limits::START_PERMIT_MS - limits::HEARTBEAT_MS).into(), " ms")?;
        within("max-clock-skew-ms", self.clock_skew_ms.into(), 10, 60_000, " ms")?;
        within("history-days", self.history_days.into(), 1, 36_500, " days")?;
        within("history-runs", self.history_runs.into(), 1, i64::MAX.into(), "")?;
        within("max-unrecorded", self.unrecorded_max.into(), 1_000, 100_000_000, "")
    }
}

impl Execution {
    fn validate(&self) -> Checked {
        within("slots", self.slots.into(), 1, limits::WORKER_SLOTS_MAX.into(), "")?;
        within("drain-s", self.drain_s.into(), 0, 86_400, " s")
    }
}

impl ControllerConfig {
    fn validate(&self) -> Checked {
        within("node-id", self.node_id.into(), 1, i64::MAX.into(), "")?;
        let ids: Vec<String> = self.cluster.keys().map(ToString::to_string).collect();
        if !self.cluster.contains_key(&self.node_id) {
            return Err(format!("--cluster names the controllers {}, and not this one, {}", ids.join(", "), self.node_id));
        }
        if self.cluster.len() > CONTROLLERS_MAX {
            return Err(format!("--cluster names {} controllers; allowed: up to {CONTROLLERS_MAX}", self.cluster.len()));
        }
        for (id, place) in &self.cluster {
            address("cluster", place, 1).map_err(|why| format!("{why} (controller {id})"))?;
        }
        address("rpc-listen", &self.rpc_listen, 0)?;
        let (from, to) = (ELECTION_TIMEOUT_MS_MIN.into(), ELECTION_TIMEOUT_MS_MAX.into());
        within("election-timeout-ms", self.election_timeout_ms.into(), from, to, " ms")?;
        if !["postgres://", "postgresql://"].iter().any(|scheme| self.database.url.starts_with(scheme)) {
            return Err("--database-url takes postgres://USER@HOST:PORT/NAME".into());
        }
        self.http.validate()?;
        self.engine.validate()
    }
}

impl WorkerConfig {
    fn validate(&self) -> Checked {
        let count = self.name.chars().count();
        if !(1..=WORKER_NAME_CHARS_MAX).contains(&count) || self.name.chars().any(|c| c.is_control() || c == '/') {
            return Err(format!("--node-id is a worker's name: 1 to {WORKER_NAME_CHARS_MAX} characters, no `/`"));
        }
        if self.controllers.is_empty() {
            return Err("--controllers names no controller".into());
        }
        self.controllers.iter().try_for_each(|place| address("controllers", place, 1))?;
        address("rpc-listen", &self.rpc_listen, 0)?;
        address("rpc-advertise", &self.rpc_advertise, 1)?;
        let host = self.rpc_advertise.rsplit_once(':').map_or("", |(host, _)| host);
        if ["0.0.0.0", "[::]"].contains(&host) {
            return Err(format!(
                "--rpc-advertise is `{}`; give the name or address at which controllers reach this worker",
                self.rpc_advertise
            ));
        }
        self.execution.validate()
    }
}

fn within(flag: &str, value: i128, from: i128, to: i128, unit: &str) -> Checked {
    if (from..=to).contains(&value) { Ok(()) } else { Err(format!("--{flag} is {value}; allowed: {from} to {to}{unit}")) }
}

fn address(flag: &str, text: &str, port_min: u16) -> Checked {
    let (host, port) = text.rsplit_once(':').ok_or(format!("--{flag} is `{text}`; it takes HOST:PORT"))?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port >= port_min);
    if host.is_empty() {
        Err(format!("--{flag} is `{text}`; it takes HOST:PORT"))
    } else if is_port {
        Ok(())
    } else {
        Err(format!("--{flag} has the port `{port}`; allowed: {port_min} to 65535"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> EngineSettings {
        EngineSettings { lookahead_ms: 2_000, clock_skew_ms: 500, history_days: 30, history_runs: 10_000_000, unrecorded_max: 1_000_000 }
    }

    fn execution() -> Execution {
        Execution { slots: 64, labels: BTreeMap::new(), drain_s: 10 }
    }

    fn http() -> HttpConfig {
        HttpConfig { listen: "127.0.0.1:8080".into(), hosts: Vec::new() }
    }

    fn standalone() -> StandaloneConfig {
        StandaloneConfig { data_dir: "data".into(), http: http(), engine: engine(), execution: execution() }
    }

    fn controller() -> ControllerConfig {
        let place = |id: NodeId| (id, format!("controller-{id}:12000"));
        ControllerConfig {
            node_id: 1,
            cluster: BTreeMap::from([place(1), place(2), place(3)]),
            rpc_listen: "0.0.0.0:12000".into(),
            cluster_secret: SecretConfig::None,
            election_timeout_ms: 500,
            database: DatabaseConfig { url: "postgres://db/x".into(), password: None, password_file: None, ca_file: None },
            data_dir: "data".into(),
            http: http(),
            engine: engine(),
        }
    }

    fn worker() -> WorkerConfig {
        WorkerConfig {
            name: "worker-1".into(),
            controllers: vec!["controller-1:12000".into()],
            rpc_listen: "0.0.0.0:50051".into(),
            rpc_advertise: "worker-1:50051".into(),
            cluster_secret: SecretConfig::None,
            data_dir: "data".into(),
            execution: execution(),
        }
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_is_allowed() {
        let says = |config: StandaloneConfig| Config::Standalone(config).validate().unwrap_err();
        assert_eq!(Config::Standalone(standalone()).validate(), Ok(()));
        assert_eq!(
            says(StandaloneConfig { execution: Execution { slots: 0, ..execution() }, ..standalone() }),
            "--slots is 0; allowed: 1 to 100000"
        );
        let engine = EngineSettings { lookahead_ms: 5_000, ..engine() };
        assert_eq!(says(StandaloneConfig { engine, ..standalone() }), "--lookahead-ms is 5000; allowed: 0 to 4000 ms");
        let listen = |text: &str| StandaloneConfig { http: HttpConfig { listen: text.into(), hosts: Vec::new() }, ..standalone() };
        assert_eq!(says(listen("8080")), "--http-listen is `8080`; it takes HOST:PORT");
        assert_eq!(says(listen("a:b")), "--http-listen has the port `b`; allowed: 0 to 65535");
    }

    #[test]
    fn a_controller_is_one_of_its_cluster_and_has_a_database() {
        let says = |config: ControllerConfig| Config::Controller(config).validate().unwrap_err();
        assert_eq!(Config::Controller(controller()).validate(), Ok(()));
        assert_eq!(says(ControllerConfig { node_id: 4, ..controller() }), "--cluster names the controllers 1, 2, 3, and not this one, 4");
        let database = DatabaseConfig { url: "mysql://x".into(), ..controller().database };
        assert_eq!(says(ControllerConfig { database, ..controller() }), "--database-url takes postgres://USER@HOST:PORT/NAME");
        let slow = ControllerConfig { election_timeout_ms: 5, ..controller() };
        assert_eq!(says(slow), "--election-timeout-ms is 5; allowed: 50 to 60000 ms");
    }

    #[test]
    fn a_worker_says_where_it_is_reached() {
        let says = |config: WorkerConfig| Config::Worker(config).validate().unwrap_err();
        assert_eq!(Config::Worker(worker()).validate(), Ok(()));
        assert!(
            says(WorkerConfig { rpc_advertise: "0.0.0.0:50051".into(), ..worker() }).contains("at which controllers reach this worker")
        );
        assert!(says(WorkerConfig { controllers: Vec::new(), ..worker() }).contains("--controllers"));
        assert!(says(WorkerConfig { name: "a/b".into(), ..worker() }).contains("--node-id"));
    }

    #[test]
    fn no_password_shows() {
        let database =
            DatabaseConfig { url: "postgres://u:geheim@db/x".into(), password: Some("geheim".into()), password_file: None, ca_file: None };
        assert!(!format!("{database:?}").contains("geheim"));
    }
}
