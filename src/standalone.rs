//! All roles in one process.
pub fn run(_config: crate::config::Config) -> anyhow::Result<()> {
    anyhow::bail!("wiring follows")
}
