//! The judge: schedule, witness and history must tell one story.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::api::{Row, instant};
use crate::witness::Line;

/// The clock may step a little between what the scheduler and the command read; never should a command start earlier than this.
const EARLY_MS_MAX: i64 = 100;

/// The schedule of one job over a time, as plain arithmetic: every `every_s` seconds (a divisor of 60), after `after_ms`.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub every_s: i64,
    /// Exclusive.
    pub after_ms: i64,
    /// Every fire up to here, inclusive, must have a fate.
    pub to_ms: i64,
    /// Fires up to here may have run: the moment of a change that ended the span is known so well only.
    pub to_at_most_ms: i64,
}

impl Span {
    pub fn new(every_s: i64, after_ms: i64, to_ms: i64) -> Span {
        Span { every_s, after_ms, to_ms, to_at_most_ms: to_ms }
    }

    fn fires_to(&self, to_ms: i64) -> BTreeSet<i64> {
        fires(self.every_s, self.after_ms, to_ms).collect()
    }
}

/// The multiples of `every_s` seconds in (after, to].
pub fn fires(every_s: i64, after_ms: i64, to_ms: i64) -> impl Iterator<Item = i64> {
    let every_ms = every_s * 1000;
    let first = (after_ms.div_euclid(every_ms) + 1) * every_ms;
    (first..=to_ms).step_by(every_ms as usize)
}

/// What became of one job's fires.
pub struct Story<'a> {
    pub job: i64,
    pub rows: Vec<&'a Row>,
    pub lines: Vec<&'a Line>,
}

