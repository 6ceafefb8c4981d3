//! Time zones as stretches of constant offset, read once from jiff's bundled database and shared by all schedules.
//!
//! The system's /usr/share/zoneinfo is never asked: all nodes of one version know the same zones. A zone's stretches are listed
//! until the year 2500. From 2100 on, every zone follows yearly rules, which repeat with the calendar every 400 years, so that
//! later instants are looked up 400 years or a multiple of it earlier.
//! Offsets come from instants, so what jiff 0.2.46's ambiguity API says is not asked (it reports a fold for America/Nuuk on
//! 2023-10-28 that never was).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{OnceLock, PoisonError, RwLock};

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::model::UnixMs;

use super::error::{Part, Piece, ScheduleError};
use super::step::{CYCLE_DAYS, DAY_S};

/// The calendar's ends, in seconds since the epoch. Fires lie within.
pub(super) const FIRST_S: i64 = UnixMs::MIN.0 / 1000;
pub(super) const LAST_S: i64 = UnixMs::MAX.0 / 1000;

/// Beyond every instant and every local reading.
const NEVER_S: i64 = LAST_S + 1000 * DAY_S;

/// 2100-01-01T00:00:00Z: since then yearly rules alone apply (the last zone with a table of its own ends in 2087).
const CYCLE_FROM_S: i64 = 4_102_444_800;
const CYCLE_S: i64 = CYCLE_DAYS * DAY_S;
const CYCLE_TO_S: i64 = CYCLE_FROM_S + CYCLE_S;

/// No zone of the database has a longer name; a limit so that nothing else is looked up.
const NAME_BYTES_MAX: usize = 64;

/// The zones in use, by their exact names: memory of what the bundled database says, at most one entry a zone of it.
static ZONES: RwLock<BTreeMap<&'static str, &'static Zone>> = RwLock::new(BTreeMap::new());
static UTC: OnceLock<Zone> = OnceLock::new();

const ALLOWED: &str = "a name of the IANA time zone database, such as Europe/Berlin or UTC";

/// The zone of a job: its `time_zone`, the expression's prefix, or UTC. Given twice, both must mean the same.
pub(super) fn choose(time_zone: Option<&str>, prefix: Option<Piece<'_>>) -> Result<&'static Zone, ScheduleError> {
    let named = match time_zone {
        Some(name) => Some(Zone::named(name).ok_or_else(|| Piece::whole(name).error(Part::TimeZone, ALLOWED))?),
        None => None,
    };
    let prefixed = match prefix {
        Some(piece) => Some((piece, Zone::named(piece.text()).ok_or_else(|| piece.error(Part::Prefix, ALLOWED))?)),
        None => None,
    };
    match (named, prefixed) {
        (Some(named), Some((piece, prefixed))) if !named.same_as(prefixed) => {
            Err(piece.error(Part::Prefix, format!("{}, as time_zone says, or only one of the two", named.name)))
        }
        (Some(zone), _) | (None, Some((_, zone))) => Ok(zone),
        (None, None) => Ok(Zone::utc()),
    }
}

pub(super) struct Zone {
    name: String,
    /// The name that the database's aliases share.
    primary: String,
    stretches: Vec<Entry>,
}

/// Where a stretch begins.
#[derive(Clone, Copy)]
struct Entry {
    start: i64,
    offset: i32,
    /// One past the latest reading that the clock showed before this stretch. Later than the stretch's first reading where the
    /// clock was set back (a fold), earlier where it was set forward (a gap).
    seen: i64,
}

/// A stretch of time in which the zone's clock runs evenly. Seconds since the epoch; readings are those of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// The first instant.
    pub(super) start: i64,
    /// One past the last instant.
    pub(super) end: i64,
    /// Reading minus instant.
    pub(super) offset: i64,
    /// See [`Entry::seen`].
    pub(super) seen: i64,
}

impl Stretch {
    /// The reading at the first instant.
    pub(super) fn first_reading(&self) -> i64 {
        self.start + self.offset
    }

    /// One past the reading at the last instant.
    pub(super) fn end_reading(&self) -> i64 {
        self.end + self.offset
    }
}

