//! Times for people: instants beside how far away they are, spans, and the ways in which an instant may be typed.

use crate::model::UnixMs;

use super::failure::Failure;

const UNITS: &[(&str, i64)] = &[("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)];

/// `in 5 s`, `3 min ago`, `now`.
pub fn distance(at: UnixMs, now: UnixMs) -> String {
    let ms = at.since(now);
    match UNITS.iter().find(|(_, unit)| ms.unsigned_abs() >= unit.unsigned_abs()) {
        None => "now".to_owned(),
        Some((name, unit)) if ms > 0 => format!("in {} {name}", ms / unit),
        Some((name, unit)) => format!("{} {name} ago", -(ms / unit)),
    }
}

/// A span as people write it: `1.250 s`, `2 min 5 s`.
pub fn span(ms: i64) -> String {
    match ms.max(0) {
        ms @ 0..60_000 => format!("{}.{:03} s", ms / 1_000, ms % 1_000),
        ms @ 60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        ms => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// Reads RFC 3339, or a span such as `90s` or `1h30m`, which is so long ago.
pub fn instant(text: &str, now: UnixMs) -> Result<UnixMs, Failure> {
    if let Ok(instant) = text.parse() {
        return Ok(instant);
    }
    let refuse = || Failure::Usage(format!("`{text}` is no time; it takes RFC 3339 such as 2026-01-31T12:00:00Z, or a span such as 1h30m"));
    span_ms(text).map(|ms| now.plus_ms(-ms)).ok_or_else(refuse)
}

fn span_ms(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let (digits, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (name, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let unit = match name {
            "w" => 7 * 86_400_000,
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" | "min" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        total = total.checked_add(digits.parse::<i64>().ok()?.checked_mul(unit)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_and_spans_have_one_or_two_units() {
        let now = UnixMs(1_790_000_000_000);
        for (ms, text) in
            [(5_400, "in 5 s"), (-180_000, "3 min ago"), (999, "now"), (-999, "now"), (7_200_000, "in 2 h"), (-86_400_000, "1 d ago")]
        {
            assert_eq!(distance(now + ms, now), text);
        }
        for (ms, text) in [(0, "0.000 s"), (1_250, "1.250 s"), (125_000, "2 min 5 s"), (3_660_000, "1 h 1 min"), (-5, "0.000 s")] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn an_instant_may_be_typed_as_so_long_ago() {
        let now = UnixMs(1_790_000_000_000);
        for (text, ms) in [("90s", 90_000), ("1h30m", 5_400_000), ("2d", 172_800_000), ("1min", 60_000), ("0s", 0)] {
            assert_eq!(instant(text, now), Ok(now - ms), "{text}");
        }
        assert_eq!(instant("2026-09-21T14:13:20Z", now), Ok(now));
        for bad in ["", "h", "5", "1x", "-1h", "1h 2m", "99999999999999d", "yesterday"] {
            assert_eq!(instant(bad, now).map_err(|failure| failure.exit_code()), Err(2), "{bad}");
        }
    }
}
