//! What the log says of runs.

use std::sync::Mutex;

use log::{LevelFilter, Log, Metadata, Record};

use crate::support::{World, stage, until};

static LINES: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

struct Collector;

impl Log for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }
    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().unwrap().push((record.target().to_string(), record.args().to_string()));
        }
    }
    fn flush(&self) {}
}

/// The lines that name a run: (target, text).
fn lines_of(name: &str) -> Vec<(String, String)> {
    LINES.lock().unwrap().iter().filter(|(_, text)| text.contains(name)).cloned().collect()
}

#[tokio::test]
async fn the_log_tells_start_output_and_end_and_nothing_of_the_environments_values() {
    log::set_logger(&Collector).unwrap();
    log::set_max_level(LevelFilter::Trace);
    let world = World::new().await;
    let mut stage = stage(r"printf 'one\ntwo\033[31m\n'; echo three >&2; printf 'last'; test -n $PASSWORD; exit 7");
    stage.job_name = "Date \"Printer\"".into();
    stage.task.env.insert("PASSWORD".into(), "correct-horse".into());
    let run = stage.run;
    world.stage(vec![stage]).await;
    world.leader.ended(run).await;
    let name = run.to_string();
    until("the end is logged", || lines_of(&name).iter().any(|(_, text)| text.contains("failed"))).await;
    let lines = lines_of(&name);
    let prefix = format!("job \"Date \\\"Printer\\\"\" run {run}");
    assert!(lines.iter().all(|(_, text)| text.starts_with(&prefix)), "{lines:#?}");
    assert!(lines[0].1.contains("started (attempt 1"), "{lines:#?}");
    let mut output: Vec<&str> = lines.iter().filter(|(target, _)| target == "job").map(|(_, text)| &text[prefix.len()..]).collect();
    output.sort_unstable();
    assert_eq!(output, [": last", ": one", ": three", ": two\\u{1b}[31m"]);
    assert!(lines.last().unwrap().1.contains(" failed, exit code 7, "), "{lines:#?}");
    assert!(!LINES.lock().unwrap().iter().any(|(_, text)| text.contains("correct-horse")));
}
