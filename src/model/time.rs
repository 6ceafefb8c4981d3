//! Instants of civil time: whole milliseconds since the Unix epoch, written as RFC 3339 in UTC for people.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds since 1970-01-01T00:00:00Z. In JSON it is an RFC 3339 string in UTC (RFC 9557's subset without a zone name);
/// in binary formats a plain integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// The earliest instant that the calendar covers: -9999-01-02T01:59:59Z.
    pub const MIN: UnixMs = UnixMs(-377_705_023_201_000);
    /// The latest instant that the calendar covers: 9999-12-30T22:00:00Z.
    pub const MAX: UnixMs = UnixMs(253_402_207_200_000);

    pub const fn from_secs(secs: i64) -> UnixMs {
        UnixMs(secs.saturating_mul(1000))
    }

    /// This instant moved by `ms` milliseconds; stays inside the integer's range.
    pub const fn plus_ms(self, ms: i64) -> UnixMs {
        UnixMs(self.0.saturating_add(ms))
    }

    pub const fn plus_secs(self, secs: i64) -> UnixMs {
        UnixMs(self.0.saturating_add(secs.saturating_mul(1000)))
    }

    /// Milliseconds from `earlier` to this instant; negative if this one comes first.
    pub const fn since(self, earlier: UnixMs) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<i64> for UnixMs {
    type Output = UnixMs;
    fn add(self, ms: i64) -> UnixMs {
        self.plus_ms(ms)
    }
}

impl Sub<i64> for UnixMs {
    type Output = UnixMs;
    fn sub(self, ms: i64) -> UnixMs {
        self.plus_ms(ms.saturating_neg())
    }
}

impl fmt::Display for UnixMs {
    /// RFC 3339 in UTC; a fraction only where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => timestamp.fmt(f),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no RFC 3339 timestamp with an offset, or one outside of the calendar's range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an RFC 3339 timestamp such as 2026-01-31T12:00:00Z")]
pub struct NotATimestamp(pub String);

impl FromStr for UnixMs {
    type Err = NotATimestamp;
    /// Reads RFC 3339 with any offset; what is finer than a millisecond is cut off.
    fn from_str(text: &str) -> Result<UnixMs, NotATimestamp> {
        let timestamp: jiff::Timestamp = text.parse().map_err(|_| NotATimestamp(text.chars().take(64).collect()))?;
        Ok(UnixMs(timestamp.as_millisecond()))
    }
}

impl Serialize for UnixMs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for UnixMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UnixMs, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(de::Error::custom)
        } else {
            i64::deserialize(deserializer).map(UnixMs)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_rfc_3339_in_utc_and_reads_back() {
        for (ms, text) in [(0, "1970-01-01T00:00:00Z"), (1_790_000_000_250, "2026-09-21T14:13:20.25Z"), (-1, "1969-12-31T23:59:59.999Z")] {
            assert_eq!(UnixMs(ms).to_string(), text);
            assert_eq!(text.parse::<UnixMs>(), Ok(UnixMs(ms)));
        }
        assert_eq!("2026-01-01T01:00:00+01:00".parse::<UnixMs>().unwrap().to_string(), "2026-01-01T00:00:00Z");
        for bad in ["", "now", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "99999-01-01T00:00:00Z"] {
            assert!(bad.parse::<UnixMs>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_named_ends_of_the_calendar_can_be_written() {
        for end in [UnixMs::MIN, UnixMs::MAX] {
            assert_eq!(end.to_string().parse::<UnixMs>(), Ok(end));
        }
        assert_eq!(UnixMs(i64::MAX).plus_secs(1), UnixMs(i64::MAX));
    }
}
