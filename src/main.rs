//! The program: whoever it is asked to be, its log, its exit code.

use std::process::ExitCode;

use chrono_flow::{agent::guardian, cli, client, config::Config, standalone, telemetry};
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
    let cli = cli::Cli::parse();
    telemetry::start();
    let config = match cli.flags.config(std::env::var("CHRONO_FLOW_DATABASE_PASSWORD").ok()) {
        Ok(config) => config,
        Err(wrong) => {
            eprintln!("error: {wrong}\n\nFor more information, try '--help'.");
            return ExitCode::from(2);
        }
    };
    let ended = match config {
        Config::Standalone(config) => standalone::run(config),
        Config::Controller(_) | Config::Worker(_) => unreachable!(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
