//! How to reach the database: what the user says, made into what tokio-postgres takes. Nothing here is shown with its password.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::store::{Result, StoreError};
use crate::tls;

/// How long a connection over TCP may take to come about, for each host.
const CONNECT_MS_MAX: u64 = 3_000;
/// What was sent and is not acknowledged by the other machine for so long breaks the connection.
const UNACKNOWLEDGED_MS_MAX: u64 = 7_000;
const KEEPALIVE_IDLE_S: u64 = 10;
const KEEPALIVE_INTERVAL_S: u64 = 3;
const KEEPALIVE_RETRIES: u32 = 3;
/// Connections that the pool holds, if nobody says otherwise.
pub const POOL_MAX_DEFAULT: usize = 8;
/// A password file is read up to this size.
const PASSWORD_BYTES_MAX: usize = 4_096;

/// How to reach the database.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user@host:port/database?…`, or libpq's `key=value` form; may name several hosts.
    pub url: String,
    /// Read at the start; its first line is the password.
    pub password_file: Option<PathBuf>,
    /// The password from the environment, if it is there; the file goes before it.
    pub password: Option<String>,
    /// Authorities (PEM) of which one must have signed the server's certificate. Without it TLS is used only if the URL asks for it.
    pub ca_file: Option<PathBuf>,
    /// Connections that the pool holds at most; LISTEN has one more.
    pub pool_max: usize,
}

impl PostgresConfig {
    pub fn new(url: &str) -> PostgresConfig {
        PostgresConfig { url: url.into(), password_file: None, password: None, ca_file: None, pool_max: POOL_MAX_DEFAULT }
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = parse(&self.url).map_or_else(|_| "(unreadable)".into(), |config| place(&config));
        let PostgresConfig { password_file, ca_file, pool_max, .. } = self;
        let mut fields = f.debug_struct("PostgresConfig");
        fields.field("url", &shown).field("password_file", password_file).field("ca_file", ca_file).field("pool_max", pool_max).finish()
    }
}

/// A database that can be connected to.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: tokio_postgres::Config,
    /// None: in plain text.
    pub(super) tls: Option<MakeRustlsConnect>,
    /// For people: hosts and database, without user and password.
    pub(super) place: String,
}

impl Target {
    /// # Errors
    /// `Refused`, with what is wrong with the settings.
    pub(super) fn of(settings: &PostgresConfig) -> Result<Target> {
        let mut config = parse(&settings.url)?;
        if let Some(password) = password(settings)? {
            config.password(password);
        }
        let tls = match (&settings.ca_file, config.get_ssl_mode()) {
            (Some(_), SslMode::Disable) => return refuse("the database URL says sslmode=disable, but --database-ca-file asks for TLS"),
            (Some(file), _) => Some(tls::trusting_file(file)),
            (None, SslMode::Require) => Some(tls::trusting_system()),
            (None, _) => None,
        };
        let tls = tls.transpose().map_err(|error| StoreError::Refused(format!("{error:#}; name one with --database-ca-file")))?;
        // With TLS wanted, plain text is never fallen back to.
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        complete(&mut config);
        let place = place(&config);
        Ok(Target { config, tls: tls.map(MakeRustlsConnect::new), place })
    }
}

/// Fills in what the URL leaves open.
fn complete(config: &mut tokio_postgres::Config) {
    if config.get_hosts().len().max(config.get_hostaddrs().len()) > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite); // a standby can't serve a scheduler
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_millis(CONNECT_MS_MAX));
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(Duration::from_millis(UNACKNOWLEDGED_MS_MAX));
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_idle(Duration::from_secs(KEEPALIVE_IDLE_S));
        config.keepalives_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S));
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if config.get_application_name().is_none() {
        config.application_name("chrono-flow");
    }
}

