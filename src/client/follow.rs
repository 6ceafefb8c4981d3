//! A run's output as it comes, by server-sent events, through broken connections to the run's end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::client::StreamName;

use super::api::{Api, Ask};
use super::failure::Failure;
use super::runs::{ending, is_final, query, took};
use super::screen::{Screen, note, text};
use super::{Outcome, times};

/// How long a follower goes on that gets no event.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);
/// Bytes of one line of the stream; a server sends far shorter ones.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// `run logs -f`: until the run has ended, however it ended.
pub fn logs(api: &Api, screen: &Screen, id: &str, stream: Option<StreamName>) -> Outcome {
    Follower::new(api, screen, id, stream).follow()?;
    Ok(0)
}

/// `job run --wait`: what the command prints, and its own success or failure.
pub fn to_the_end(api: &Api, screen: &Screen, id: &str) -> Outcome {
    let followed = Follower::new(api, screen, id, None).follow();
    let end = match followed {
        Ok(end) => end,
        // That nobody reads what it prints doesn't change how it ends.
        Err(Failure::Closed) => None,
        Err(failure) => return Err(failure),
    };
    let end = match end.filter(|text| serde_json::from_str(text).is_ok_and(|run: Value| is_final(&run))) {
        Some(end) => end,
        None => poll(api, id)?,
    };
    let run: Value = serde_json::from_str(&end).map_err(|error| Failure::Failed(format!("the run is no JSON: {error}")))?;
    if screen.is_json() {
        screen.json(&end)?;
    } else {
        let span = took(&run).map(|ms| format!(" after {}", times::span(ms))).unwrap_or_default();
        note(format_args!("run {}: {}{span}", text(&run["id"]), ending(&run)));
    }
    Ok(if run["state"] == "succeeded" { 0 } else { 1 })
}

fn poll(api: &Api, id: &str) -> Result<String, Failure> {
    loop {
        let answer = api.get(format!("/runs/{id}"))?;
        if is_final(&answer.json()?) {
            return Ok(answer.text);
        }
        sleep(PAUSE);
    }
}

struct Follower<'a> {
    api: &'a Api,
    screen: &'a Screen,
    path: String,
    /// A stream that was asked for alone goes to standard output, whichever it is.
    is_one_stream: bool,
    last_id: Option<String>,
}

impl<'a> Follower<'a> {
    fn new(api: &'a Api, screen: &'a Screen, id: &str, stream: Option<StreamName>) -> Follower<'a> {
        let path = format!("/runs/{id}/output?follow=true{}", stream.map_or("", |stream| query(stream, '&')));
        Follower { api, screen, path, is_one_stream: stream.is_some(), last_id: None }
    }

    /// The text of the run as the last event has it, if that came.
    fn follow(&mut self) -> Result<Option<String>, Failure> {
        let mut silent_since = Instant::now();
        loop {
            let mut ask = Ask::get(self.path.clone());
            if let Some(id) = &self.last_id {
                ask = ask.header("last-event-id", id.clone());
            }
            let mut reader = BufReader::new(self.api.open(&ask)?.into_body().into_reader());
            // Its end without an `end` event, an error of it, and a server that stops are the same: the next connection goes on.
            while let Ok(Some(event)) = next_event(&mut reader) {
                silent_since = Instant::now();
                if event.kind == "end" {
                    return Ok(Some(event.data));
                }
                self.show(&event)?;
                if !event.id.is_empty() {
                    self.last_id = Some(event.id);
                }
            }
            if silent_since.elapsed() >= PATIENCE {
                return Err(Failure::Unreachable("the output breaks off again and again".to_owned()));
            }
            self.api.turn();
            sleep(PAUSE);
        }
    }

    fn show(&self, event: &Event) -> Result<(), Failure> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event.kind.as_str() {
            "stderr" if !self.is_one_stream => {
                // In the order in which it was printed, as far as two streams have one.
                self.screen.flush()?;
                let _ = io::stderr().write_all(event.data.as_bytes());
                Ok(())
            }
            "stdout" | "stderr" => {
                self.screen.write(event.data.as_bytes())?;
                self.screen.flush()
            }
            "dropped" => {
                note(format_args!("[chrono-flow: {} bytes of output dropped here]", event.data));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[derive(Default, PartialEq, Debug)]
struct Event {
    kind: String,
    id: String,
    data: String,
}

/// The next whole event (WHATWG HTML, section 9.2); none where the stream ends.
fn next_event(reader: &mut impl BufRead) -> io::Result<Option<Event>> {
    let mut event = Event::default();
    let mut data: Option<String> = None;
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => event.kind = value.to_owned(),
            "id" => event.id = value.to_owned(),
            "data" => match &mut data {
                None => data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            "" if line.is_empty() => {
                if let Some(data) = data.take() {
                    return Ok(Some(Event { data, ..event }));
                }
                event = Event::default();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_they_were_written_and_half_of_one_is_none() {
        let text = "retry: 1000\n\n: nothing new\n\nid: 4\nevent: stdout\ndata: a\ndata: b\ndata: \n\nid: 9\nevent: stderr\ndata: half";
        let mut reader = text.as_bytes();
        let event = Event { kind: "stdout".into(), id: "4".into(), data: "a\nb\n".into() };
        assert_eq!(next_event(&mut reader).unwrap(), Some(event));
        assert_eq!(next_event(&mut reader).unwrap(), None);
    }
}
