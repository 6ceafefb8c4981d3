//! Network namespaces: a thread steps into one, and so does what it starts there.

use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Does something in a namespace, if there is one. What is spawned stays in it; the thread itself comes back.
pub fn within<T>(netns: Option<&OwnedFd>, act: impl FnOnce() -> T) -> T {
    let Some(netns) = netns else { return act() };
    let own = std::fs::File::open("/proc/thread-self/ns/net").expect("a thread is in a network namespace");
    let enter = |netns| move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).expect("root may enter it");
    enter(netns.as_fd());
    let done = act();
    enter(own.as_fd());
    done
}
