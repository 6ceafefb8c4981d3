//! `/workers` and `/cluster`: who takes part, and changes of the members.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::LOCATION;
use serde_json::{Map, Value};

use crate::model::NodeId;

use super::job_fields::{Given, unknown_field};
use super::problem::Problem;
use super::request::Request;
use super::router::Answer;
use super::{Context, reply};

/// Bytes of a member's address, at most: a DNS name has up to 253, a port up to 5.
const ADDRESS_BYTES_MAX: usize = 260;

/// `GET /workers`
pub async fn workers(context: Arc<Context>) -> Answer {
    reply::json(StatusCode::OK, &context.engine.workers())
}

/// `GET /cluster`
pub async fn cluster(context: Arc<Context>) -> Answer {
    reply::json(StatusCode::OK, &context.engine.cluster())
}

/// `POST /cluster/members`: answers when the new member is a voter; 503 while it has not caught up, and the request may be repeated.
pub async fn add_member(context: Arc<Context>, mut request: Request) -> Answer {
    let (id, address) = new_member(&request.object().await?)?;
    context.engine.add_member(id, address).await?;
    let mut response = reply::json(StatusCode::CREATED, &context.engine.cluster())?;
    reply::set(&mut response, LOCATION, "/cluster");
    Ok(response)
}

/// `DELETE /cluster/members/{id}`
pub async fn remove_member(context: Arc<Context>, mut request: Request) -> Answer {
    let id = request.path_value().parse().ok().filter(|id| *id >= 1);
    let id = id.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no_such_member", "a member's id is a whole number from 1"))?;
    request.no_body().await?;
    context.engine.remove_member(id).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `POST /cluster/transfer`: to the member `to`, or to the voter that lags least.
pub async fn transfer(context: Arc<Context>, mut request: Request) -> Answer {
    let mut to = None;
    for (field, value) in &request.object_or_none().await? {
        match field.as_str() {
            "to" if value.is_null() => {}
            "to" => to = Some(node_id(Given { field, value })?),
            _ => return Err(unknown_field(field)),
        }
    }
    context.engine.transfer_leadership(to).await?;
    reply::json(StatusCode::OK, &context.engine.cluster())
}

fn new_member(object: &Map<String, Value>) -> Result<(NodeId, String), Problem> {
    let (mut id, mut address) = (None, None);
    for (field, value) in object {
        let given = Given { field, value };
        match field.as_str() {
            "id" => id = Some(node_id(given)?),
            "address" => address = Some(host_and_port(given)?),
            _ => return Err(unknown_field(field)),
        }
    }
    let missing = |field: &str| Problem::unprocessable("missing_field", format!("the field `{field}` is missing")).field(field);
    Ok((id.ok_or_else(|| missing("id"))?, address.ok_or_else(|| missing("address"))?))
}

fn node_id(given: Given) -> Result<NodeId, Problem> {
    given.value.as_u64().filter(|id| *id >= 1).ok_or_else(|| given.refuse("a whole number from 1"))
}

/// `host:port`, where an IPv6 address stands in brackets.
fn host_and_port(given: Given) -> Result<String, Problem> {
    let text = given.text(1, ADDRESS_BYTES_MAX)?;
    let is_host = |host: &str| match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port >= 1);
    let is_right = text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port));
    if is_right { Ok(text.to_owned()) } else { Err(given.refuse("host:port, such as controller-4:12000 or [::1]:12000")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let read = |address: &str| host_and_port(Given { field: "address", value: &json!(address) });
        for good in ["controller-4:12000", "10.0.0.1:1", "[::1]:65535", "a_b.example.org:80"] {
            assert_eq!(read(good), Ok(good.to_owned()));
        }
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "a:+1", "::1:80", "[::1:80", "[x]:80", "http://a:80", "a b:80", "a:1/"] {
            assert_eq!(read(bad).unwrap_err().code, "invalid_value", "{bad}");
        }
    }
}
