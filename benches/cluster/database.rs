//! PostgreSQL: a server for one section, and what the bench reads and writes there by itself.

use anyhow::Result;
use chrono_flow::model::{JobSpec, UnixMs};
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

use crate::postgres::Postgres;
use crate::support::figures::{Cpu, children_of};
use crate::support::{bare, now};

/// Jobs that one transaction brings in.
const JOBS_PER_BATCH: usize = 10_000;
/// As `store::postgres` writes a new job, many at once: one by one, each waits for its own fsync.
const INSERT: &str = "INSERT INTO jobs (id, name, is_enabled, labels, revision, change_seq, created_at, updated_at, effective_from, spec)
    SELECT $1 + n, name, true, '{}', 1, $2 + n, $3, $3, $3, spec::json
    FROM unnest($4::text[], $5::text[]) WITH ORDINALITY AS new (name, spec, n)";
const ADVANCE: &str = "WITH advanced AS (UPDATE meta SET change_seq = $1, job_id = $2 RETURNING change_seq)
    SELECT pg_notify('chrono_flow_jobs', change_seq::text) FROM advanced";

/// A server with the settings that it has by default, so that a commit is on disk when it is answered.
pub fn server() -> Postgres {
    Postgres::start_with(&["shared_buffers=128MB", "max_connections=100"])
}

/// Processor time of the server and its backends, those that have gone included, in milliseconds.
pub fn cpu_ms(server: &Postgres) -> Result<f64> {
    let text = std::fs::read_to_string(server.data().join("postmaster.pid"))?;
    let pid: u32 = text.lines().next().unwrap_or_default().parse()?;
    let server = Cpu::of(pid)?;
    let backends = children_of(pid)?.into_iter().filter_map(|pid| Cpu::of(pid).ok());
    Ok(server.own_ms + server.children_ms + backends.map(|cpu| cpu.own_ms).sum::<f64>())
}

pub struct Database {
    runtime: Runtime,
    client: Client,
}

impl Database {
    pub fn open(url: &str) -> Result<Database> {
        let runtime = bare::runtime()?;
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls))?;
        runtime.spawn(connection);
        Ok(Database { runtime, client })
    }

    /// Brings jobs in, in a few large transactions.
    pub fn populate(&mut self, jobs: impl Iterator<Item = JobSpec>) -> Result<()> {
        let jobs: Vec<JobSpec> = jobs.collect();
        jobs.chunks(JOBS_PER_BATCH).try_for_each(|jobs| self.insert(jobs))
    }

    fn insert(&mut self, jobs: &[JobSpec]) -> Result<()> {
        let names: Vec<&str> = jobs.iter().map(|job| &*job.name).collect();
        let specs: Vec<String> = jobs.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let count = jobs.len() as i64;
        self.runtime.block_on(async {
            let transaction = self.client.transaction().await?;
            let counters = transaction.query_one("SELECT change_seq, job_id FROM meta FOR UPDATE", &[]).await?;
            let (seq, id): (i64, i64) = (counters.get(0), counters.get(1));
            transaction.execute(INSERT, &[&id, &seq, &now().0, &names, &specs]).await?;
            transaction.execute(ADVANCE, &[&(seq + count), &(id + count)]).await?;
            Ok(transaction.commit().await?)
        })
    }

    /// Of the jobs whose names begin so: how many runs have succeeded, the first start and the last end.
    pub fn history(&self, names: &str) -> Result<(usize, Option<(UnixMs, UnixMs)>)> {
        let sql = "SELECT count(*), min(started_at), max(finished_at) FROM runs WHERE state = 'succeeded' AND job_name LIKE $1 || ' %'";
        let row = self.runtime.block_on(self.client.query_one(sql, &[&names]))?;
        let ends: (Option<i64>, Option<i64>) = (row.get(1), row.get(2));
        Ok((row.get::<_, i64>(0) as usize, ends.0.zip(ends.1).map(|(first, last)| (UnixMs(first), UnixMs(last)))))
    }

    pub fn execute(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        Ok(self.runtime.block_on(self.client.execute(sql, values))?)
    }

    pub fn prepare(&self, sql: &str) -> Result<Statement> {
        Ok(self.runtime.block_on(self.client.prepare(sql))?)
    }

    pub fn execute_prepared(&self, statement: &Statement, values: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        Ok(self.runtime.block_on(self.client.execute(statement, values))?)
    }
}
