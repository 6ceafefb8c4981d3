//! From flags to the settings of a role.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{DatabaseFlags, Flags};
use crate::config::{
    CLUSTER_SECRET_VARIABLE, Config, ControllerConfig, DatabaseConfig, EngineSettings, Execution, HttpConfig, SecretConfig, Secrets,
    StandaloneConfig, WorkerConfig,
};
use crate::model::{NodeId, limits};

const ELECTION_TIMEOUT_MS_DEFAULT: u64 = 500;
const DRAIN_S_DEFAULT: u64 = 10;

impl DatabaseFlags {
    /// The PostgreSQL database that `--database-url` names.
    pub fn config(&self, password: Option<String>) -> Result<DatabaseConfig, String> {
        Ok(DatabaseConfig {
            url: self.database_url.clone().ok_or("--database-url is missing: postgres://USER@HOST:PORT/NAME")?,
            password,
            password_file: self.database_password_file.clone(),
            ca_file: self.database_ca_file.clone(),
        })
    }
}

impl Flags {
    /// The settings of the role that was asked for, checked; what is wrong, by the flag's name.
    pub fn config(self, secrets: Secrets) -> Result<Config, String> {
        let config = match self.role.as_deref().unwrap_or_default() {
            "" => self.standalone()?,
            "controller" => self.controller(secrets)?,
            "worker" => self.worker(secrets)?,
            other => return Err(format!("--role is `{other}`; allowed: controller, worker (none: everything in one process)")),
        };
        config.validate()?;
        Ok(config)
    }

    fn standalone(self) -> Result<Config, String> {
        self.refuse("needs --role", &[&self.of_cluster()[..], &self.of_controller()[..], &self.of_worker_alone()[..]].concat())?;
        Ok(Config::Standalone(StandaloneConfig {
            data_dir: self.data_dir.clone().unwrap_or_else(|| "./chrono-flow-data/standalone".into()),
            http: self.http(),
            engine: self.engine(),
            execution: self.execution(),
        }))
    }

    fn controller(self, secrets: Secrets) -> Result<Config, String> {
        self.refuse("is not for a controller", &[&self.of_worker_alone()[..], &self.of_execution()[..]].concat())?;
        let id = self.node_id.as_deref().ok_or("--node-id is missing: this controller's number, from 1")?;
        let node_id: NodeId = id.parse().map_err(|_| format!("--node-id is `{id}`; a controller's is a number, from 1"))?;
        let cluster = self.cluster.as_deref().ok_or("--cluster is missing: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT")?;
        Ok(Config::Controller(ControllerConfig {
            node_id,
            cluster: members(cluster)?,
            rpc_listen: self.rpc_listen.clone().unwrap_or_else(|| "127.0.0.1:12000".into()),
            cluster_secret: self.cluster_secret(secrets.cluster_secret)?,
            election_timeout_ms: self.election_timeout_ms.unwrap_or(ELECTION_TIMEOUT_MS_DEFAULT),
            database: self.database.config(secrets.database_password)?,
            data_dir: self.data_dir_of("controller", id),
            http: self.http(),
            engine: self.engine(),
        }))
    }

    fn worker(self, secrets: Secrets) -> Result<Config, String> {
        self.refuse("is not for a worker", &[&self.of_controller()[..], &self.of_engine()[..]].concat())?;
        let name = self.node_id.clone().ok_or("--node-id is missing: this worker's name")?;
        let controllers = self.controllers.as_deref().ok_or("--controllers is missing: HOST:PORT,HOST:PORT,HOST:PORT")?;
        let rpc_listen = self.rpc_listen.clone().unwrap_or_else(|| "127.0.0.1:50051".into());
        Ok(Config::Worker(WorkerConfig {
            data_dir: self.data_dir_of("worker", &name),
            name,
            controllers: controllers.split(',').map(str::trim).filter(|place| !place.is_empty()).map(str::to_owned).collect(),
            rpc_advertise: self.rpc_advertise.clone().unwrap_or_else(|| rpc_listen.clone()),
            rpc_listen,
            cluster_secret: self.cluster_secret(secrets.cluster_secret)?,
            execution: self.execution(),
        }))
    }

    fn cluster_secret(&self, text: Option<String>) -> Result<SecretConfig, String> {
        match (&self.cluster_secret_file, text) {
            (Some(_), Some(_)) => Err(format!("give --cluster-secret-file or {CLUSTER_SECRET_VARIABLE}, not both")),
            (Some(path), None) => Ok(SecretConfig::File(path.clone())),
            (None, Some(text)) => Ok(SecretConfig::Text(text)),
            (None, None) => Ok(SecretConfig::None),
        }
    }

