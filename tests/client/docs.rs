//! docs/cli.md knows every command.

use chrono_flow::cli::client::ClientCli;
use clap::{Command, CommandFactory};

use crate::shell::Shell;

/// `job list`, `job show` …
fn names(command: &Command, before: &str, into: &mut Vec<String>) {
    for inner in command.get_subcommands() {
        let name = format!("{before}{}", inner.get_name());
        if inner.has_subcommands() { names(inner, &format!("{name} "), into) } else { into.push(name) }
    }
}

#[test]
fn every_command_stands_in_the_document() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).unwrap();
    let mut all = Vec::new();
    names(&ClientCli::command(), "", &mut all);
    assert!(all.len() >= 20, "{all:?}");
    let missing: Vec<&String> = all.iter().filter(|name| !document.contains(&format!("`{name}"))).collect();
    assert!(missing.is_empty(), "docs/cli.md lacks {missing:?}");
}

#[test]
fn help_names_the_commands_and_the_exit_codes() {
    let shell = Shell::at("http://127.0.0.1:1");
    let help = shell.ok(&["--help"]);
    for noun in ["job", "run", "worker", "cluster", "schedule", "--data-dir"] {
        assert!(help.contains(noun), "{noun}\n{help}");
    }
    for args in [&["job", "--help"][..], &["cluster", "--help"], &["help", "job"]] {
        assert!(shell.ok(args).contains("Exit codes: 0 done"), "{args:?}");
    }
}
