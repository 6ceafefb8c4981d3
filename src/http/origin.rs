//! Keeps other sites' pages, open in a browser on this machine, from using the API as if they were its user.
//!
//! - Cross-site requests: a browser sends `Origin` with every request that may change something. One that differs from `Host` is refused.
//!   (Bodies must be `application/json` besides, which a page can't send to another site without asking first.)
//! - DNS rebinding: a page whose name was made to point at 127.0.0.1 has the right `Origin`, but a `Host` that is not ours. A server on
//!   loopback therefore answers to this machine's own names only; and so does any that was told its names, such as one in a container
//!   whose port is published on loopback.

use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::{HeaderMap, ORIGIN};
use warp::host::Authority;

use super::problem::Problem;

/// Refuses a request under a name that is not the machine's own or one of `allowed`.
pub fn check_host(authority: Option<&Authority>, allowed: &[String]) -> Result<(), Problem> {
    let Some(authority) = authority else { return Ok(()) };
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_own = host == "localhost" || host.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok();
    if is_own || allowed.iter().any(|name| name.eq_ignore_ascii_case(&host)) {
        return Ok(());
    }
    let shown: String = host.chars().take(100).collect();
    let detail = format!("this server does not answer to the name `{shown}`; --http-host allows it");
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", detail))
}

/// Refuses a request that changes something and comes from another site's page.
pub fn check_origin(method: &str, headers: &HeaderMap, authority: Option<&Authority>) -> Result<(), Problem> {
    if matches!(method, "GET" | "HEAD" | "OPTIONS") {
        return Ok(());
    }
    let is_same = |origin: &str| {
        let site = origin.split_once("://").map(|(_, site)| site);
        site.is_some() && site.map(str::to_ascii_lowercase) == authority.map(|authority| authority.as_str().to_ascii_lowercase())
    };
    if headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(is_same)) {
        return Ok(());
    }
    let detail = "a page of another site may not change anything here: `Origin` differs from `Host`";
    Err(Problem::new(StatusCode::FORBIDDEN, "cross_origin", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Authority {
        text.parse().unwrap()
    }

    #[test]
    fn a_loopback_server_answers_to_this_machines_names_only() {
        let allowed = ["Build.Example".to_owned()];
        for own in [
            "localhost:8080",
            "LOCALHOST",
            "localhost.",
            "app.localhost:1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.168.1.7",
            "build.example:80",
        ] {
            assert_eq!(check_host(Some(&host(own)), &allowed), Ok(()), "{own}");
        }
        for other in ["evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost"] {
            assert_eq!(check_host(Some(&host(other)), &allowed).unwrap_err().status.as_u16(), 421, "{other}");
        }
        assert_eq!(check_host(None, &[]), Ok(()));
    }

    #[test]
    fn only_the_same_site_may_change_something() {
        let check = |method: &str, origins: &[&str]| {
            let mut headers = HeaderMap::new();
            for origin in origins {
                headers.append(ORIGIN, origin.parse().unwrap());
            }
            check_origin(method, &headers, Some(&host("localhost:8080"))).is_ok()
        };
        assert!(check("POST", &[]), "curl sends no Origin");
        assert!(check("POST", &["http://localhost:8080"]));
        assert!(check("DELETE", &["https://LOCALHOST:8080"]));
        assert!(check("GET", &["http://evil.example"]), "reading is the browser's to guard");
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            for origin in ["http://evil.example", "http://localhost:9999", "http://localhost", "null", "localhost:8080", ""] {
                assert!(!check(method, &[origin]), "{method} {origin}");
            }
        }
        assert!(!check("POST", &["http://localhost:8080", "http://evil.example"]));
    }
}
