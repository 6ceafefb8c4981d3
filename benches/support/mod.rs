//! What the benches have in common: the yardsticks, the figures, and the choice of sections.

pub mod bare;
pub mod burst;
pub mod figures;
pub mod starts;

use std::time::Duration;

use anyhow::{Result, bail};
use chrono_flow::model::UnixMs;

pub const EXE: &str = env!("CARGO_BIN_EXE_chrono-flow");

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    pub is_quick: bool,
}

impl Effort {
    /// Rounds of each kind.
    pub fn rounds(self) -> usize {
        self.pick(3, 1)
    }

    pub fn pick<T>(self, full: T, quick: T) -> T {
        if self.is_quick { quick } else { full }
    }
}

pub type Section = fn(Effort) -> Result<()>;

/// Runs the sections that the command line names, or all.
pub fn run(sections: &[(&str, Section)]) -> Result<()> {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_quick = words.iter().any(|word| word == "quick");
    let wanted: Vec<&String> = words.iter().filter(|word| *word != "quick").collect();
    if let Some(unknown) = wanted.iter().find(|word| sections.iter().all(|(name, _)| name != **word)) {
        let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
        bail!("there is no section `{unknown}`; there are {}, and `quick`", names.join(", "));
    }
    println!("{} cores, load {}", std::thread::available_parallelism()?, figures::load()?);
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            section(Effort { is_quick })?;
        }
    }
    println!("\nload at the end {}", figures::load()?);
    Ok(())
}

/// A directory on the disk that holds the build.
pub fn directory() -> Result<tempfile::TempDir> {
    Ok(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

pub fn now() -> UnixMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMs(since.as_millis() as i64)
}

pub fn sleep_until(instant: UnixMs) {
    std::thread::sleep(Duration::from_millis(instant.since(now()).max(0) as u64));
}
