//! The witness: a file to which commands append what they are, one line at a time, each with a single O_APPEND write.

use std::path::{Path, PathBuf};

use crate::api::parse_ms;
use crate::wait::eventually;

/// A line of the witness.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// What the command says of itself: `start`, `end`, …
    pub word: String,
    pub job: i64,
    pub at_ms: i64,
    pub attempt: u64,
    pub run: String,
    /// The name of the directory in which the command ran: each worker has its own.
    pub place: String,
    /// The command's own clock when it wrote the line.
    pub clock_ms: i64,
}

pub struct Witness {
    path: PathBuf,
}

impl Witness {
    pub fn new(folder: impl AsRef<Path>) -> Witness {
        Witness { path: folder.as_ref().join("witness") }
    }

    /// A command that says `start` when it begins. In `rest`, `w WORD` says more.
    pub fn command(&self, rest: &str) -> String {
        let fields = r#""$1" "$CHRONO_FLOW_JOB_ID" "$CHRONO_FLOW_SCHEDULED_AT" "$CHRONO_FLOW_ATTEMPT" "$CHRONO_FLOW_RUN_ID" "${PWD##*/}" "$(date +%s.%N)""#;
        format!("w() {{ printf '%s %s %s %s %s %s %s\\n' {fields} >> '{}'; }}\nw start\n{rest}", self.path.display())
    }

    pub fn lines(&self) -> Vec<Line> {
        read(&self.path)
    }

    pub fn starts_of(&self, job: &serde_json::Value) -> Vec<Line> {
        let id = job["id"].as_i64().expect("an id");
        self.lines().into_iter().filter(|line| line.job == id && line.word == "start").collect()
    }

    /// Waits until a job was started `count` times.
    #[track_caller]
    pub fn wait_starts(&self, job: &serde_json::Value, count: usize) -> Vec<Line> {
        eventually("the job is started", || Some(self.starts_of(job)).filter(|starts| starts.len() >= count))
    }

    /// Waits until a run has said a word.
    #[track_caller]
    pub fn wait_word(&self, run: &str, word: &str) -> Line {
        eventually("the command says its word", || self.lines().into_iter().find(|line| line.run == run && line.word == word))
    }
}

fn read(path: &Path) -> Vec<Line> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.expect("the witness is text"),
    };
    text.lines().map(read_line).collect()
}

fn read_line(line: &str) -> Line {
    let fields: Vec<&str> = line.split(' ').collect();
    let [word, job, at, attempt, run, place, clock] = fields[..] else { panic!("not a line of the witness: {line:?}") };
    let clock_s: f64 = clock.parse().unwrap_or_else(|_| panic!("no clock: {line:?}"));
    Line {
        word: word.to_owned(),
        job: job.parse().unwrap_or_else(|_| panic!("no job: {line:?}")),
        at_ms: parse_ms(at),
        attempt: attempt.parse().unwrap_or_else(|_| panic!("no attempt: {line:?}")),
        run: run.to_owned(),
        place: place.to_owned(),
        clock_ms: (clock_s * 1000.0) as i64,
    }
}
