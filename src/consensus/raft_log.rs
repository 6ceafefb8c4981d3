//! raft's own log lines, under the target `raft`. What raft calls information is noise in ours: it is let through at `debug`.

use slog::{Discard, Drain, Level, Logger, Never, OwnedKVList, Record, o};

struct ToLog;

impl Drain for ToLog {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        let level = match record.level() {
            Level::Critical | Level::Error => log::Level::Error,
            Level::Warning => log::Level::Warn,
            Level::Info => log::Level::Debug,
            Level::Debug | Level::Trace => log::Level::Trace,
        };
        log::log!(target: "raft", level, "{}", record.msg());
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error | Level::Warning => true,
            Level::Info => log::log_enabled!(target: "raft", log::Level::Debug),
            Level::Debug | Level::Trace => log::log_enabled!(target: "raft", log::Level::Trace),
        }
    }
}

/// The logger that raft is given.
pub(super) fn logger() -> Logger {
    if log::max_level() == log::LevelFilter::Off { Logger::root(Discard, o!()) } else { Logger::root(ToLog, o!()) }
}
