//! The REST API from the client's side: which server is asked, what is tried again, and how lists are read page by page.

use std::cell::Cell;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, Body, Error, Timeout};

use crate::cli::client::SERVER_DEFAULT;

use super::failure::{Failure, Problem};

/// How long a request that may be repeated is tried again, from its first failure on.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rest between two rounds through the servers.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest rest that a server may ask for by `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A server waits up to 30 s for a new member to catch up before it answers.
const ANSWER_MAX: Duration = Duration::from_secs(45);
/// Silence in the midst of an answer; a followed output says something every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Bytes of one answer.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// Rows of one page.
const PAGE_ROWS: u64 = 1_000;

pub struct Api {
    agent: Agent,
    servers: Vec<String>,
    /// The server that answered last.
    current: Cell<usize>,
}

/// What is asked.
#[derive(Clone, Default)]
pub struct Ask {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Value>,
    is_repeatable: bool,
    is_impatient: bool,
}

impl Ask {
    pub fn get(path: impl Into<String>) -> Ask {
        Ask { method: "GET", path: path.into(), is_repeatable: true, ..Ask::default() }
    }

    /// A request that does something each time that it arrives, unless [`Ask::repeatable`] says otherwise.
    pub fn send(method: &'static str, path: impl Into<String>, body: Option<Value>) -> Ask {
        Ask { method, path: path.into(), body, ..Ask::default() }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Ask {
        self.headers.push((name, value.into()));
        self
    }

    /// A failure is no reason to try again.
    pub fn impatient(mut self) -> Ask {
        self.is_impatient = true;
        self
    }

    /// Twice is the same as once.
    pub fn repeatable(mut self) -> Ask {
        self.is_repeatable = true;
        self
    }
}

pub struct Answer {
    headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn json(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.text).map_err(|error| Failure::Failed(format!("the server's answer is no JSON: {error}")))
    }
}

/// Why there is no answer.
enum Lost {
    /// The request did not arrive.
    Unsent(String),
    /// It may have arrived.
    Unknown(String),
    /// Nothing that another attempt would change.
    Hopeless(String),
}

