//! What a failing history needs to fail: the same seed with kinds of trouble left out, and with a shorter storm. What is left out changes
//! nothing of what comes else and of what is drawn for it, and moves it by a step of time or so.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use crate::checks::Outcome;
use crate::faults::{Trouble, kinds};
use crate::suite::live_in;

/// How long things go wrong.
const STORM_MS: u64 = 90_000;
/// Shorter storms that are tried.
const SHORTER_MS: [u64; 6] = [10_000, 20_000, 30_000, 40_000, 55_000, 70_000];
/// How long to look for less. Nextest ends a test after 180 s.
const PATIENCE: Duration = Duration::from_secs(110);
/// A failure is told by the first words of its text that have no digit.
const WORDS_COMPARED: usize = 8;

/// How long things go wrong, and which.
#[derive(Clone, PartialEq, Debug)]
pub struct Storm {
    pub ms: u64,
    pub kinds: BTreeSet<Trouble>,
    /// What goes wrong more often than anything else.
    pub focus: Option<Trouble>,
}

impl Storm {
    pub fn with(focus: Option<Trouble>) -> Storm {
        Storm { ms: STORM_MS, kinds: kinds(), focus }
    }

    /// As CHRONO_FLOW_TROUBLES, CHRONO_FLOW_STORM_MS and CHRONO_FLOW_FOCUS say.
    pub fn of_environment() -> Storm {
        let var = |name: &str| std::env::var(name).ok();
        let mut storm = Storm::with(var("CHRONO_FLOW_FOCUS").map(|name| named(&name)));
        if let Some(names) = var("CHRONO_FLOW_TROUBLES") {
            storm.kinds = names.split(',').filter(|name| !name.is_empty()).map(named).collect();
        }
        if let Some(ms) = var("CHRONO_FLOW_STORM_MS") {
            storm.ms = ms.parse().expect("CHRONO_FLOW_STORM_MS must be a number");
        }
        storm
    }

    /// What repeats it.
    fn command(&self, seed: u64) -> String {
        let kinds: Vec<String> = self.kinds.iter().map(|kind| format!("{kind:?}")).collect();
        let focus = self.focus.map_or(String::new(), |focus| format!("CHRONO_FLOW_FOCUS={focus:?} "));
        let jobs = std::env::var("CHRONO_FLOW_SIM_JOBS").map_or(String::new(), |jobs| format!("CHRONO_FLOW_SIM_JOBS={jobs} "));
        format!(
            "{jobs}CHRONO_FLOW_SEED={seed} CHRONO_FLOW_STORM_MS={} CHRONO_FLOW_TROUBLES={} {focus}\
             cargo nextest run --test sim suite::whatever --no-capture",
            self.ms,
            kinds.join(",")
        )
    }
}

fn named(name: &str) -> Trouble {
    kinds().into_iter().find(|kind| format!("{kind:?}") == name).unwrap_or_else(|| panic!("there is no trouble {name}"))
}

/// Lives a history. With CHRONO_FLOW_SHRINK, one that fails is followed by others that do with less.
pub fn live(seed: u64, storm: &Storm) -> Outcome {
    if std::env::var_os("CHRONO_FLOW_SHRINK").is_none() {
        return live_in(seed, storm);
    }
    let how = |storm: &Storm| catch_unwind(AssertUnwindSafe(|| live_in(seed, storm)));
    let failure = match how(storm) {
        Ok(outcome) => return outcome,
        Err(failure) => failure,
    };
    let words = words(&failure);
    println!("seed {seed} fails; looking for what it needs");
    let until = Instant::now() + PATIENCE;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    smallest(storm.clone(), |less| {
        let fails = Instant::now() < until && how(less).is_err_and(|other| self::words(&other) == words);
        if fails {
            println!("enough: {}", less.command(seed));
        }
        fails
    });
    std::panic::set_hook(hook);
    resume_unwind(failure)
}

fn words(failure: &Box<dyn Any + Send>) -> Vec<String> {
    let text = failure.downcast_ref::<String>().cloned().or_else(|| failure.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    let text = text.unwrap_or_default();
    let words = text.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.take(WORDS_COMPARED).map(str::to_owned).collect()
}

/// Leaves out what it can: first time, then kinds, many at once and ever fewer.
fn smallest(mut storm: Storm, mut fails: impl FnMut(&Storm) -> bool) -> Storm {
    for ms in SHORTER_MS.into_iter().filter(|ms| *ms < storm.ms).collect::<Vec<_>>() {
        let shorter = Storm { ms, ..storm.clone() };
        if fails(&shorter) {
            storm = shorter;
            break;
        }
    }
    let mut count = storm.kinds.len() / 2;
    while count > 0 {
        for some in storm.kinds.iter().copied().collect::<Vec<_>>().chunks(count) {
            let mut fewer = storm.clone();
            fewer.kinds.retain(|kind| !some.contains(kind));
            if fails(&fewer) {
                storm = fewer;
            }
        }
        count = (count / 2).min(storm.kinds.len());
    }
    storm
}

#[test]
fn what_a_failure_does_not_need_is_left_out() {
    let needed = [Trouble::Delays, Trouble::DrainsWorker];
    let fails = |storm: &Storm| storm.ms >= 25_000 && needed.iter().all(|kind| storm.kinds.contains(kind));
    let found = smallest(Storm::with(None), fails);
    assert_eq!(found, Storm { ms: 30_000, kinds: needed.into(), focus: None });
    assert!(found.command(7).contains("CHRONO_FLOW_SEED=7 CHRONO_FLOW_STORM_MS=30000 CHRONO_FLOW_TROUBLES=Delays,DrainsWorker cargo"));
    assert_eq!(named("DrainsWorker"), Trouble::DrainsWorker);
}
