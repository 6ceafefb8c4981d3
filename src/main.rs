//! The program: whoever it is asked to be, its log, its exit code.

use std::io::Write;
use std::process::ExitCode;

use chrono_flow::config::{CLUSTER_SECRET_VARIABLE, Config, DATABASE_PASSWORD_VARIABLE, Secrets};
use chrono_flow::{agent::guardian, cli, client, controller, health, standalone, telemetry, worker};
use clap::Parser;

fn main() -> ExitCode {
    // First of all, and before anything is allocated or started: the guardian must stay tiny.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == guardian::SUBCOMMAND) {
        return guardian::run_process();
    }
    // Before the flags of a server, and what the environment says of them, are looked at.
    if cli::client::is_asked_for(std::env::args_os().skip(1)) {
        let cli::client::ClientCli { options, command } = cli::client::ClientCli::parse();
        return client::run(options, command);
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let secrets = Secrets { cluster_secret: variable(CLUSTER_SECRET_VARIABLE), database_password: variable(DATABASE_PASSWORD_VARIABLE) };
    let is_first = |word: &str| std::env::args_os().nth(1).is_some_and(|arg| arg == word);
    if is_first("migrate") {
        let cli::MigrateCommand::Migrate(database) = cli::MigrateCli::parse().command;
        return migrate(database, secrets);
    }
    if is_first("healthcheck") {
        let cli::HealthcheckCommand::Healthcheck(check) = cli::HealthcheckCli::parse().command;
        let is_ready = check.ready;
        return tell(check.flags.config(secrets).map_err(anyhow::Error::msg).and_then(|config| health::check(&config, is_ready)));
    }
    let cli = cli::Cli::parse();
    telemetry::start();
    let config = match cli.flags.config(secrets) {
        Ok(config) => config,
        Err(wrong) => {
            eprintln!("error: {wrong}\n\nFor more information, try '--help'.");
            return ExitCode::from(2);
        }
    };
    let ended = match config {
        Config::Standalone(config) => standalone::run(config),
        Config::Controller(config) => controller::run(config),
        Config::Worker(config) => worker::run(config),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn migrate(database: cli::DatabaseFlags, secrets: Secrets) -> ExitCode {
    tell(database.config(secrets.database_password).map_err(anyhow::Error::msg).and_then(|database| controller::migrate(&database)))
}

/// One sentence for whoever asked.
fn tell(outcome: anyhow::Result<String>) -> ExitCode {
    match outcome {
        Ok(done) => {
            // A reader that has gone away is no failure of what was done.
            let _ = writeln!(std::io::stdout(), "{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
