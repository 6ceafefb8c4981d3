use std::process::ExitCode;

use chrono_flow::agent::guardian;

fn main() -> ExitCode {
    // First of all, and before anything is allocated or started: the guardian must stay tiny.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == guardian::SUBCOMMAND) {
        return guardian::run_process();
    }
    ExitCode::SUCCESS
}