impl Zone {
    pub(super) fn utc() -> &'static Zone {
        UTC.get_or_init(|| Zone::of(&TimeZone::UTC))
    }

    /// The zone of an IANA name, in any case.
    pub(super) fn named(name: &str) -> Option<&'static Zone> {
        if name == "UTC" {
            return Some(Zone::utc());
        }
        if let Some(zone) = ZONES.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Some(zone);
        }
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        let tz = TimeZoneDatabase::bundled().get(name).ok().filter(|tz| !tz.is_unknown())?;
        let exact = tz.iana_name()?;
        if exact == "UTC" {
            return Some(Zone::utc());
        }
        let mut zones = ZONES.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = zones.get(exact) {
            return Some(zone);
        }
        let zone: &'static Zone = Box::leak(Box::new(Zone::of(&tz)));
        zones.insert(&zone.name, zone);
        Some(zone)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether both names mean the same clock.
    pub(super) fn same_as(&self, other: &Zone) -> bool {
        self.primary == other.primary
    }

    /// The stretch that holds an instant.
    pub(super) fn stretch_at(&self, instant: i64) -> Stretch {
        let shift = if instant >= CYCLE_TO_S { (instant - CYCLE_FROM_S).div_euclid(CYCLE_S) * CYCLE_S } else { 0 };
        let at = self.stretches.partition_point(|entry| entry.start <= instant - shift).saturating_sub(1);
        let entry = self.stretches[at];
        let end = self.stretches.get(at + 1).map_or(NEVER_S, |next| next.start + shift);
        Stretch { start: entry.start + shift, end, offset: i64::from(entry.offset), seen: entry.seen + shift }
    }

    fn of(tz: &TimeZone) -> Zone {
        let first = FIRST_S - DAY_S;
        let mut offset = tz.to_offset(Timestamp::MIN).seconds();
        let mut seen = first + i64::from(offset);
        let mut stretches = vec![Entry { start: first, offset, seen }];
        for transition in tz.following(Timestamp::MIN) {
            // Many transitions change only the abbreviation.
            if transition.offset().seconds() == offset {
                continue;
            }
            let start = transition.timestamp().as_second();
            seen = seen.max(start + i64::from(offset));
            offset = transition.offset().seconds();
            stretches.push(Entry { start, offset, seen });
            if start >= CYCLE_TO_S {
                break;
            }
        }
        stretches.shrink_to_fit();
        let name = tz.iana_name().unwrap_or("UTC").to_owned();
        let primary = tz.primary_iana_name().unwrap_or(&name).to_owned();
        Zone { name, primary, stretches }
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_names() -> Vec<String> {
        TimeZoneDatabase::bundled().available().map(|name| name.as_str().to_owned()).collect()
    }

    fn jiff_offset(name: &str, instant: i64) -> i64 {
        let tz = TimeZoneDatabase::bundled().get(name).expect("listed");
        i64::from(tz.to_offset(Timestamp::from_second(instant).expect("within the calendar")).seconds())
    }

    /// Instants over the whole calendar that hit every part of the 400-year cycle, with a step that is no whole number of days.
    fn instants() -> impl Iterator<Item = i64> {
        (FIRST_S..LAST_S).step_by(400 * 365 * 86_400 / 3 + 12_345_678).chain((-3_000_000_000..20_000_000_000).step_by(98_765_432))
    }

    #[test]
    fn every_zone_has_the_offsets_of_the_bundled_database_at_all_times() {
        for name in all_names() {
            let Some(zone) = Zone::named(&name) else {
                assert_eq!(name, "Etc/Unknown");
                continue;
            };
            for instant in instants() {
                assert_eq!(zone.stretch_at(instant).offset, jiff_offset(&name, instant), "{name} at {instant}");
            }
        }
    }

    #[test]
    fn stretches_meet_without_hole_or_overlap_and_only_where_the_offset_changes() {
        for name in ["Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "America/Nuuk", "Pacific/Apia", "UTC"] {
            let zone = Zone::named(name).expect("known");
            // From before the first transition over the seam where the cycle begins anew, in 2500, to the end.
            let mut stretch = zone.stretch_at(FIRST_S);
            while stretch.end <= LAST_S {
                let next = zone.stretch_at(stretch.end);
                assert_eq!(next.start, stretch.end, "{name}");
                assert_ne!(next.offset, stretch.offset, "{name} at {}", stretch.end);
                assert_eq!(zone.stretch_at(next.start - 1), stretch, "{name}");
                assert_eq!(jiff_offset(name, stretch.end), next.offset, "{name} at {}", stretch.end);
                assert_eq!(jiff_offset(name, stretch.end - 1), stretch.offset, "{name} at {}", stretch.end);
                stretch = next;
            }
        }
    }

    #[test]
    fn nuuk_had_no_fold_in_october_2023() {
        let zone = Zone::named("America/Nuuk").expect("known");
        let stretch = zone.stretch_at(1_698_451_200); // 2023-10-28T00:00:00Z
        assert!(stretch.end - stretch.start > 300 * DAY_S, "{stretch:?}");
        assert!(stretch.seen <= stretch.first_reading(), "{stretch:?}");
    }

    #[test]
    fn a_zone_is_shared_whatever_the_case_of_its_name_and_nothing_is_kept_for_unknown_names() {
        let zone = Zone::named("Europe/Vienna").expect("known");
        assert!(std::ptr::eq(zone, Zone::named("eUROPE/vienna").expect("known")));
        assert_eq!(zone.name(), "Europe/Vienna");
        for name in ["", "Mars/Olympus", "Etc/Unknown", "Local", "EST5EDT,M3.2.0,M11.1.0", "../../etc/passwd", &"x".repeat(1000)] {
            assert!(Zone::named(name).is_none(), "{name}");
            assert!(!ZONES.read().expect("no writer panics").contains_key(name));
        }
    }

    #[test]
    fn aliases_agree_and_utc_is_the_same_by_all_its_names() {
        for (one, other) in [("Asia/Calcutta", "Asia/Kolkata"), ("UTC", "Etc/UTC"), ("utc", "Zulu")] {
            assert!(Zone::named(one).expect("known").same_as(Zone::named(other).expect("known")), "{one} {other}");
        }
        assert!(!Zone::named("Europe/Berlin").expect("known").same_as(Zone::named("Europe/Paris").expect("known")));
    }
}
