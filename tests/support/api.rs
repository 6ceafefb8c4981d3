//! A plain HTTP client, and the rows of the API as the tests look at them.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::http::Request;

use crate::wait::{PATIENCE, eventually};

/// How long one of several servers has for an answer: one that stands still takes connections, and never answers.
const TRY_TIME: Duration = Duration::from_secs(5);
/// Rest before all of them are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The states of runs that have not ended.
const OPEN_STATES: &str = "queued,staged,running,unreachable";

pub struct Api {
    agent: ureq::Agent,
    bases: Vec<String>,
}

pub struct Answer {
    pub status: u16,
    headers: ureq::http::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body of an answer that has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }
}

fn agent(patience: Duration) -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(patience)).build().into()
}

impl Api {
    /// One server, whose every answer counts.
    pub fn new(address: &str) -> Api {
        Api { agent: agent(PATIENCE), bases: vec![format!("http://{address}")] }
    }

    /// Any of several: the next one is asked while one is away or says 503, and all of them again. What is asked may be done twice.
    pub fn any_of(addresses: &[String]) -> Api {
        assert!(!addresses.is_empty(), "nobody to ask");
        Api { agent: agent(TRY_TIME), bases: addresses.iter().map(|address| format!("http://{address}")).collect() }
    }

    #[track_caller]
    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        if let [base] = &self.bases[..] {
            return self.call_at(base, method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let mut told = Vec::new();
            for base in &self.bases {
                match self.call_at(base, method, path, headers, body) {
                    Ok(answer) if answer.status != 503 => return answer,
                    Ok(answer) => told.push(format!("{base}: {}", answer.text)),
                    Err(error) => told.push(format!("{base}: {error}")),
                }
            }
            assert!(Instant::now() < until, "{method} {path}: nobody answered in {PATIENCE:?}: {told:#?}");
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// An answer of the first server, or that there is none.
    pub fn try_call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Result<Answer, ureq::Error> {
        self.call_at(&self.bases[0], method, path, headers, body)
    }

    fn call_at(&self, base: &str, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{base}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match body {
            Some(body) => self.agent.run(request.header("content-type", "application/json").body(body)?)?,
            None if method == "POST" => self.agent.run(request.body("")?)?,
            None => self.agent.run(request.body(())?)?,
        };
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string()?;
        Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), text })
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], None)
    }

    /// Lines of an answer that goes on.
    pub fn follow(&self, path: &str, headers: &[(&str, &str)]) -> impl Iterator<Item = String> + use<> {
        let mut request = self.agent.get(format!("{}{path}", self.bases[0]));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.call().expect("an answer");
        assert_eq!(response.status(), 200);
        BufReader::new(response.into_body().into_reader()).lines().map(|line| line.expect("the stream goes on"))
    }

    /// Makes a job; answers it.
    #[track_caller]
    pub fn create(&self, job: Value) -> Value {
        self.call("POST", "/jobs", &[], Some(&job.to_string())).expect(201)
    }

    /// Makes a job, or replaces it, by its name, which needs no escapes; answers it. May be repeated.
    #[track_caller]
    pub fn put(&self, mut job: Value) -> Value {
        let name = job.as_object_mut().expect("a job").remove("name").expect("a name");
        let path = format!("/jobs/by-name/{}", name.as_str().expect("a name"));
        let answer = self.call("PUT", &path, &[], Some(&job.to_string()));
        let status = if answer.status == 201 { 201 } else { 200 };
        answer.expect(status)
    }

    /// Changes a job; answers it.
    #[track_caller]
    pub fn patch(&self, job: &Value, change: Value) -> Value {
        self.call("PATCH", &format!("/jobs/{}", job["id"]), &[], Some(&change.to_string())).expect(200)
    }

    #[track_caller]
    pub fn delete(&self, job: &Value) {
        self.call("DELETE", &format!("/jobs/{}", job["id"]), &[], None).expect(204);
    }

    /// A job that nothing but a request starts.
    pub fn create_manual(&self, name: &str, command: &str) -> Value {
        self.create(json!({"name": name, "schedule": "0 0 1 1 *", "command": command, "catch_up": "none"}))
    }

    #[track_caller]
    pub fn run_now(&self, job: &Value, key: Option<&str>) -> Value {
        let headers: Vec<(&str, &str)> = key.iter().map(|key| ("idempotency-key", *key)).collect();
        self.call("POST", &format!("/jobs/{}/run", job["id"]), &headers, None).expect(202)
    }

    /// All runs, page by page, newest first.
    pub fn runs(&self) -> Vec<Row> {
        self.rows("/runs?limit=100")
    }

    pub fn runs_of(&self, job: &Value) -> Vec<Row> {
        self.rows(&format!("/jobs/{}/runs?limit=100", job["id"]))
    }

    /// Runs that have not ended, whether they have begun or not.
    pub fn open_runs(&self) -> Vec<Row> {
        self.rows(&format!("/runs?state={OPEN_STATES}"))
    }

    pub fn open_runs_of(&self, job: &Value) -> Vec<Row> {
        self.rows(&format!("/jobs/{}/runs?state={OPEN_STATES}", job["id"]))
    }

    fn rows(&self, path: &str) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let answer = self.get(&path);
            let link = answer.header("link").map(str::to_owned);
            next = link.and_then(|link| Some(link.strip_prefix('<')?.split_once('>')?.0.to_owned()));
            rows.extend(answer.expect(200).as_array().expect("an array").iter().map(Row::read));
        }
        rows
    }

    /// Waits until a run has ended; answers it.
    #[track_caller]
    pub fn wait_ended(&self, id: &str) -> Row {
        eventually("the run ends", || Some(Row::read(&self.get(&format!("/runs/{id}")).expect(200))).filter(Row::is_final))
    }

    /// Waits until no run is open that should have started by now; answers all.
    #[track_caller]
    pub fn wait_settled(&self) -> Vec<Row> {
        eventually("all runs end", || Some(self.runs()).filter(|rows| rows.iter().all(Row::is_final)))
    }

    pub fn output(&self, id: &str) -> String {
        let answer = self.get(&format!("/runs/{id}/output"));
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.text
    }
}

