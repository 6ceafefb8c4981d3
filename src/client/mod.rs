//! The client commands: what people and scripts ask of a server, over its REST API alone.
//!
//! `api` speaks HTTP, tries again where that is safe, and goes from one server to the next; `failure` is all that can go wrong, with its
//! sentence and exit code; `screen` shows answers as tables or passes their JSON on as it is. One file for each noun holds its commands.
//!
//! Invariants:
//! - A request whose repetition could do something twice is sent again only when it surely did not arrive.
//! - With `-o json`, standard output gets one JSON document and nothing else.
//! - A reader that goes away (`| head`) ends a command quietly.

mod api;
mod cluster;
mod editor;
mod failure;
mod follow;
mod job_fields;
mod jobs;
mod runs;
mod schedules;
mod screen;
mod times;

use std::process::ExitCode;

use crate::cli::client::{ClientCommand, ClientOptions};

use api::Api;
use failure::Failure;
use screen::Screen;

/// Does what a client command asks for; answers the program's exit code.
pub fn run(options: ClientOptions, command: ClientCommand) -> ExitCode {
    let screen = Screen::new(options.output);
    let outcome = match command {
        // Needs no server.
        ClientCommand::Schedule(command) => schedules::run(&screen, command),
        command => Api::new(&options.servers).and_then(|api| match command {
            ClientCommand::Job(command) => jobs::run(&api, &screen, command),
            ClientCommand::Run(command) => runs::run(&api, &screen, command),
            ClientCommand::Worker(_) => cluster::workers(&api, &screen),
            ClientCommand::Cluster(command) => cluster::run(&api, &screen, command),
            ClientCommand::Schedule(command) => schedules::run(&screen, command),
        }),
    };
    let failure = match (outcome, screen.flush()) {
        // That nobody reads the rest doesn't change how it ended.
        (Ok(code), Ok(()) | Err(Failure::Closed)) => return ExitCode::from(code),
        (Err(failure), _) | (Ok(_), Err(failure)) => failure,
    };
    screen.complain(&failure);
    ExitCode::from(failure.exit_code())
}

/// How a command ended that did not fail: 0, or 1 where what it waited for did not succeed.
type Outcome = Result<u8, Failure>;
