//! A controller's API, over connections that are kept.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use ureq::Agent;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Api {
    agent: Agent,
    address: String,
}

impl Api {
    pub fn new(address: &str) -> Api {
        let config = Agent::config_builder().timeout_global(Some(PATIENCE)).build();
        Api { agent: config.into(), address: address.to_owned() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn get(&self, path: &str) -> Result<String> {
        Ok(self.agent.get(self.url(path)).call()?.body_mut().read_to_string()?)
    }

    pub fn put(&self, path: &str, body: &str) -> Result<Value> {
        let mut answer = self.agent.put(self.url(path)).header("content-type", "application/json").send(body)?;
        Ok(serde_json::from_str(&answer.body_mut().read_to_string()?)?)
    }

    /// What the controller knows of the cluster.
    pub fn cluster(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get("/cluster")?)?)
    }

    pub fn job_id(&self, name: &str) -> Result<i64> {
        let jobs: Value = serde_json::from_str(&self.get(&format!("/jobs?name={name}"))?)?;
        jobs[0]["id"].as_i64().with_context(|| format!("there is no job {name}"))
    }

    /// Runs a job now; returns when the run is accepted.
    pub fn run(&self, job: i64) -> Result<()> {
        self.agent.post(self.url(&format!("/jobs/{job}/run"))).send_empty()?.body_mut().read_to_string()?;
        Ok(())
    }
}
