//! Spawns a second through the guardian, beside the bare loop; and again once this process, which stands for the agent, holds 1 GB.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, ensure};
use chrono_flow::agent::guardian::{End, Guardian, Launch, Notice, Spawn};
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use crate::support::figures::median;
use crate::support::{EXE, Effort, bare, directory};

const COMMAND: &str = ":";
const AT_ONCE: usize = 64;
const LARGE_BYTES: usize = 1 << 30;
const PAGE_BYTES: usize = 4096;

pub fn run(effort: Effort) -> Result<()> {
    let runs = effort.pick(4_000, 2_000);
    println!("\n## Guardian: `sh -c {COMMAND}` with captured output, {AT_ONCE} at once, spawns/s\n");
    println!("| agent | guardian | bare loop | guardian by bare |");
    println!("|-------|---------:|----------:|-----------------:|");
    let dir = directory()?;
    let runtime = bare::runtime()?;
    let launched = Guardian::launch(&Launch { exe: EXE.into(), data_dir: dir.path().to_owned() })?;
    let (guardian, notices) = runtime.block_on(async { launched.attach() })?;
    guardian.set_lease(u64::MAX, u64::MAX);
    let ends = Ends::default();
    runtime.spawn(ends.clone().hand_out(notices));
    let mut next_token = 1;
    let mut compare = |agent: &str| -> Result<()> {
        let (mut ours, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds() {
            ours.push(runtime.block_on(rate(&guardian, &ends, next_token, runs))?);
            next_token += runs as u64;
            bares.push(runtime.block_on(bare::rate(COMMAND, runs, AT_ONCE))?);
        }
        let ratio = median(ours.iter().zip(&bares).map(|(ours, bare)| ours / bare).collect());
        println!("| {agent} | {:>8.0} | {:>9.0} | {:>14.0} % |", median(ours), median(bares), ratio * 100.0);
        Ok(())
    };
    compare("small")?;
    let mut large = vec![0u8; LARGE_BYTES];
    large.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
    compare("1 GB ")?;
    ensure!(std::hint::black_box(&large)[0] == 1);
    println!("\naim: 90 % or more");
    runtime.block_on(guardian.shutdown());
    Ok(())
}

async fn rate(guardian: &Guardian, ends: &Ends, first_token: u64, runs: usize) -> Result<f64> {
    let started = Instant::now();
    let tokens = first_token..first_token + runs as u64;
    let mut running = futures::stream::iter(tokens)
        .map(|token| {
            let (guardian, ends) = (guardian.clone(), ends.clone());
            tokio::spawn(async move { one(&guardian, &ends, token).await })
        })
        .buffer_unordered(AT_ONCE);
    while let Some(end) = running.next().await {
        ensure!(end?? == End::Code(0), "a command failed");
    }
    Ok(runs as f64 / started.elapsed().as_secs_f64())
}

async fn one(guardian: &Guardian, ends: &Ends, token: u64) -> Result<End> {
    let ((mut stdout, out), (mut stderr, err)) = (output()?, output()?);
    let end = ends.of(token);
    let spawn = Spawn {
        token,
        command: COMMAND.to_owned(),
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        cwd: None,
        stdout: out,
        stderr: err,
        not_after_boot_ms: u64::MAX,
        kill_on_lease_end: false,
        kill_grace_ms: 1_000,
    };
    guardian.spawn(spawn).await?;
    let mut said = Vec::new();
    stdout.read_to_end(&mut said).await?;
    stderr.read_to_end(&mut said).await?;
    Ok(end.await?)
}

fn output() -> Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    // A pipe that this process made, so nobody else relies on its being blocking.
    Ok((pipe::Receiver::from_file(File::from(OwnedFd::from(reader)))?, writer.into()))
}

/// Who waits for the end of which run.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<HashMap<u64, oneshot::Sender<End>>>>);

impl Ends {
    fn of(&self, token: u64) -> oneshot::Receiver<End> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token, sender);
        receiver
    }

    async fn hand_out(self, mut notices: mpsc::Receiver<Notice>) {
        let mut exits = HashMap::new();
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::Exited { token, end, .. } => drop(exits.insert(token, end)),
                Notice::GroupGone { token } => {
                    let waits = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
                    if let (Some(waits), Some(end)) = (waits, exits.remove(&token)) {
                        let _ = waits.send(end);
                    }
                }
                Notice::GuardianLost => return,
            }
        }
    }
}