impl Api {
    pub fn new(servers: &[String]) -> Result<Api, Failure> {
        let mut servers: Vec<String> = servers.iter().filter(|server| !server.trim().is_empty()).map(|server| base(server)).collect();
        if servers.is_empty() {
            servers.push(base(SERVER_DEFAULT));
        }
        if let Some(odd) = servers.iter().find(|server| !server.starts_with("http://") && !server.starts_with("https://")) {
            return Err(Failure::Usage(format!("--server takes URLs such as {SERVER_DEFAULT}, not `{odd}`")));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Controllers are near; a proxy for the web would only be in the way.
            .proxy(None)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_resolve(Some(CONNECT_MAX))
            .timeout_recv_response(Some(ANSWER_MAX))
            .timeout_per_read(Some(SILENCE_MAX))
            .build();
        Ok(Api { agent: config.into(), servers, current: Cell::new(0) })
    }

    /// Another client of the same servers, for another thread.
    pub fn another(&self) -> Api {
        Api { agent: self.agent.clone(), servers: self.servers.clone(), current: self.current.clone() }
    }

    pub fn get(&self, path: impl Into<String>) -> Result<Answer, Failure> {
        self.call(&Ask::get(path))
    }

    /// A successful answer with its whole body.
    pub fn call(&self, ask: &Ask) -> Result<Answer, Failure> {
        let (parts, body) = self.open(ask)?.into_parts();
        let bytes = body.into_with_config().limit(ANSWER_BYTES_MAX);
        let bytes = bytes.read_to_vec().map_err(|error| Failure::Unreachable(format!("the answer broke off: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| Failure::Failed("the server's answer is not UTF-8".to_owned()))?;
        Ok(Answer { headers: parts.headers, text })
    }

    /// Deletes something; that it is gone (`gone` is the code for that) is a success if an earlier attempt may have done it.
    pub fn delete(&self, path: String, gone: &str) -> Result<(), Failure> {
        let ask = Ask { method: "DELETE", ..Ask::get(path) };
        let mut is_repeated = false;
        match self.open_noting(&ask, &mut is_repeated) {
            Err(failure) if is_repeated && failure.is(gone) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// A successful answer, its body not read yet.
    pub fn open(&self, ask: &Ask) -> Result<Response<Body>, Failure> {
        self.open_noting(ask, &mut false)
    }

    /// The same; `is_repeated` becomes true if an attempt without an answer may have arrived.
    fn open_noting(&self, ask: &Ask, is_repeated: &mut bool) -> Result<Response<Body>, Failure> {
        let mut deadline = None;
        loop {
            let (failure, wait) = match self.attempt_each(ask, is_repeated) {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let wait = retry_after(&response);
                    let failure = refusal(response, ask);
                    if !failure.is_retryable() || !ask.is_repeatable {
                        return Err(failure);
                    }
                    (failure, wait.unwrap_or(PAUSE))
                }
                Err(Lost::Unsent(why)) => (Failure::Unreachable(why), PAUSE),
                Err(Lost::Unknown(why)) if ask.is_repeatable => (Failure::Unreachable(why), PAUSE),
                Err(Lost::Unknown(why)) => {
                    return Err(Failure::Unreachable(format!("{why}; whether it was done is not known: look before you ask again")));
                }
                Err(Lost::Hopeless(why)) => return Err(Failure::Failed(why)),
            };
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            if ask.is_impatient || Instant::now() + wait >= deadline {
                return Err(failure);
            }
            sleep(wait);
        }
    }

    /// Asks one server after the other until one answers.
    fn attempt_each(&self, ask: &Ask, is_repeated: &mut bool) -> Result<Response<Body>, Lost> {
        let mut last = Lost::Hopeless("there is no server to ask".to_owned());
        for _ in 0..self.servers.len() {
            match self.attempt(ask) {
                Ok(response) => return Ok(response),
                Err(lost @ Lost::Unsent(_)) => last = lost,
                Err(lost @ Lost::Unknown(_)) if ask.is_repeatable => {
                    *is_repeated = true;
                    last = lost;
                }
                Err(lost) => return Err(lost),
            }
            self.turn();
        }
        Err(last)
    }

    /// The next server is asked from now on.
    pub fn turn(&self) {
        self.current.set((self.current.get() + 1) % self.servers.len());
    }

    fn attempt(&self, ask: &Ask) -> Result<Response<Body>, Lost> {
        let server = &self.servers[self.current.get()];
        let mut request = Request::builder().method(ask.method).uri(format!("{server}{}", ask.path));
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let odd = |error: ureq::http::Error| Lost::Hopeless(format!("this can't be sent: {error}"));
        let outcome = match &ask.body {
            Some(body) => self.agent.run(request.header("content-type", "application/json").body(body.to_string()).map_err(odd)?),
            None if ask.method == "POST" => self.agent.run(request.body("").map_err(odd)?),
            None => self.agent.run(request.body(()).map_err(odd)?),
        };
        outcome.map_err(|error| lost(server, error))
    }

    /// All rows of a list, over its pages: the text of each page's array without its brackets. `count` limits the rows; 0 is all.
    pub fn pages(
        &self,
        path: &str,
        query: &[(&str, String)],
        count: u64,
        mut take: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut cursor = None;
        let mut left = if count == 0 { u64::MAX } else { count };
        loop {
            let limit = left.min(PAGE_ROWS);
            let mut pairs: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
            pairs.push(format!("limit={limit}"));
            pairs.extend(cursor.map(|cursor| format!("cursor={cursor}")));
            let answer = self.get(format!("{path}?{}", pairs.join("&")))?;
            let rows = answer.text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            take(rows.ok_or_else(|| Failure::Failed("the server's answer is no list".to_owned()))?.trim())?;
            left -= limit;
            cursor = answer.header("link").and_then(next_cursor);
            if cursor.is_none() || left == 0 {
                return Ok(());
            }
        }
    }
}

fn base(server: &str) -> String {
    let server = server.trim().trim_end_matches('/');
    if server.contains("://") { server.to_owned() } else { format!("http://{server}") }
}

/// What a failed attempt says about the request.
fn lost(server: &str, error: Error) -> Lost {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let text = match &error {
        Error::Io(error) => error.to_string(),
        Error::Timeout(_) => "it takes too long".to_owned(),
        error => error.to_string(),
    };
    let text = format!("{server} can't be reached: {text}");
    match error {
        Error::Io(error) if matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable | AddrNotAvailable) => {
            Lost::Unsent(text)
        }
        Error::HostNotFound | Error::ConnectionFailed | Error::Timeout(Timeout::Resolve | Timeout::Connect) => Lost::Unsent(text),
        Error::Io(_) | Error::Timeout(_) | Error::Protocol(_) => Lost::Unknown(text),
        error => Lost::Hopeless(format!("{server}: {error}")),
    }
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).clamp(PAUSE, RETRY_AFTER_MAX))
}

fn refusal(response: Response<Body>, ask: &Ask) -> Failure {
    let status = response.status().as_u16();
    // Its text only helps; without it the status speaks.
    let text = response.into_body().into_with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true).read_to_string().unwrap_or_default();
    Failure::Refused(Box::new(Problem::read(status, &text, ask.body.as_ref())))
}

/// The cursor in `</jobs?limit=2&cursor=j2>; rel="next"`, encoded as it stands there.
fn next_cursor(link: &str) -> Option<String> {
    let target = link.split(',').find(|link| link.contains("rel=\"next\""))?.trim().strip_prefix('<')?.split_once('>')?.0;
    let pairs = target.split_once('?')?.1.split('&');
    pairs.filter_map(|pair| pair.strip_prefix("cursor=")).next().map(str::to_owned)
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_of_the_next_page_is_found() {
        assert_eq!(next_cursor("</jobs?limit=2&cursor=j2>; rel=\"next\"").as_deref(), Some("j2"));
        assert_eq!(next_cursor("</runs?cursor=a%2Cb&limit=2>; rel=\"next\"").as_deref(), Some("a%2Cb"));
        assert_eq!(next_cursor("</runs?cursor=a>; rel=\"prev\""), None);
    }

    #[test]
    fn servers_are_urls_and_an_empty_list_is_the_default() {
        let servers = |given: &[&str]| Api::new(&given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).map(|api| api.servers);
        assert_eq!(servers(&["a:1", " https://b/ "]), Ok(vec!["http://a:1".into(), "https://b".into()]));
        assert_eq!(servers(&["", " "]), Ok(vec![SERVER_DEFAULT.into()]));
        assert!(servers(&["ftp://a"]).is_err_and(|failure| failure.exit_code() == 2));
    }
}