/// A run as the API shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    pub id: String,
    pub job: i64,
    pub revision: u64,
    pub trigger: String,
    pub retry_of: Option<String>,
    pub at_ms: i64,
    pub attempt: u64,
    pub state: String,
    pub reason: String,
    pub worker: String,
    pub is_started: bool,
    pub exit_code: Option<i64>,
    pub signal: Option<i64>,
    /// Of a row for several skipped fires: the first one's instant, and how many.
    pub skipped: Option<(i64, u64)>,
}

impl Row {
    pub fn read(run: &Value) -> Row {
        let text = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
        Row {
            id: text("id"),
            job: run["job_id"].as_i64().expect("job_id"),
            revision: run["job_revision"].as_u64().expect("job_revision"),
            trigger: text("trigger"),
            retry_of: run["retry_of"].as_str().map(str::to_owned),
            at_ms: instant_ms(&run["scheduled_at"]),
            attempt: run["attempt"].as_u64().expect("attempt"),
            state: text("state"),
            reason: text("reason"),
            worker: text("worker_id"),
            is_started: !run["started_at"].is_null(),
            exit_code: run["exit_code"].as_i64(),
            signal: run["signal"].as_i64(),
            skipped: run["skipped_count"].as_u64().map(|count| (instant_ms(&run["skipped_from"]), count)),
        }
    }

    pub fn is_final(&self) -> bool {
        !OPEN_STATES.split(',').any(|open| open == self.state)
    }

    pub fn is_skipped(&self) -> bool {
        self.state == "skipped"
    }
}

/// Milliseconds since 1970 of an RFC 3339 text.
#[track_caller]
pub fn instant_ms(text: &Value) -> i64 {
    parse_ms(text.as_str().unwrap_or_else(|| panic!("{text} is no instant")))
}

pub fn parse_ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{text}: {error}")).as_millisecond()
}

/// RFC 3339 of milliseconds since 1970.
pub fn instant(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).expect("in the calendar").to_string()
}
