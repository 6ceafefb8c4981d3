//! A copy of what a fresh clone has, and the containers that `docker compose up` makes of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::api::Api;
use crate::shell::{Shell, docker, try_run};
use crate::wait::eventually;
use crate::witness::Witness;

/// What a build and a start need.
const NEEDED: &[&str] =
    &["Cargo.toml", "Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT", "Dockerfile", ".dockerignore", "compose.yaml", "scripts", "src", "sql"];
pub const CONTROLLERS: [u64; 3] = [1, 2, 3];
const LEADS: &str = "This node became the LEADER";

pub struct Cluster {
    pub witness: Witness,
    pub workers: BTreeMap<String, Container>,
    pub shell: Shell,
    _place: tempfile::TempDir,
}

/// A container by its name.
pub struct Container(pub String);

impl Container {
    /// What it has said over all its lives.
    pub fn log(&self) -> Vec<String> {
        let output = try_run("docker", &["logs", &self.0]);
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).lines().map(str::to_owned).collect()
    }
}

impl Cluster {
    /// The folder is ready, and nothing runs. Fails where somebody else uses the names of compose.yaml.
    pub fn prepare() -> Cluster {
        let found = docker(&["ps", "-a", "--format", "{{.Names}} {{.Label \"com.docker.compose.project\"}}"]);
        let others: Vec<&str> = found.lines().filter(|line| line.starts_with("chrono-") && !line.ends_with(" chrono-flow-test")).collect();
        assert!(others.is_empty(), "these containers have the names of compose.yaml; remove them first: {others:?}");
        let place = tempfile::tempdir().expect("a temporary directory");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let status = Command::new("cp").arg("-a").args(NEEDED.iter().map(|name| root.join(name))).arg(place.path()).status();
        assert!(status.expect("cp").success());
        std::fs::copy(root.join("tests/compose/override.yaml"), place.path().join("override.yaml")).expect("the override");
        let witness_dir = place.path().join("witness.d");
        std::fs::create_dir(&witness_dir).expect("a folder");
        for (path, mode) in [(place.path(), 0o755), (&witness_dir, 0o777)] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("permissions");
        }
        let env = [
            ("COMPOSE_PROJECT_NAME", "chrono-flow-test".to_owned()),
            ("COMPOSE_FILE", "compose.yaml:override.yaml".to_owned()),
            ("DOCKER_BUILDKIT", "0".to_owned()),
            ("WITNESS", witness_dir.to_string_lossy().into_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let mut shell = Shell::at(place.path(), &env);
        // Of a run that was killed.
        let _ = shell.run("touch .env && docker compose --profile more-workers down -v --remove-orphans; rm .env");
        Cluster { witness: Witness::new(&witness_dir), workers: BTreeMap::new(), shell, _place: place }
    }

    /// All of it with `workers` workers, and ready.
    pub fn start(workers: u32) -> Cluster {
        let mut cluster = Cluster::prepare();
        cluster.shell("scripts/make-env");
        let names: Vec<String> = (1..=workers).map(|number| format!("chrono-worker-{number}")).collect();
        cluster.shell(&format!(
            "docker compose up --build -d chrono-controller-1 chrono-controller-2 chrono-controller-3 {}",
            names.join(" ")
        ));
        cluster.workers = names.into_iter().map(|name| (name.clone(), Container(name))).collect();
        cluster.wait_ready();
        cluster
    }

    #[track_caller]
    pub fn shell(&mut self, block: &str) -> String {
        self.shell.run(block).unwrap_or_else(|failure| panic!("{block}\n{failure}"))
    }

    fn address(id: u64) -> String {
        format!("127.0.0.1:{}", 8079 + id)
    }

    /// The API of whichever controller answers.
    pub fn api(&self) -> Api {
        Api::any_of(&CONTROLLERS.map(Cluster::address))
    }

    pub fn api_of(&self, id: u64) -> Api {
        Api::new(&Cluster::address(id))
    }

    /// All controllers: everything runs when the jobs are judged.
    pub fn up(&self) -> Vec<u64> {
        CONTROLLERS.to_vec()
    }

    fn json(&self, id: u64, path: &str) -> Option<Value> {
        let answer = Api::any_of(&[Cluster::address(id)]).try_call("GET", path, &[], None).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// Who leads, by its own word.
    pub fn leader(&self) -> Option<u64> {
        CONTROLLERS.into_iter().find(|id| self.json(*id, "/cluster").is_some_and(|view| view["leader"] == *id))
    }

    #[track_caller]
    pub fn wait_leader_but(&self, old: Option<u64>) -> u64 {
        eventually("somebody leads", || self.leader().filter(|id| Some(*id) != old))
    }

    /// Waits until every controller is ready, and every worker with every controller.
    #[track_caller]
    pub fn wait_ready(&self) {
        for id in CONTROLLERS {
            eventually(&format!("controller {id} is ready"), || self.json(id, "/readyz"));
            for name in self.workers.keys() {
                let name = name.trim_start_matches("chrono-");
                eventually(&format!("controller {id} has {name}"), || {
                    let workers = self.json(id, "/workers")?;
                    workers.as_array()?.iter().find(|worker| worker["id"] == name && worker["state"] == "ready").map(|_| ())
                });
            }
        }
    }

    /// No term has had two leaders, by the controllers' logs.
    #[track_caller]
    pub fn check_one_leader_a_term(&self) {
        let logs = CONTROLLERS.iter().flat_map(|id| Container(format!("chrono-controller-{id}")).log());
        let mut won: Vec<String> =
            logs.filter(|line| line.contains(LEADS)).filter_map(|line| Some(line.split_once("term ")?.1.to_owned())).collect();
        let count = won.len();
        won.sort();
        won.dedup();
        assert_eq!(won.len(), count, "a term has had two leaders: {won:?}");
    }

    fn end(&mut self) -> Result<String, String> {
        self.shell.run("docker compose --profile more-workers down -v --remove-orphans -t 2")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in [
                "chrono-controller-1",
                "chrono-controller-2",
                "chrono-controller-3",
                "chrono-worker-1",
                "chrono-worker-2",
                "chrono-postgres",
            ] {
                let log = Container(name.to_owned()).log();
                eprintln!("--- the end of the log of {name}\n{}\n---", log[log.len().saturating_sub(60)..].join("\n"));
            }
        }
        if let Err(failure) = self.end() {
            eprintln!("the containers could not be removed: {failure}");
        }
    }
}
