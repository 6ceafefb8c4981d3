//! Counts what a thread holds of the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // Not while a thread ends.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        MOST.try_with(|most| most.set(most.get().max(held.get())))
    });
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(place, layout) }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // For a moment there may be both.
        count(size as isize);
        let moved = unsafe { System.realloc(place, layout, size) };
        count(-(layout.size() as isize));
        moved
    }
}

/// What this thread holds from here on.
pub struct Counted {
    before: isize,
}

impl Counted {
    pub fn start() -> Counted {
        let before = HELD.get();
        MOST.set(before);
        Counted { before }
    }

    /// The most bytes that were held at once.
    pub fn most_held(self) -> usize {
        usize::try_from(MOST.get() - self.before).unwrap_or(0)
    }
}

#[test]
fn what_is_held_is_counted() {
    let counted = Counted::start();
    drop(vec![1u8; 3_000_000]);
    drop(vec![1u8; 2_000_000]);
    assert!((3_000_000..3_100_000).contains(&counted.most_held()));
}
