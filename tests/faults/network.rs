//! A network of a test's own: a namespace with a bridge, in which the test's thread stays, and one for each node, joined to the bridge by a
//! veth pair. Nothing of it has a name outside, so all of it is gone with the test, however that ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::cluster::{Place, Places};
use crate::postgres::netns::within;

/// The network's addresses: the test has the first one.
const PREFIX: &str = "10.77.0";

/// Which packets are lost.
#[derive(Clone, Copy, Debug)]
pub enum Ways {
    Both,
    /// Those that it sends.
    Out,
    /// Those that are sent to it.
    In,
}

pub struct Network {
    places: Rc<BTreeMap<String, Place>>,
}

impl Network {
    /// A network of these nodes; none, loudly, where it can't be made.
    pub fn new(names: &[&str]) -> Option<Network> {
        let is_there = |program: &str| Command::new(program).arg("-V").output().is_ok_and(|output| output.status.success());
        if !rustix::process::geteuid().is_root() || !is_there("ip") || !is_there("iptables") {
            eprintln!("SKIPPED: network namespaces take root, and the packages iproute2 and iptables");
            return None;
        }
        if let Err(error) = enter_new() {
            eprintln!("SKIPPED: no network namespace can be made here: {error}");
            return None;
        }
        run(None, "ip link set lo up");
        run(None, "ip link add hub type bridge");
        run(None, &format!("ip addr add {PREFIX}.1/24 dev hub"));
        run(None, "ip link set hub up");
        let places = names.iter().enumerate().map(|(number, name)| (name.to_string(), join(number)));
        Some(Network { places: Rc::new(places.collect()) })
    }

    pub fn places(&self) -> Places {
        let places = self.places.clone();
        Box::new(move |name| places[name].clone())
    }

    /// From now on packets between a node and others are lost. Connections stay as they are: nobody is told.
    pub fn cut<'a>(&self, node: &str, others: impl IntoIterator<Item = &'a str>, ways: Ways) {
        for other in others {
            if matches!(ways, Ways::Both | Ways::In) {
                self.lose(other, node);
            }
            if matches!(ways, Ways::Both | Ways::Out) {
                self.lose(node, other);
            }
        }
    }

    fn lose(&self, from: &str, to: &str) {
        let (from, to) = (&self.places[from], &self.places[to]);
        run(to.netns.as_deref(), &format!("iptables -w -A INPUT -s {} -j DROP", from.host));
        run(from.netns.as_deref(), &format!("iptables -w -A OUTPUT -d {} -j DROP", to.host));
    }

    /// Every packet arrives again.
    pub fn heal(&self) {
        for place in self.places.values() {
            run(place.netns.as_deref(), "iptables -w -F");
        }
    }
}

/// Moves this thread, and whatever it starts, into a new network namespace.
fn enter_new() -> rustix::io::Result<()> {
    // SAFETY: descriptors stay shared; only the network is another one.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// A namespace with an address on the bridge.
fn join(number: usize) -> Place {
    let make = || {
        enter_new().expect("it worked before");
        File::open("/proc/thread-self/ns/net").expect("a thread is in a network namespace")
    };
    let netns = OwnedFd::from(std::thread::spawn(make).join().expect("a namespace"));
    let host = format!("{PREFIX}.{}", 10 + number);
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
    run(None, &format!("ip link add hub-{number} type veth peer name node-{number}"));
    run(None, &format!("ip link set hub-{number} master hub up"));
    run(None, &format!("ip link set node-{number} netns {path}"));
    run(Some(&netns), "ip link set lo up");
    run(Some(&netns), &format!("ip addr add {host}/24 dev node-{number}"));
    run(Some(&netns), &format!("ip link set node-{number} up"));
    Place { host, netns: Some(Arc::new(netns)) }
}

#[track_caller]
fn run(netns: Option<&OwnedFd>, line: &str) {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    let output = within(netns, || command.args(words).output()).expect("it starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