impl<'a> Story<'a> {
    pub fn of(job: &Value, rows: &'a [Row], lines: &'a [Line]) -> Story<'a> {
        let id = job["id"].as_i64().expect("an id");
        let rows = rows.iter().filter(|row| row.job == id).collect();
        Story { job: id, rows, lines: lines.iter().filter(|line| line.job == id).collect() }
    }

    /// Every fire of the schedule has exactly one fate, nothing else was launched, and history and witness agree. Answers each
    /// fire's fate: its state, and its reason.
    #[track_caller]
    pub fn check(&self, spans: &[Span]) -> BTreeMap<i64, (String, String)> {
        self.check_witness();
        let mut fates: BTreeMap<i64, (String, String)> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.attempt == 1 && row.trigger != "manual") {
            for at_ms in self.fires_of(row, spans) {
                let earlier = fates.insert(at_ms, (row.state.clone(), row.reason.clone()));
                assert_eq!(earlier, None, "job {}: the fire of {} has two rows", self.job, instant(at_ms));
            }
        }
        let required: BTreeSet<i64> = spans.iter().flat_map(|span| span.fires_to(span.to_ms)).collect();
        let allowed: BTreeSet<i64> = spans.iter().flat_map(|span| span.fires_to(span.to_at_most_ms)).collect();
        for at_ms in &required {
            assert!(fates.contains_key(at_ms), "job {}: the fire of {} has no row\n{}", self.job, instant(*at_ms), self.told());
        }
        fates.retain(|at_ms, (state, reason)| {
            let is_undone = state == "skipped" && ["revoked", "superseded"].contains(&reason.as_str());
            let is_fire = allowed.contains(at_ms);
            assert!(is_fire || is_undone, "job {}: {} is no fire\n{}", self.job, instant(*at_ms), self.told());
            is_fire
        });
        fates
    }

    /// The instants that one row stands for.
    fn fires_of(&self, row: &Row, spans: &[Span]) -> Vec<i64> {
        let Some((from_ms, count)) = row.skipped.filter(|(_, count)| *count > 1) else { return vec![row.at_ms] };
        assert!(row.is_skipped());
        let all: BTreeSet<i64> = spans.iter().flat_map(|span| fires(span.every_s, from_ms - 1, row.at_ms)).collect();
        let all: Vec<i64> = all.into_iter().collect();
        assert_eq!(all.len() as u64, count, "job {}: a range counts wrong: {row:?}", self.job);
        all
    }

    /// The witness and the history say the same.
    #[track_caller]
    pub fn check_witness(&self) {
        let starts: Vec<&&Line> = self.lines.iter().filter(|line| line.word == "start").collect();
        let mut seen = BTreeSet::new();
        for start in &starts {
            assert!(seen.insert((start.at_ms, start.attempt, &start.run)), "ran twice: {start:?}\n{}", self.told());
            assert!(start.clock_ms >= start.at_ms - EARLY_MS_MAX, "started before its instant: {start:?}");
            let row = self.rows.iter().find(|row| row.id == start.run);
            let row = row.unwrap_or_else(|| panic!("history has no run for {start:?}\n{}", self.told()));
            assert_eq!((row.at_ms, row.attempt), (start.at_ms, start.attempt), "{start:?} {row:?}");
            assert!(!row.is_skipped(), "skipped, and yet it ran: {row:?}");
            assert!(row.is_started || row.state == "lost", "ran, and history says it did not start: {row:?}");
        }
        let scheduled = self.rows.iter().filter(|row| row.trigger != "manual");
        let scheduled_ids: BTreeSet<&String> = scheduled.map(|row| &row.id).collect();
        let mut launches = BTreeSet::new();
        for start in starts.iter().filter(|start| scheduled_ids.contains(&start.run)) {
            assert!(launches.insert((start.at_ms, start.attempt)), "two runs of one launch: {start:?}\n{}", self.told());
        }
        let ids: BTreeSet<&String> = self.rows.iter().map(|row| &row.id).collect();
        assert_eq!(ids.len(), self.rows.len(), "two rows have one id");
        for row in &self.rows {
            let has_started = starts.iter().any(|start| start.run == row.id);
            // Whoever is killed at once doesn't come to say a word.
            let may_be_mute = ["lost", "cancelled", "timed_out"].contains(&row.state.as_str());
            assert!(has_started || !row.is_started || may_be_mute, "history says it ran, the witness does not: {row:?}\n{}", self.told());
        }
    }

    /// No two runs overlapped: each said that it ends, or was ended by force, before the next one began, and said nothing more.
    #[track_caller]
    pub fn check_one_at_a_time(&self) {
        let mut lines: Vec<&&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| line.clock_ms);
        for pair in lines.windows(2) {
            let (earlier, later) = (pair[0], pair[1]);
            let is_open = earlier.word != "end" && later.run != earlier.run && !self.was_cut(&earlier.run);
            assert!(!is_open, "{later:?} while {earlier:?} went on");
        }
        for (at, start) in lines.iter().enumerate().filter(|(_, line)| line.word == "start") {
            let begun: BTreeSet<&String> = lines[..at].iter().map(|line| &line.run).collect();
            let alive = lines[at..].iter().find(|line| line.run != start.run && begun.contains(&line.run));
            assert!(alive.is_none(), "{start:?}, and later {alive:?}");
        }
    }

    /// Whether a run was ended by force, and so has had no last word.
    fn was_cut(&self, run: &str) -> bool {
        let forced = ["lost", "cancelled", "timed_out"];
        self.rows.iter().any(|row| row.id == run && forced.contains(&row.state.as_str()))
    }

    /// For people: what both say.
    pub fn told(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            text.push_str(&format!("  {} {} {row:?}\n", instant(row.at_ms), row.state));
        }
        for line in &self.lines {
            text.push_str(&format!("  {} {line:?}\n", instant(line.at_ms)));
        }
        text
    }
}

/// How many fires had a fate.
pub fn count(fates: &BTreeMap<i64, (String, String)>, state: &str, reason: &str) -> usize {
    fates.values().filter(|fate| fate.0 == state && fate.1 == reason).count()
}

mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn row(id: &str, at_s: i64, state: &str, reason: &str) -> Row {
        Row {
            id: id.into(),
            job: 1,
            revision: 1,
            trigger: "schedule".into(),
            retry_of: None,
            at_ms: at_s * 1000,
            attempt: 1,
            state: state.into(),
            reason: reason.into(),
            worker: "w".into(),
            is_started: state != "skipped",
            exit_code: None,
            signal: None,
            skipped: None,
        }
    }

    fn line(run: &str, at_s: i64) -> Line {
        Line { word: "start".into(), job: 1, at_ms: at_s * 1000, attempt: 1, run: run.into(), place: "w".into(), clock_ms: at_s * 1000 }
    }

    fn is_believed(rows: &[Row], lines: &[Line]) -> bool {
        let story = Story { job: 1, rows: rows.iter().collect(), lines: lines.iter().collect() };
        catch_unwind(AssertUnwindSafe(|| story.check(&[Span::new(2, 0, 7_000)]))).is_ok()
    }

    #[test]
    fn the_judge_believes_a_true_story_and_no_other() {
        let range = Row { skipped: Some((2_000, 2)), ..row("r", 4, "skipped", "missed") };
        let rows = [range.clone(), row("c", 6, "succeeded", "")];
        let lines = [line("c", 6)];
        assert!(is_believed(&rows, &lines));
        assert!(is_believed(&[rows[0].clone(), row("c", 6, "lost", "worker_restarted")], &[]), "who was lost may be mute");
        assert!(is_believed(&[rows[0].clone(), rows[1].clone(), row("d", 8, "skipped", "revoked")], &lines), "staged, and revoked");

        assert!(!is_believed(&rows[1..], &lines), "fires without a fate");
        assert!(!is_believed(&rows, &[]), "history says that it ran");
        assert!(!is_believed(&rows, &[line("c", 6), line("c", 6)]), "it ran twice");
        assert!(!is_believed(&rows, &[line("c", 6), line("x", 4)]), "it ran, and history does not know");
        assert!(!is_believed(&rows, &[line("c", 6), line("r", 4)]), "it ran, and history says it was skipped");
        assert!(!is_believed(&rows, &[line("c", 4)]), "another instant");
        assert!(!is_believed(&rows, &[Line { clock_ms: 5_000, ..line("c", 6) }]), "too early");
        assert!(!is_believed(&[rows[0].clone(), rows[1].clone(), row("d", 6, "skipped", "missed")], &lines), "two fates");
        assert!(!is_believed(&[rows[0].clone(), rows[1].clone(), row("d", 7, "succeeded", "")], &[line("c", 6), line("d", 7)]), "no fire");
        let counts_wrong = Row { skipped: Some((2_000, 3)), ..range };
        assert!(!is_believed(&[counts_wrong, rows[1].clone()], &lines), "a range that counts wrong");
        let twice = [rows[0].clone(), rows[1].clone(), Row { trigger: "retry".into(), ..row("d", 6, "succeeded", "") }];
        assert!(!is_believed(&twice, &[line("c", 6), line("d", 6)]), "two runs of one attempt");
    }

    #[test]
    fn the_judge_sees_runs_that_overlap() {
        let word = |word: &str, run: &str, clock_ms: i64| Line { word: word.into(), clock_ms, ..line(run, 1) };
        let is_believed = |lines: &[Line]| {
            let story = Story { job: 1, rows: Vec::new(), lines: lines.iter().collect() };
            catch_unwind(AssertUnwindSafe(|| story.check_one_at_a_time())).is_ok()
        };
        assert!(is_believed(&[word("start", "a", 1), word("end", "a", 2), word("start", "b", 3), word("end", "b", 4)]));
        assert!(!is_believed(&[word("start", "a", 1), word("start", "b", 2), word("end", "a", 3), word("end", "b", 4)]));
        let cut = row("a", 1, "lost", "worker_lost");
        let is_believed = |lines: &[Line]| {
            let story = Story { job: 1, rows: vec![&cut], lines: lines.iter().collect() };
            catch_unwind(AssertUnwindSafe(|| story.check_one_at_a_time())).is_ok()
        };
        assert!(is_believed(&[word("start", "a", 1), word("alive", "a", 2), word("start", "b", 3), word("end", "b", 4)]));
        assert!(!is_believed(&[word("start", "a", 1), word("start", "b", 2), word("end", "b", 3), word("alive", "a", 4)]));
    }
}
