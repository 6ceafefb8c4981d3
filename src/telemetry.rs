//! Logging: env_logger, one line an event, to standard error. `RUST_LOG` filters as usual; jobs' output has the target `job`.

use std::io::Write;

use crate::clock;

/// Libraries whose `info` is about every call.
const QUIET: [&str; 3] = ["tarpc", "refinery_core", "raft"];

pub fn start() {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(log::LevelFilter::Info);
    for module in QUIET {
        builder.filter_module(module, log::LevelFilter::Warn);
    }
    builder.parse_default_env().format(|out, record| {
        let level = record.level();
        let style = out.default_level_style(level);
        let mut line = record.args().to_string();
        // An event is a line, whatever somebody put into a name or an error.
        if line.contains(['\n', '\r']) {
            line = line.replace('\n', "\\n").replace('\r', "\\r");
        }
        writeln!(out, "{} {style}{level:<5}{style:#} {line}", Stamp(clock::wall_now().0))
    });
    if builder.try_init().is_err() {
        log::debug!("a logger was there already");
    }
}

/// RFC 3339 with always three digits of a second, so that lines stand in columns.
struct Stamp(i64);

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whole = crate::model::UnixMs(self.0 - self.0.rem_euclid(1000)).to_string();
        write!(f, "{}.{:03}Z", whole.trim_end_matches('Z'), self.0.rem_euclid(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_have_one_width() {
        assert_eq!(Stamp(1_790_000_000_005).to_string(), "2026-09-21T14:13:20.005Z");
        assert_eq!(Stamp(1_790_000_000_000).to_string(), "2026-09-21T14:13:20.000Z");
    }
}
