//! `/runs/{id}/output`: what a command printed, as plain text or followed live as server-sent events.
//!
//! Output is read page by page, so that no request holds more than a page of it; a page comes from the worker while the run is live
//! and from the store afterwards.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;

use crate::model::{OutputPart, Run, RunId, RunState, Stream, output};

use super::problem::Problem;
use super::query::not_allowed;
use super::request::Request;
use super::router::Answer;
use super::sse::{self, PartEvents};
use super::{Context, history, reply};

/// Bytes of output that one page has, about.
const PAGE_BYTES: u32 = 256 * 1024;
/// Pages that wait for a client to take them.
const PAGES_WAITING_MAX: usize = 2;
/// How long a follower rests after a page without anything in it, and between looks for a run's end.
const PAUSE_MS: u64 = 50;
/// How long it waits for output of a run that no worker has yet: what assigns it does not wake the wait.
const QUEUED_WAIT_MS: u64 = 200;
/// How long it rests after an error, and how many errors in a row end it; its client then comes back by itself.
const ERROR_PAUSE_MS: u64 = 1_000;
const ERRORS_MAX: u32 = 30;
/// How long a follower whose output is complete waits for the ledger to say how the run ended.
const END_WAIT_MS: u64 = 5_000;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Asks proxies to pass events on as they come.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

type Sender = mpsc::Sender<Result<Bytes, io::Error>>;

/// `GET /runs/{id}/output`
pub async fn read(context: Arc<Context>, request: Request) -> Answer {
    let query = &request.query;
    let run = request.run_id()?;
    let stream = match query.one("stream")? {
        None => None,
        Some("stdout") => Some(Stream::Stdout),
        Some("stderr") => Some(Stream::Stderr),
        Some(other) => return Err(not_allowed("stream", other, "stdout, stderr")),
    };
    let follow: bool = query.value("follow", "true or false")?.unwrap_or(false);
    let from: u64 = query.value("from", "an offset in bytes")?.unwrap_or(0);
    history::run(&*context.store, &*context.engine, run).await?.ok_or_else(Problem::no_such_run)?;
    if follow {
        let from = last_event_id(&request)?.unwrap_or(from);
        return Ok(follow_run(context, run, from, stream));
    }
    let reader = Reader { context, run, at: from };
    as_text(reader, stream).await
}

/// The offset at which a client that lost its connection goes on.
fn last_event_id(request: &Request) -> Result<Option<u64>, Problem> {
    let Some(value) = request.headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let offset = value.to_str().ok().and_then(|text| text.parse().ok());
    offset.map(Some).ok_or_else(|| Problem::malformed("Last-Event-ID must be the id of an event of this run's output"))
}

/// Reads a run's output from an offset on.
struct Reader {
    context: Arc<Context>,
    run: RunId,
    at: u64,
}

struct Page {
    parts: Vec<OutputPart>,
    /// Nothing comes behind these parts, now or later.
    is_complete: bool,
}

impl Reader {
    /// The next page; waits up to `wait` for it while the run goes on.
    async fn next(&mut self, wait: Duration) -> Result<Page, Problem> {
        let live = self.context.engine.live_output(self.run, self.at, PAGE_BYTES, wait).await?;
        let (parts, next, is_complete) = match live {
            Some(live) => (live.parts, live.next, live.is_complete),
            None => {
                let stored = self.context.store.output(self.run, self.at, PAGE_BYTES).await?;
                let is_complete = !stored.has_more || stored.parts.is_empty();
                (stored.parts, self.at, is_complete)
            }
        };
        let parts = behind(parts, self.at);
        self.at = parts.last().map_or(self.at, OutputPart::end).max(next);
        Ok(Page { parts, is_complete })
    }

    fn is_queued(&self) -> bool {
        self.context.engine.live_run(self.run).is_some_and(|run| run.state == RunState::Queued)
    }
}

/// What of `parts` lies behind `offset`: pages begin where a part does, which may be before what was asked for.
fn behind(parts: Vec<OutputPart>, offset: u64) -> Vec<OutputPart> {
    let cut = |mut part: OutputPart| {
        if part.offset < offset {
            part.bytes.drain(..(offset - part.offset) as usize);
            part.offset = offset;
        }
        part
    };
    parts.into_iter().filter(|part| part.end() > offset).map(cut).collect()
}

/// Everything there is by now. The first page comes before the answer's head, so that an error has its status.
async fn as_text(mut reader: Reader, stream: Option<Stream>) -> Answer {
    let mut text = TextPages { expected: reader.at, last: None, stream };
    let page = reader.next(Duration::ZERO).await?;
    let first = text.render(&page.parts);
    if page.is_complete || page.parts.is_empty() {
        return Ok(reply::bytes(hyper::StatusCode::OK, "text/plain; charset=utf-8", first));
    }
    let (sender, receiver) = mpsc::channel(PAGES_WAITING_MAX);
    tokio::spawn(async move {
        let mut is_wanted = sender.send(Ok(first)).await.is_ok();
        while is_wanted {
            let page = match reader.next(Duration::ZERO).await {
                Ok(page) => page,
                Err(problem) => {
                    let _ = sender.send(Err(io::Error::other(problem.detail))).await;
                    return;
                }
            };
            if page.parts.is_empty() {
                return;
            }
            is_wanted = sender.send(Ok(text.render(&page.parts))).await.is_ok() && !page.is_complete;
        }
    });
    Ok(reply::stream("text/plain; charset=utf-8", ReceiverStream::new(receiver)))
}

