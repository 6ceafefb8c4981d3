//! Schedules: any text, any zone, any instant.

use std::time::{Duration, Instant};

use chrono_flow::model::UnixMs;
use chrono_flow::schedule::Schedule;

/// None: what the text itself says. Zones with odd offsets, large jumps, and rules without end.
const ZONES: [Option<&str>; 12] = [
    None,
    Some("UTC"),
    Some("Europe/Berlin"),
    Some("America/New_York"),
    Some("Australia/Lord_Howe"),
    Some("Asia/Kathmandu"),
    Some("Pacific/Apia"),
    Some("America/Nuuk"),
    Some("Africa/Casablanca"),
    Some("Antarctica/Troll"),
    Some("Africa/Monrovia"),
    Some("Mars/Olympus"),
];
/// A call costs microseconds; only one without bound takes so long, on any machine.
const PATIENCE: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 1 + 8 + 8;

/// One byte for the zone, an instant, an anchor, and the text.
pub fn run(bytes: &[u8]) {
    let Some((head, text)) = bytes.split_at_checked(HEAD_BYTES) else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let instant = |at: usize| UnixMs(i64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes")));
    let (zone, from, anchor) = (ZONES[usize::from(head[0]) % ZONES.len()], instant(1), instant(9));
    let since = Instant::now();
    let Ok(schedule) = Schedule::parse(text, zone, 7, anchor) else { return };
    let mut fires = Vec::new();
    let mut after = from;
    while let Some(fire) = schedule.next_after(after).filter(|_| fires.len() < 5) {
        assert!(fire > after, "{text:?}: {fire:?} does not lie after {after:?}");
        assert_eq!(schedule.next_after(fire - 1), Some(fire), "{text:?}: {fire:?} is a fire and is not");
        fires.push(fire);
        after = fire;
    }
    // Counting and going back over years is a matter of milliseconds, not of every run.
    const YEAR_MS: i64 = 366 * 86_400_000;
    if let Some(last) = fires.last().filter(|last| last.since(from) < 4 * YEAR_MS) {
        assert_eq!(schedule.count_between(from, *last), fires.len() as u64, "{text:?} from {from:?}");
        assert_eq!(schedule.last_between(from, *last, 10), fires, "{text:?} from {from:?}");
    }
    assert!(since.elapsed() < PATIENCE, "{text:?} took {:?}", since.elapsed());
}
