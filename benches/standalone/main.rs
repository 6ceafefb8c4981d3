//! What the standalone process costs and how exact it is, beside a bare loop that starts the same commands in the same way.
//!
//! `cargo bench --bench standalone` runs all sections; names of sections as arguments run only those, and `quick` runs fewer and shorter
//! rounds: `cargo bench --bench standalone -- quick lateness`.
//!
//! Rounds of ours and of the bare loop take turns, so that a machine that has other work too slows both. Figures are medians of rounds.

mod bare;
mod figures;
mod guardian;
mod jobs;
mod lateness;
mod server;
mod throughput;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    pub is_quick: bool,
}

impl Effort {
    /// Rounds of each kind.
    pub fn rounds(self) -> usize {
        if self.is_quick { 1 } else { 3 }
    }

    pub fn pick<T>(self, full: T, quick: T) -> T {
        if self.is_quick { quick } else { full }
    }
}

type Section = fn(Effort) -> anyhow::Result<()>;

const SECTIONS: [(&str, Section); 4] =
    [("guardian", guardian::run), ("throughput", throughput::run), ("lateness", lateness::run), ("jobs", jobs::run)];

fn main() -> anyhow::Result<()> {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_quick = words.iter().any(|word| word == "quick");
    let wanted: Vec<&String> = words.iter().filter(|word| *word != "quick").collect();
    if let Some(unknown) = wanted.iter().find(|word| SECTIONS.iter().all(|(name, _)| name != **word)) {
        let names = SECTIONS.map(|(name, _)| name).join(", ");
        anyhow::bail!("there is no section `{unknown}`; there are {names}, and `quick`");
    }
    println!("{} cores, load {}", std::thread::available_parallelism()?, figures::load()?);
    for (name, section) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|word| *word == name) {
            section(Effort { is_quick })?;
        }
    }
    println!("\nload at the end {}", figures::load()?);
    Ok(())
}
