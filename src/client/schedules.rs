//! `chrono-flow schedule …`, reckoned here without a server, and how coming fires are shown.

use serde_json::{Value, json};

use crate::cli::client::ScheduleCommand;
use crate::model::{UnixMs, limits};
use crate::schedule::{self, Part, Schedule};

use super::failure::{Failure, Problem};
use super::screen::Screen;
use super::{Outcome, times};

pub fn run(screen: &Screen, command: ScheduleCommand) -> Outcome {
    let ScheduleCommand::Next { expression, time_zone, count, from, name } = command;
    if !(1..=limits::PREVIEW_FIRES_MAX).contains(&count) {
        return Err(Failure::Usage(format!("-n is {count}; allowed: 1 to {}", limits::PREVIEW_FIRES_MAX)));
    }
    let from = from.map_or(Ok(screen.now), |typed| times::instant(&typed, screen.now))?;
    let zone = time_zone.as_deref();
    let schedule = Schedule::parse(&expression, zone, schedule::seed(&name), from).map_err(|error| {
        let text = if error.part() == Part::TimeZone { zone.unwrap_or_default() } else { &expression };
        Failure::Refused(Box::new(Problem::of_schedule(&error, text)))
    })?;
    let fires = std::iter::successors(schedule.next_after(from), |fire| schedule.next_after(*fire));
    let fires: Vec<UnixMs> = fires.take(count as usize).collect();
    show_fires(screen, &json!({ "next": fires }).to_string(), Some(schedule.zone_name()))
}

/// Coming fires, one a line: in UTC, on the schedule's own clock, and how far away.
pub fn show_fires(screen: &Screen, document: &str, zone: Option<&str>) -> Outcome {
    if screen.is_json() {
        screen.json(document)?;
        return Ok(0);
    }
    let document: Value =
        serde_json::from_str(document).map_err(|error| Failure::Failed(format!("the server's answer is no JSON: {error}")))?;
    let zone = zone.filter(|zone| *zone != "UTC");
    let mut heading = vec!["UTC"];
    heading.extend(zone);
    heading.push("");
    let row = |fire: &Value| {
        let text = fire.as_str().unwrap_or_default();
        let at = text.parse::<UnixMs>().ok();
        let mut row = vec![text.to_owned()];
        row.extend(zone.map(|zone| at.and_then(|at| on_the_wall(at, zone)).unwrap_or_default()));
        row.push(at.map(|at| times::distance(at, screen.now)).unwrap_or_default());
        row
    };
    let rows: Vec<Vec<String>> = document["next"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        screen.line("it does not fire")?;
    } else {
        screen.table(&heading, rows)?;
    }
    Ok(0)
}

/// What a clock in this zone shows.
fn on_the_wall(at: UnixMs, zone: &str) -> Option<String> {
    let local = jiff::Timestamp::from_millisecond(at.0).ok()?.in_tz(zone).ok()?;
    Some(local.strftime("%a %Y-%m-%d %H:%M:%S %:z").to_string())
}
