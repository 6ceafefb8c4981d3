//! Typed settings: what the command line and the environment said, checked once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::limits;

/// Everything that a standalone process is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub data_dir: PathBuf,
    /// host:port
    pub http_listen: String,
    /// Further names by which clients may call the API in their Host header, beside loopback and what `http_listen` says.
    pub http_hosts: Vec<String>,
    pub slots: u32,
    pub labels: BTreeMap<String, String>,
    pub lookahead_ms: i64,
    pub clock_skew_ms: i64,
    pub drain_s: u64,
    pub history_days: u32,
    pub history_runs: u64,
    pub unrecorded_max: u64,
}

impl Config {
    /// Says what is wrong, by the flag's name, and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let within = |flag: &str, value: i128, from: i128, to: i128, unit: &str| {
            if (from..=to).contains(&value) { Ok(()) } else { Err(format!("--{flag} is {value}; allowed: {from} to {to}{unit}")) }
        };
        within("slots", self.slots.into(), 1, limits::WORKER_SLOTS_MAX.into(), "")?;
        // A fire must be staged before the permit that lets it start can run out (PROTOCOL C5).
        within("lookahead-ms", self.lookahead_ms.into(), 0, (limits::START_PERMIT_MS - limits::HEARTBEAT_MS).into(), " ms")?;
        within("max-clock-skew-ms", self.clock_skew_ms.into(), 10, 60_000, " ms")?;
        within("drain-s", self.drain_s.into(), 0, 86_400, " s")?;
        within("history-days", self.history_days.into(), 1, 36_500, " days")?;
        within("history-runs", self.history_runs.into(), 1, i64::MAX.into(), "")?;
        within("max-unrecorded", self.unrecorded_max.into(), 1_000, 100_000_000, "")?;
        let (_, port) = self.http_listen.rsplit_once(':').ok_or(format!("--http-listen is `{}`; it takes HOST:PORT", self.http_listen))?;
        port.parse::<u16>().map_err(|_| format!("--http-listen has the port `{port}`; allowed: 0 to 65535"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            data_dir: "data".into(),
            http_listen: "127.0.0.1:8080".into(),
            http_hosts: Vec::new(),
            slots: 64,
            labels: BTreeMap::new(),
            lookahead_ms: 2_000,
            clock_skew_ms: 500,
            drain_s: 10,
            history_days: 30,
            history_runs: 10_000_000,
            unrecorded_max: 1_000_000,
        }
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_is_allowed() {
        assert_eq!(config().validate(), Ok(()));
        let says = |config: Config| config.validate().unwrap_err();
        assert_eq!(says(Config { slots: 0, ..config() }), "--slots is 0; allowed: 1 to 100000");
        assert_eq!(says(Config { lookahead_ms: 5_000, ..config() }), "--lookahead-ms is 5000; allowed: 0 to 4000 ms");
        assert_eq!(says(Config { http_listen: "8080".into(), ..config() }), "--http-listen is `8080`; it takes HOST:PORT");
        assert_eq!(says(Config { http_listen: "a:b".into(), ..config() }), "--http-listen has the port `b`; allowed: 0 to 65535");
    }
}
