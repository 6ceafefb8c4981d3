//! Reading `/proc/<pid>/stat` (proc_pid_stat(5)): who is whose child, in which group and session, and since when.

use std::collections::{HashMap, HashSet};

/// One process as the kernel describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Process {
    pub pid: i32,
    pub is_dead: bool,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Clock ticks from the start of the machine to that of the process; with the pid it names a process for good.
    pub start_time_ticks: u64,
}

/// The process with this id, zombies included; None if there is none or it can't be read.
pub(super) fn process(pid: i32) -> Option<Process> {
    parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process that can be seen. It is no snapshot: processes come and go while it is read.
pub(super) fn processes() -> impl Iterator<Item = Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?))
}

/// The groups that have a member which is more than a zombie.
pub(super) fn living_groups() -> HashSet<i32> {
    processes().filter(|process| !process.is_dead).map(|process| process.group).collect()
}

/// All living processes beneath `ancestor`, itself excluded.
pub(super) fn living_descendants(ancestor: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in processes() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = children.remove(&ancestor).unwrap_or_default();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let beneath = children.remove(&process.pid).unwrap_or_default();
        found.extend(beneath);
        next += 1;
    }
    found.retain(|process| !process.is_dead);
    found
}

/// The second field is the command's name in parentheses and may contain anything, also blanks and parentheses: the last `)` ends it.
fn parse(stat: &[u8]) -> Option<Process> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let pid = std::str::from_utf8(stat.get(..stat.iter().position(|&byte| byte == b' ')?)?).ok()?.parse().ok()?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let start_time_ticks = fields.nth(15)?.parse().ok()?;
    Some(Process { pid, is_dead: matches!(state, "Z" | "X" | "x"), parent, group, session, start_time_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let line = b"77 (a) b (c) Z 5 6 7 0 -1 4194560 85 0 0 0 0 0 0 0 20 0 1 0 123456 2625536 231\n";
        let expected = Process { pid: 77, is_dead: true, parent: 5, group: 6, session: 7, start_time_ticks: 123_456 };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 (x) R 1"), None);
    }

    #[test]
    fn this_process_finds_itself_among_the_descendants_of_its_parent() {
        let me = process(std::process::id() as i32).unwrap();
        assert!(!me.is_dead && me.start_time_ticks > 0);
        assert!(living_descendants(me.parent).iter().any(|process| process.pid == me.pid));
        assert!(living_groups().contains(&me.group));
        assert_eq!(process(i32::MAX), None);
    }
}