    fn data_dir_of(&self, role: &str, id: &str) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| format!("./chrono-flow-data/{role}-{id}").into())
    }

    fn http(&self) -> HttpConfig {
        HttpConfig { listen: self.http_listen.clone().unwrap_or_else(|| "127.0.0.1:8080".into()), hosts: self.http_hosts.clone() }
    }

    fn engine(&self) -> EngineSettings {
        EngineSettings {
            lookahead_ms: self.lookahead_ms.unwrap_or(limits::LOOKAHEAD_MS_DEFAULT),
            clock_skew_ms: self.max_clock_skew_ms.unwrap_or(limits::CLOCK_SKEW_MS_DEFAULT),
            history_days: self.history_days.unwrap_or(limits::HISTORY_DAYS_DEFAULT),
            history_runs: self.history_runs.unwrap_or(limits::HISTORY_RUNS_DEFAULT),
            unrecorded_max: self.max_unrecorded.unwrap_or(limits::UNRECORDED_MAX_DEFAULT),
        }
    }

    fn execution(&self) -> Execution {
        Execution {
            slots: self.slots.unwrap_or(limits::WORKER_SLOTS_DEFAULT),
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            drain_s: self.drain_s.unwrap_or(DRAIN_S_DEFAULT),
        }
    }

    /// Flags of both cluster roles.
    fn of_cluster(&self) -> [(&'static str, bool); 3] {
        [
            ("node-id", self.node_id.is_some()),
            ("rpc-listen", self.rpc_listen.is_some()),
            ("cluster-secret-file", self.cluster_secret_file.is_some()),
        ]
    }

    fn of_controller(&self) -> [(&'static str, bool); 5] {
        [
            ("cluster", self.cluster.is_some()),
            ("election-timeout-ms", self.election_timeout_ms.is_some()),
            ("database-url", self.database.database_url.is_some()),
            ("database-password-file", self.database.database_password_file.is_some()),
            ("database-ca-file", self.database.database_ca_file.is_some()),
        ]
    }

    fn of_engine(&self) -> [(&'static str, bool); 7] {
        [
            ("http-listen", self.http_listen.is_some()),
            ("http-host", !self.http_hosts.is_empty()),
            ("lookahead-ms", self.lookahead_ms.is_some()),
            ("max-clock-skew-ms", self.max_clock_skew_ms.is_some()),
            ("history-days", self.history_days.is_some()),
            ("history-runs", self.history_runs.is_some()),
            ("max-unrecorded", self.max_unrecorded.is_some()),
        ]
    }

    fn of_worker_alone(&self) -> [(&'static str, bool); 2] {
        [("controllers", self.controllers.is_some()), ("rpc-advertise", self.rpc_advertise.is_some())]
    }

    fn of_execution(&self) -> [(&'static str, bool); 3] {
        [("slots", self.slots.is_some()), ("label", !self.labels.is_empty()), ("drain-s", self.drain_s.is_some())]
    }

    fn refuse(&self, why: &str, flags: &[(&str, bool)]) -> Result<(), String> {
        match flags.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((flag, _)) => {
                let variable = format!("CHRONO_FLOW_{}", flag.replace('-', "_").to_uppercase());
                Err(format!("--{flag} (or {variable}) {why}"))
            }
        }
    }
}

fn members(text: &str) -> Result<BTreeMap<NodeId, String>, String> {
    let mut members = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || format!("--cluster has `{part}`; it takes ID=HOST:PORT, with ids from 1");
        let (id, place) = part.split_once('=').ok_or_else(wrong)?;
        let id: NodeId = id.trim().parse().ok().filter(|id| *id > 0).ok_or_else(wrong)?;
        if members.insert(id, place.trim().to_owned()).is_some() {
            return Err(format!("--cluster names controller {id} twice"));
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn config(args: &[&str]) -> Result<Config, String> {
        Cli::try_parse_from(["chrono-flow"].iter().chain(args)).unwrap().flags.config(Secrets::default())
    }

    #[test]
    fn without_arguments_it_is_standalone_on_loopback() {
        let Ok(Config::Standalone(config)) = config(&[]) else { panic!("not standalone") };
        assert_eq!(config.http.listen, "127.0.0.1:8080");
        assert_eq!(config.data_dir, PathBuf::from("./chrono-flow-data/standalone"));
        assert_eq!((config.execution.slots, config.engine.lookahead_ms), (64, 2_000));
    }

    #[test]
    fn labels_are_pairs() {
        let Ok(Config::Standalone(config)) = config(&["--label", "zone=eu", "--label", "gpu="]) else { panic!("not standalone") };
        assert_eq!(config.execution.labels, BTreeMap::from([("zone".into(), "eu".into()), ("gpu".into(), String::new())]));
        assert!(Cli::try_parse_from(["chrono-flow", "--label", "=x"]).is_err());
        assert!(Cli::try_parse_from(["chrono-flow", "--label", "x"]).is_err());
    }

    #[test]
    fn the_roles_of_a_cluster_are_told_apart() {
        let cluster = "1=a:1,2=b:2,3=c:3";
        let args = ["--role", "controller", "--node-id", "2", "--cluster", cluster, "--database-url", "postgres://u@db/x"];
        let Ok(Config::Controller(controller)) = config(&args) else { panic!("no controller") };
        assert_eq!((controller.node_id, controller.cluster[&3].as_str()), (2, "c:3"));
        assert_eq!(controller.data_dir, PathBuf::from("./chrono-flow-data/controller-2"));
        let args = ["--role", "worker", "--node-id", "w", "--controllers", "a:1,b:2", "--rpc-listen", "127.0.0.1:9"];
        let Ok(Config::Worker(worker)) = config(&args) else { panic!("no worker") };
        assert_eq!((worker.controllers.len(), worker.rpc_advertise.as_str()), (2, "127.0.0.1:9"));
    }

    #[test]
    fn a_flag_that_a_role_has_no_use_for_is_refused_by_name() {
        let says = |args: &[&str]| config(args).unwrap_err();
        assert_eq!(says(&["--cluster", "1=a:1"]), "--cluster (or CHRONO_FLOW_CLUSTER) needs --role");
        assert_eq!(
            says(&["--role", "worker", "--database-url", "postgres://x"]),
            "--database-url (or CHRONO_FLOW_DATABASE_URL) is not for a worker"
        );
        assert_eq!(says(&["--role", "controller", "--slots", "3"]), "--slots (or CHRONO_FLOW_SLOTS) is not for a controller");
        assert!(says(&["--role", "boss"]).contains("allowed: controller, worker"));
        assert!(says(&["--role", "controller"]).starts_with("--node-id is missing"));
        let twice = ["--role", "controller", "--node-id", "1", "--cluster", "1=a:1,1=b:1", "--database-url", "postgres://x"];
        assert_eq!(says(&twice), "--cluster names controller 1 twice");
    }
}
