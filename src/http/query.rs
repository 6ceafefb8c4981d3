//! Query strings and path segments: percent-decoding, and parameters that are refused by name when unknown or wrong.

use std::str::FromStr;

use crate::model::limits;

use super::problem::Problem;

/// Parameters of one request beside its cursor, at most.
const PARAMETERS_MAX: usize = 64;

/// The decoded parameters of a request, all of them among those that its route has.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads the text behind `?`.
    pub fn parse(text: &str, allowed: &[&str]) -> Result<Query, Problem> {
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode(name, true).zip(decode(value, true));
            let (name, value) = decoded.ok_or_else(|| Problem::malformed("the query is not percent-encoded UTF-8"))?;
            if !allowed.contains(&name.as_str()) {
                return Err(unknown(&name, allowed));
            }
            // The reference to the next page has all of a query's parameters and a cursor.
            if pairs.len() > PARAMETERS_MAX || pairs.len() == PARAMETERS_MAX && name != "cursor" {
                return Err(Problem::malformed(format!("more than {PARAMETERS_MAX} parameters")));
            }
            pairs.push((name, value));
        }
        Ok(Query { pairs })
    }

    /// All values of a parameter that may be repeated.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be given once.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::invalid_parameter(name, format!("the parameter `{name}` may be given once only")));
        }
        Ok(first)
    }

    /// The same, read as `T`; `allowed` says what would be right.
    pub fn value<T: FromStr>(&self, name: &str, allowed: &str) -> Result<Option<T>, Problem> {
        self.one(name)?.map(|text| text.parse().map_err(|_| not_allowed(name, text, allowed))).transpose()
    }

    /// A count from 1 to `max`.
    pub fn count(&self, name: &str, default: u32, max: u32) -> Result<u32, Problem> {
        let allowed = format!("a whole number from 1 to {max}");
        match self.value::<u32>(name, &allowed)? {
            None => Ok(default),
            Some(count) if (1..=max).contains(&count) => Ok(count),
            Some(count) => Err(not_allowed(name, &count.to_string(), &allowed)),
        }
    }

    /// Rows of a page.
    pub fn limit(&self) -> Result<u32, Problem> {
        self.count("limit", limits::PAGE_ROWS_DEFAULT, limits::PAGE_ROWS_MAX)
    }

    /// This query as text with another cursor: the reference to the next page.
    pub fn with_cursor(&self, cursor: &str) -> String {
        let kept = self.pairs.iter().filter(|(name, _)| name != "cursor").map(|(name, value)| (name.as_str(), value.as_str()));
        let pairs: Vec<String> =
            kept.chain([("cursor", cursor)]).map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        pairs.join("&")
    }
}

pub fn not_allowed(name: &str, found: &str, allowed: &str) -> Problem {
    let shown: String = found.chars().take(64).collect();
    Problem::invalid_parameter(name, format!("`{name}`: found `{shown}`; allowed: {allowed}"))
}

fn unknown(name: &str, allowed: &[&str]) -> Problem {
    let shown: String = name.chars().take(64).collect();
    let known = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
    Problem::new(hyper::StatusCode::BAD_REQUEST, "unknown_parameter", format!("the parameter `{shown}` is not known here; known: {known}"))
        .with("parameter", shown)
}

/// Percent-decodes; none if that is not UTF-8 or an escape is broken.
pub fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                let high = char::from(digits[0]).to_digit(16)?;
                let low = char::from(digits[1]).to_digit(16)?;
                bytes.push((high * 16 + low) as u8);
                rest = tail;
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
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
    fn escapes_are_decoded_and_broken_ones_refused() {
        assert_eq!(decode("a%20b+c", true).as_deref(), Some("a b c"));
        assert_eq!(decode("a+b%2F%c3%A9", false).as_deref(), Some("a+b/é"));
        for bad in ["%", "%4", "%zz", "%ff", "%+1", "%c3"] {
            assert_eq!(decode(bad, true), None, "{bad}");
        }
        let odd = "a b&c=d/é%+";
        assert_eq!(decode(&encode(odd), true).as_deref(), Some(odd));
    }

    #[test]
    fn an_unknown_parameter_is_refused_by_name() {
        let problem = Query::parse("limit=1&limt=2", &["limit"]).unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.code), (400, "unknown_parameter"));
        assert_eq!(problem.member("parameter"), Some(&"limt".into()));
        assert!(Query::parse("", &[]).is_ok());
        assert!(Query::parse("&&", &[]).is_ok());
    }

    #[test]
    fn a_bad_or_repeated_value_is_refused_by_name() {
        for bad in ["limit=0", "limit=-1", "limit=x", "limit=", "limit", "limit=10001", "limit=99999999999", "limit=1&limit=1"] {
            let problem = Query::parse(bad, &["limit"]).unwrap().limit().unwrap_err();
            assert_eq!((problem.code, problem.member("parameter")), ("invalid_parameter", Some(&"limit".into())), "{bad}");
        }
        assert_eq!(Query::parse("limit=10000", &["limit"]).unwrap().limit(), Ok(10_000));
        assert_eq!(Query::default().limit(), Ok(1_000));
    }

    #[test]
    fn the_next_page_keeps_the_filter_and_replaces_the_cursor() {
        let query = Query::parse("name=a%26b&cursor=old&label=x%3D1&label=y", &["name", "cursor", "label"]).unwrap();
        let next = query.with_cursor("j7");
        assert_eq!(next, "name=a%26b&label=x%3D1&label=y&cursor=j7");
        assert_eq!(Query::parse(&next, &["name", "cursor", "label"]).unwrap().all("label").collect::<Vec<_>>(), ["x=1", "y"]);
    }

    #[test]
    fn a_query_of_many_parameters_is_refused() {
        let most = Query::parse(&"state=lost&".repeat(PARAMETERS_MAX), &["state", "cursor"]).unwrap();
        assert!(Query::parse(&most.with_cursor("j7"), &["state", "cursor"]).is_ok(), "and it has a next page");
        let many = "state=lost&".repeat(PARAMETERS_MAX + 1);
        assert_eq!(Query::parse(&many, &["state"]).unwrap_err().code, "malformed");
    }
}
