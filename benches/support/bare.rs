//! The yardstick: tokio, and nothing between it and the command.

use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use futures::StreamExt;
use tokio::process::Command;

/// `sh -c` with its output captured.
pub async fn spawn(command: &str, env: Option<(&str, &str)>) -> Result<()> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).envs(env).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ensure!(shell.output().await?.status.success(), "`{command}` failed");
    Ok(())
}

/// Runs `command` so many times, so many at once; answers how many ended a second.
pub async fn rate(command: &str, runs: usize, at_once: usize) -> Result<f64> {
    let started = Instant::now();
    let mut ends = futures::stream::iter(0..runs).map(|_| tokio::spawn(spawn_owned(command.to_owned()))).buffer_unordered(at_once);
    while let Some(end) = ends.next().await {
        end??;
    }
    Ok(runs as f64 / started.elapsed().as_secs_f64())
}

async fn spawn_owned(command: String) -> Result<()> {
    spawn(&command, None).await
}

/// Starts `command` at an instant of the wall clock.
pub async fn at(instant: SystemTime, command: String, env: (String, String)) -> Result<()> {
    let wait = instant.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    tokio::time::sleep_until(tokio::time::Instant::now() + wait).await;
    spawn(&command, Some((&env.0, &env.1))).await
}

pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
