//! Warnings about peers, said once in a while for each: a misconfigured one tries again several times a second.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same is said again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Different warnings remembered; beyond that, nothing new is said until the oldest have passed.
const REMEMBERED_MAX: usize = 256;

#[derive(Default)]
pub struct Complaints(Mutex<HashMap<(String, String), Instant>>);

impl Complaints {
    /// Warns of `problem` with `peer`, or says it for those who debug if it was said lately.
    pub fn warn(&self, peer: &str, problem: &str) {
        if self.is_news(peer, problem, Instant::now()) {
            log::warn!("{peer}: {problem}");
        } else {
            log::debug!("{peer}: {problem}");
        }
    }

    fn is_news(&self, peer: &str, problem: &str, now: Instant) -> bool {
        // No code that can panic runs under this lock.
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| now.duration_since(*at) < AGAIN_AFTER);
        let key = (peer.to_owned(), problem.to_owned());
        if said.len() >= REMEMBERED_MAX || said.contains_key(&key) {
            return false;
        }
        said.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute_and_a_flood_is_cut_short() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        assert!(complaints.is_news("a", "wrong", start));
        assert!(!complaints.is_news("a", "wrong", start + Duration::from_secs(59)));
        assert!(complaints.is_news("a", "late", start) && complaints.is_news("b", "wrong", start));
        assert!(complaints.is_news("a", "wrong", start + AGAIN_AFTER));
        let said = (0..2 * REMEMBERED_MAX).filter(|number| complaints.is_news(&number.to_string(), "wrong", start + AGAIN_AFTER)).count();
        assert_eq!(said, REMEMBERED_MAX - 1);
    }
}
