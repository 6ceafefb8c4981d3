//! `chrono-flow cluster …` and `chrono-flow worker …`

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::client::ClusterCommand;

use super::Outcome;
use super::api::{Answer, Api, Ask};
use super::failure::Failure;
use super::screen::{Screen, note, text};

/// Rest between two looks at a new member, and between two requests for it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub fn run(api: &Api, screen: &Screen, command: ClusterCommand) -> Outcome {
    match command {
        ClusterCommand::Status => show(screen, &api.get("/cluster")?),
        ClusterCommand::Add { id, address } => add(api, screen, id, &address),
        ClusterCommand::Remove { id } => {
            remove(api, id)?;
            if !screen.is_json() {
                screen.line(format_args!("controller {id} is no member any more; stop it if it still runs"))?;
            }
            Ok(0)
        }
        ClusterCommand::Replace { id, address } => replace(api, screen, id, address),
        ClusterCommand::Transfer { id } => {
            let ask = Ask::send("POST", "/cluster/transfer", Some(id.map_or(json!({}), |id| json!({"to": id}))));
            // To a named member, twice is the same as once.
            let answer = api.call(&if id.is_some() { ask.repeatable() } else { ask })?;
            if screen.is_json() {
                screen.json(&answer.text)?;
            } else {
                let leader = answer.json()?["leader"].clone();
                let leader = if leader.is_null() { "nobody yet".to_owned() } else { format!("controller {leader}") };
                screen.line(format_args!("leadership is handed over; leader: {leader}"))?;
            }
            Ok(0)
        }
    }
}

pub fn workers(api: &Api, screen: &Screen) -> Outcome {
    let answer = api.get("/workers")?;
    if screen.is_json() {
        screen.json(&answer.text)?;
        return Ok(0);
    }
    let workers = answer.json()?;
    let row = |worker: &Value| {
        let mut row: Vec<String> =
            ["id", "address", "state", "running", "staged", "slots", "labels"].iter().map(|name| text(&worker[*name])).collect();
        row.push(screen.when(&worker["lease_expires_at"]));
        row
    };
    let heading = ["ID", "ADDRESS", "STATE", "#RUNNING", "#STAGED", "#SLOTS", "LABELS", "LEASE ENDS"];
    screen.table(&heading, workers.as_array().into_iter().flatten().map(row).collect())?;
    Ok(0)
}

fn show(screen: &Screen, answer: &Answer) -> Outcome {
    if screen.is_json() {
        screen.json(&answer.text)?;
        return Ok(0);
    }
    let cluster = answer.json()?;
    let leader = if cluster["leader"].is_null() { "none is known".to_owned() } else { text(&cluster["leader"]) };
    screen.details(&[
        ("cluster", text(&cluster["cluster_id"])),
        ("leader", leader),
        ("term", text(&cluster["term"])),
        ("committed", text(&cluster["commit"])),
        ("applied", text(&cluster["applied"])),
    ])?;
    screen.line("")?;
    let row = |member: &Value| {
        let reachable = if member["reachable"] == true { "yes" } else { "no" };
        vec![text(&member["id"]), text(&member["address"]), text(&member["role"]), reachable.to_owned(), text(&member["applied"])]
    };
    let rows = cluster["members"].as_array().into_iter().flatten().map(row).collect();
    screen.table(&["#ID", "ADDRESS", "ROLE", "REACHABLE", "#APPLIED"], rows)?;
    Ok(0)
}

fn remove(api: &Api, id: u64) -> Result<(), Failure> {
    api.delete(format!("/cluster/members/{id}"), "no_such_member")
}

fn add(api: &Api, screen: &Screen, id: u64, address: &str) -> Outcome {
    let answer = add_until_it_votes(api, id, address)?;
    if screen.is_json() {
        screen.json(&answer.text)?;
    } else {
        screen.line(format_args!("controller {id} at {address} is a member and votes"))?;
    }
    Ok(0)
}

/// Asks for a member until it is one that votes, and tells meanwhile how far it is. Asking again later goes on from there.
fn add_until_it_votes(api: &Api, id: u64, address: &str) -> Result<Answer, Failure> {
    let ask = Ask::send("POST", "/cluster/members", Some(json!({"id": id, "address": address}))).repeatable();
    let is_done = AtomicBool::new(false);
    let watching = api.another();
    thread::scope(|scope| {
        let is_done = &is_done;
        let watcher = scope.spawn(move || tell_progress(&watching, id, is_done));
        let outcome = loop {
            match api.call(&ask) {
                // Not caught up, no leader for a moment, another change under way: all of them pass.
                Err(Failure::Refused(problem)) if problem.status == 503 => {
                    note(format_args!("not yet: {problem}"));
                    sleep(LOOK_AGAIN);
                }
                outcome => break outcome,
            }
        };
        is_done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        outcome
    })
}

fn tell_progress(api: &Api, id: u64, is_done: &AtomicBool) {
    let mut told = String::new();
    loop {
        thread::park_timeout(LOOK_AGAIN);
        if is_done.load(Ordering::Relaxed) {
            return;
        }
        let Ok(cluster) = api.call(&Ask::get("/cluster").impatient()).and_then(|answer| answer.json()) else { continue };
        let now = match member(&cluster, id) {
            Some(member) => {
                let applied = if member["applied"].is_null() { "0".to_owned() } else { text(&member["applied"]) };
                let silent = if member["reachable"] == true { "" } else { "; it can't be reached" };
                format!(
                    "waiting: controller {id} is a {}, at entry {applied} of {}{silent}",
                    text(&member["role"]),
                    text(&cluster["commit"])
                )
            }
            None => format!("waiting: controller {id} is not a member yet"),
        };
        if now != told {
            note(&now);
            told = now;
        }
    }
}

fn member(cluster: &Value, id: u64) -> Option<&Value> {
    cluster["members"].as_array()?.iter().find(|member| member["id"] == id)
}

/// Takes the old one out, dead or alive, and brings the new one in. Where an earlier attempt has got to is seen from the members.
fn replace(api: &Api, screen: &Screen, id: u64, address: Option<String>) -> Outcome {
    let cluster = api.get("/cluster")?.json()?;
    let known = member(&cluster, id);
    let address = address.or_else(|| known.map(|member| text(&member["address"])));
    let address =
        address.ok_or_else(|| Failure::Usage(format!("controller {id} is no member now: say where the new one is (host:port)")))?;
    match known {
        Some(member) if member["role"] == "learner" && text(&member["address"]) == address => {
            note(format_args!("controller {id} is new already; going on"));
        }
        Some(member) => {
            let is_alive = member["reachable"] == true;
            if is_alive && screen.can_ask() && !screen.ask(&format!("Controller {id} answers. Replace it all the same?")) {
                return Ok(0);
            }
            remove(api, id)?;
            note(format_args!("controller {id} is taken out of the cluster"));
        }
        None => note(format_args!("controller {id} is no member now; going on")),
    }
    note(format_args!(
        "next steps:\n  \
         1. make sure that the old controller {id} does not run any more\n  \
         2. start the new one with the same flags (--node-id {id}) and an empty --data-dir, reachable at {address}\n  \
         3. leave this running until it has caught up (or ask again: chrono-flow cluster replace {id} {address})"
    ));
    add(api, screen, id, &address)
}