/// Renders page after page as one text.
struct TextPages {
    expected: u64,
    /// The last byte so far: a marker of dropped bytes begins on a line of its own.
    last: Option<u8>,
    stream: Option<Stream>,
}

impl TextPages {
    fn render(&mut self, parts: &[OutputPart]) -> Bytes {
        let mut text: Vec<u8> = self.last.into_iter().collect();
        let kept = text.len();
        self.expected = output::render(&mut text, self.expected, parts, self.stream);
        self.last = text.last().copied();
        Bytes::from(text).slice(kept..)
    }
}

fn follow_run(context: Arc<Context>, run: RunId, from: u64, stream: Option<Stream>) -> warp::reply::Response {
    let (sender, receiver) = mpsc::channel(PAGES_WAITING_MAX);
    tokio::spawn(async move {
        let (closed, stopping) = (sender.clone(), context.stopping.clone());
        let follower = Follower { reader: Reader { context, run, at: from }, events: PartEvents::new(from, stream), sender };
        tokio::select! {
            () = follower.run() => {}
            () = closed.closed() => {}
            () = stopping.cancelled() => {}
        }
    });
    let mut response = reply::stream("text/event-stream", ReceiverStream::new(receiver));
    response.headers_mut().insert(NO_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// Sends a run's output as it comes, and how the run ended.
struct Follower {
    reader: Reader,
    events: PartEvents,
    sender: Sender,
}

impl Follower {
    async fn run(mut self) {
        let comment_every = Duration::from_millis(self.reader.context.settings.follow_comment_ms);
        let mut comment_at = Instant::now() + comment_every;
        let mut errors = 0;
        let mut text = sse::RECONNECT.to_owned();
        loop {
            if Instant::now() >= comment_at {
                text.push_str(sse::COMMENT);
            }
            if !text.is_empty() {
                if self.send(&mut text).await.is_err() {
                    return;
                }
                comment_at = Instant::now() + comment_every;
            }
            let wait = if self.reader.is_queued() { Duration::from_millis(QUEUED_WAIT_MS) } else { comment_at - Instant::now() };
            match self.reader.next(wait).await {
                Ok(page) => {
                    errors = 0;
                    page.parts.iter().for_each(|part| self.events.push(&mut text, part));
                    if page.is_complete {
                        return self.end(text).await;
                    }
                    if page.parts.is_empty() {
                        sleep(Duration::from_millis(PAUSE_MS)).await;
                    }
                }
                Err(_) if errors == ERRORS_MAX => return,
                Err(_) => {
                    errors += 1;
                    sleep(Duration::from_millis(ERROR_PAUSE_MS)).await;
                }
            }
        }
    }

    async fn send(&self, text: &mut String) -> Result<(), ()> {
        self.sender.send(Ok(Bytes::from(std::mem::take(text)))).await.map_err(|_| ())
    }

    /// The last events: the rest of the text, and the run. Without a run to show, the client comes back for it.
    async fn end(mut self, mut text: String) {
        self.events.finish(&mut text);
        if let Some(run) = self.final_run().await
            && let Ok(run) = serde_json::to_string(&run)
        {
            text.push_str(&sse::event("end", self.events.offset(), &run));
        }
        let _ = self.send(&mut text).await;
    }

    async fn final_run(&self) -> Option<Run> {
        let Context { store, engine, .. } = &*self.reader.context;
        let until = Instant::now() + Duration::from_millis(END_WAIT_MS);
        loop {
            let run = history::run(&**store, &**engine, self.reader.run).await.ok().flatten();
            if run.as_ref().is_some_and(|run| run.state.is_final()) || Instant::now() >= until {
                return run;
            }
            sleep(Duration::from_millis(PAUSE_MS)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, text: &str) -> OutputPart {
        OutputPart { offset, stream: Stream::Stdout, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn a_reader_goes_on_in_the_middle_of_a_part() {
        let parts = vec![part(0, "abc"), part(3, "def"), part(6, "ghi")];
        assert_eq!(behind(parts.clone(), 4), [part(4, "ef"), part(6, "ghi")]);
        assert_eq!(behind(parts.clone(), 3), [part(3, "def"), part(6, "ghi")]);
        assert_eq!(behind(parts.clone(), 9), []);
        assert_eq!(behind(parts, 0).len(), 3);
    }

    #[test]
    fn pages_make_the_same_text_as_one_piece() {
        let parts = [part(0, "no line end"), part(20, "after a hole\n"), part(40, "and another")];
        let mut whole = Vec::new();
        output::render(&mut whole, 0, &parts, None);
        let mut pages = TextPages { expected: 0, last: None, stream: None };
        let paged: Vec<u8> = parts.iter().flat_map(|part| pages.render(std::slice::from_ref(part))).collect();
        assert_eq!(String::from_utf8(paged).unwrap(), String::from_utf8(whole).unwrap());
    }
}
