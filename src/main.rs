//! The program: whoever it is asked to be, its log, its exit code.

use std::process::ExitCode;

use chrono_flow::{agent::guardian, cli, client, config::Config, controller, standalone, telemetry, worker};
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
    let password = || std::env::var("CHRONO_FLOW_DATABASE_PASSWORD").ok();
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "migrate") {
        let cli::MigrateCommand::Migrate(database) = cli::MigrateCli::parse().command;
        return migrate(database, password());
    }
    let cli = cli::Cli::parse();
    telemetry::start();
    let config = match cli.flags.config(password()) {
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

fn migrate(database: cli::DatabaseFlags, password: Option<String>) -> ExitCode {
    let migrated = database.config(password).map_err(anyhow::Error::msg).and_then(|database| controller::migrate(&database));
    match migrated {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