fn password(settings: &PostgresConfig) -> Result<Option<String>> {
    let Some(file) = &settings.password_file else { return Ok(settings.password.clone()) };
    let refused = |why: &dyn fmt::Display| StoreError::Refused(format!("the password file {} {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| refused(&format!("can't be read: {error}")))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() && line.len() <= PASSWORD_BYTES_MAX => Ok(Some(line.to_owned())),
        _ => Err(refused(&"has no password in its first line")),
    }
}

/// Reads the URL. The parser's words are repeated only where they can't be a piece of a password.
fn parse(url: &str) -> Result<tokio_postgres::Config> {
    let options = url.to_ascii_lowercase();
    if ["sslmode=verify-ca", "sslmode=verify-full", "sslrootcert="].iter().any(|option| options.contains(option)) {
        return refuse(
            "in the database URL, sslmode=verify-… and sslrootcert are not understood: name the authority with --database-ca-file FILE, \
             which verifies the certificate and its host name, and leave them out",
        );
    }
    if let Some(option) = ["passfile", "sslcert", "sslkey", "service"].iter().find(|option| options.contains(&format!("{option}="))) {
        return refuse(&format!("in the database URL, {option} is not understood; for a password there is --database-password-file"));
    }
    let config: tokio_postgres::Config = url.parse().map_err(|error: tokio_postgres::Error| {
        let said = std::error::Error::source(&error).map(ToString::to_string).filter(|said| said.starts_with("invalid value for option"));
        let hint = "expected postgres://user@host:port/database; special characters in a password are percent-encoded, or put it into \
                    --database-password-file";
        StoreError::Refused(format!("the database URL can't be read{}: {hint}", said.map_or(String::new(), |said| format!(" ({said})"))))
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return refuse("the database URL names no host: expected postgres://user@host:port/database");
    }
    Ok(config)
}

fn place(config: &tokio_postgres::Config) -> String {
    let port = |index: usize| config.get_ports().get(index).or(config.get_ports().first()).copied().unwrap_or(5432);
    let hosts: Vec<String> = match config.get_hosts() {
        [] => config.get_hostaddrs().iter().enumerate().map(|(index, at)| format!("{at}:{}", port(index))).collect(),
        hosts => hosts.iter().enumerate().map(|(index, host)| format!("{}:{}", name(host), port(index))).collect(),
    };
    format!("{}/{}", hosts.join(","), config.get_dbname().or(config.get_user()).unwrap_or("postgres"))
}

fn name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

fn refuse<T>(why: &str) -> Result<T> {
    Err(StoreError::Refused(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(url: &str) -> String {
        match Target::of(&PostgresConfig::new(url)) {
            Err(StoreError::Refused(why)) => why,
            Err(other) => panic!("{other}"),
            Ok(target) => panic!("{}", target.place),
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_to_do() {
        assert!(why("postgres://u@h/d?sslmode=verify-full").contains("--database-ca-file"));
        assert!(why("postgres://u@h/d?sslrootcert=/ca.pem").contains("--database-ca-file"));
        assert!(why("host=h passfile=/x").contains("--database-password-file"));
        assert!(why("postgres://u@h/d?target_session_attrs=primary").contains("target_session_attrs"));
        assert!(why("postgres://").contains("no host"));
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in ["postgres://u:se?cret=x@h/d", "postgres://u:se#cret@h/d", "postgres://u:se%zzcret@h/d", "host=h password='secret"] {
            if let Err(error) = Target::of(&PostgresConfig::new(url)) {
                assert!(!error.to_string().contains("cret"), "{error}");
            }
        }
        let config = PostgresConfig { password: Some("other".into()), ..PostgresConfig::new("postgres://u:secret@h:1/d") };
        let shown = format!("{config:?}");
        assert!(shown.contains("h:1/d") && !shown.contains("secret") && !shown.contains("other"), "{shown}");
    }

    #[test]
    fn of_several_hosts_the_one_that_writes_is_wanted() {
        let attributes = |url: &str| Target::of(&PostgresConfig::new(url)).map(|target| target.config.get_target_session_attrs());
        assert_eq!(attributes("postgres://u@a,b/d"), Ok(TargetSessionAttrs::ReadWrite));
        assert_eq!(attributes("postgres://u@a,b/d?target_session_attrs=read-only"), Ok(TargetSessionAttrs::ReadOnly));
        assert_eq!(attributes("postgres://u@a/d"), Ok(TargetSessionAttrs::Any));
    }
}
