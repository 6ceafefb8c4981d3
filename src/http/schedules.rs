//! Coming fires: of a job, and of an expression that is being written.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::model::{UnixMs, limits};
use crate::schedule::{self, Schedule};

use super::job_fields::{Given, unknown_field};
use super::problem::Problem;
use super::request::Request;
use super::router::Answer;
use super::{Context, job_json, jobs, reply};

/// `GET /jobs/{id}/next`
pub async fn next_of_job(context: Arc<Context>, request: Request) -> Answer {
    let count = request.query.count("count", limits::PREVIEW_FIRES_DEFAULT, limits::PREVIEW_FIRES_MAX)?;
    let (job, is_from_ledger) = jobs::load(&context, request.job_id()?).await?;
    let next = job_json::next_fires(&job, context.now_to_show(), count as usize);
    let mut response = reply::json(StatusCode::OK, &json!({ "next": next }))?;
    if is_from_ledger {
        reply::mark_from_ledger(&mut response);
    }
    Ok(response)
}

/// `POST /schedules/preview`
pub async fn preview(context: Arc<Context>, mut request: Request) -> Answer {
    let object = request.object().await?;
    let next = preview_fires(&object, context.now_to_show())?;
    reply::json(StatusCode::OK, &json!({ "next": next }))
}

/// The fires that a preview's body asks for. `name` is the job's, for `H`; `@every` counts from `from`.
pub(super) fn preview_fires(object: &Map<String, Value>, now: UnixMs) -> Result<Vec<UnixMs>, Problem> {
    let (mut text, mut zone, mut name, mut from, mut count) = (None, None, "", now, limits::PREVIEW_FIRES_DEFAULT);
    for (field, value) in object {
        let given = Given { field, value };
        match field.as_str() {
            "schedule" => text = Some(given.text(1, limits::SCHEDULE_BYTES_MAX)?),
            "time_zone" if value.is_null() => {}
            "time_zone" => zone = Some(given.text(1, limits::NAME_CHARS_MAX)?),
            "name" => name = given.text(0, limits::NAME_CHARS_MAX * 4)?,
            "from" if value.is_null() => {}
            "from" => from = given.instant()?,
            "count" => count = given.count(1, limits::PREVIEW_FIRES_MAX)?,
            _ => return Err(unknown_field(field)),
        }
    }
    let text = text.ok_or_else(|| Problem::unprocessable("missing_field", "the field `schedule` is missing").field("schedule"))?;
    let schedule = Schedule::parse(text, zone, schedule::seed(name), from)?;
    let fires = std::iter::successors(schedule.next_after(from), |fire| schedule.next_after(*fire));
    Ok(fires.take(count as usize).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires(body: Value) -> Result<Vec<String>, (&'static str, Option<String>)> {
        let from = UnixMs::from_secs(1_790_000_000);
        let refused = |problem: Problem| (problem.code, problem.member("field").and_then(Value::as_str).map(str::to_owned));
        preview_fires(body.as_object().unwrap(), from).map(|fires| fires.iter().map(UnixMs::to_string).collect()).map_err(refused)
    }

    #[test]
    fn a_preview_begins_after_from() {
        let body = json!({"schedule": "0 0 * * *", "time_zone": "Europe/Berlin", "from": "2027-01-31T23:00:00Z", "count": 2});
        assert_eq!(fires(body), Ok(vec!["2027-02-01T23:00:00Z".into(), "2027-02-02T23:00:00Z".into()]));
        assert_eq!(fires(json!({"schedule": "* * * * *"})).unwrap().len(), 10);
        let every = json!({"schedule": "@every 1h30m", "from": "2027-01-01T00:10:00Z", "count": 1});
        assert_eq!(fires(every), Ok(vec!["2027-01-01T01:40:00Z".into()]));
    }

    #[test]
    fn a_bad_preview_names_its_field() {
        let refused = |code, field: &str| Err((code, Some(field.to_owned())));
        assert_eq!(fires(json!({})), refused("missing_field", "schedule"));
        assert_eq!(fires(json!({"schedule": "61 * * * *"})), refused("invalid_schedule", "schedule"));
        assert_eq!(fires(json!({"schedule": "* * * * *", "time_zone": "Mars/Olympus"})), refused("invalid_schedule", "time_zone"));
        assert_eq!(fires(json!({"schedule": "* * * * *", "count": 1001})), refused("invalid_value", "count"));
        assert_eq!(fires(json!({"schedule": "* * * * *", "count": 0})), refused("invalid_value", "count"));
        assert_eq!(fires(json!({"schedule": "* * * * *", "from": "now"})), refused("invalid_value", "from"));
        assert_eq!(fires(json!({"schedule": "* * * * *", "cuont": 1})), refused("unknown_field", "cuont"));
    }
}
