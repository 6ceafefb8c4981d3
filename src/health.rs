//! `chrono-flow healthcheck`: asks the server that the same settings start, on this machine, how it is. For HEALTHCHECKs and probes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

use crate::config::{Config, WorkerConfig};
use crate::model::WorkerId;
use crate::role::{block_on, cluster_secret};
use crate::rpc::WorkerClient;
use crate::rpc::codec::transport;
use crate::rpc::dial::TcpDial;
use crate::rpc::handshake::{Name, Service};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Says in a sentence how it is; the error says what is wrong. `is_ready`: whether it can do its work, not just whether it lives.
pub fn check(config: &Config, is_ready: bool) -> Result<String> {
    match config {
        Config::Standalone(config) => ask_api(&config.http.listen, is_ready),
        Config::Controller(config) => ask_api(&config.http.listen, is_ready),
        Config::Worker(config) => ask_worker(config, is_ready),
    }
}

fn ask_api(listen: &str, is_ready: bool) -> Result<String> {
    let place = here(listen);
    let path = if is_ready { "/readyz" } else { "/healthz" };
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).proxy(None).build().into();
    let mut answer = agent.get(format!("http://{place}{path}")).call().with_context(|| format!("no answer from {place}{path}"))?;
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().unwrap_or_default();
    if !answer.status().is_success() {
        bail!("{place}{path} says {}: {}", answer.status(), text.trim());
    }
    Ok(text.trim().to_owned())
}

fn ask_worker(config: &WorkerConfig, is_ready: bool) -> Result<String> {
    let secret = cluster_secret(&config.cluster_secret)?;
    let place = here(&config.rpc_listen);
    block_on(async {
        let dial = TcpDial::new(secret, watch::Sender::new(None).subscribe(), Name::Worker(WorkerId(config.name.clone())));
        let ask = async {
            let stream = dial.connect(&place, Service::Worker).await?;
            let client = WorkerClient::new(tarpc::client::Config::default(), transport(stream)).spawn();
            anyhow::Ok(client.health(tarpc::context::current()).await?)
        };
        let asked = tokio::time::timeout(PATIENCE, ask).await.unwrap_or_else(|_| bail!("it took longer than {} s", PATIENCE.as_secs()));
        let health = asked.with_context(|| format!("no answer from {place}"))?;
        let trouble = match health {
            health if health.is_draining => "it drains".to_owned(),
            health if health.session.is_none() => "no controller has taken it yet".to_owned(),
            health => health.trouble.unwrap_or_default(),
        };
        match trouble.as_str() {
            "" => Ok("ready".into()),
            trouble if is_ready => bail!("not ready: {trouble}"),
            trouble => Ok(format!("alive, not ready: {trouble}")),
        }
    })
}

/// Where what listens on `listen` (`host:port`) is reached from this machine.
fn here(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) => format!("127.0.0.1:{}", address.port()),
        Ok(address) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => format!("[::1]:{}", address.port()),
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::here;

    #[test]
    fn any_address_is_reached_on_loopback() {
        assert_eq!(here("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(here("[::]:8080"), "[::1]:8080");
        assert_eq!(here("192.0.2.7:8080"), "192.0.2.7:8080");
        assert_eq!(here("controller-1:8080"), "controller-1:8080");
    }
}
