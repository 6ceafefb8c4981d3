//! The end of the log in memory: what was appended lately is what gets applied and sent next.

use std::collections::VecDeque;
use std::ops::Range;

use raft::eraftpb::Entry;

/// What an entry costs beside its data, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// A run of entries without gaps that ends at the log's last one.
#[derive(Default)]
pub struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl EntryCache {
    pub fn new(bytes_max: usize) -> EntryCache {
        EntryCache { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// Adds entries; the first one replaces what is there from its index on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while self.entries.back().is_some_and(|entry| entry.index >= first.index) {
            self.bytes -= self.entries.pop_back().map_or(0, |entry| cost(&entry));
        }
        if self.entries.back().is_some_and(|entry| entry.index + 1 != first.index) {
            self.clear();
        }
        for entry in entries {
            self.bytes += cost(entry);
            self.entries.push_back(entry.clone());
        }
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| cost(&entry));
        }
    }

    /// Forgets what comes before `index`.
    pub fn forget_before(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.index < index) {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| cost(&entry));
        }
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    pub fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.first_index()?)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// A whole range, if all of it is here; up to `bytes_max` of entries, but at least one.
    pub fn range(&self, indexes: Range<u64>, bytes_max: u64) -> Option<Vec<Entry>> {
        if indexes.is_empty() {
            return Some(Vec::new());
        }
        self.get(indexes.end - 1)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in indexes {
            let entry = self.get(index)?;
            bytes += cost(entry) as u64;
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + ENTRY_OVERHEAD_BYTES
}
