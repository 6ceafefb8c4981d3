//! Those who have connected and are not known yet. There is room for so many; when it is full, the one that has been here longest of those
//! from the address with the most makes room. Whoever knows the secret is done within milliseconds: to keep it out, others would have to
//! connect faster than that, and all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Where a stranger comes from: an IPv4 address, or an IPv6 network of 64 bits, of which one machine has all addresses.
type Origin = u128;

fn origin(address: IpAddr) -> Origin {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

/// Clones are the same room.
#[derive(Clone)]
pub struct Strangers {
    present: Arc<Mutex<Present>>,
    max: usize,
}

#[derive(Default)]
struct Present {
    /// Counts those who have come.
    next: u64,
    by_number: BTreeMap<u64, (Origin, oneshot::Sender<()>)>,
    by_origin: BTreeMap<Origin, BTreeSet<u64>>,
}

/// One of them, until it is dropped.
pub struct Stranger {
    number: u64,
    strangers: Strangers,
    sent_away: oneshot::Receiver<()>,
}

impl Strangers {
    pub fn new(max: usize) -> Strangers {
        Strangers { present: Arc::default(), max }
    }

    /// Takes one more in. The second value says that another one had to go for it.
    pub fn enter(&self, from: IpAddr) -> (Stranger, bool) {
        let mut present = self.lock();
        let is_full = present.by_number.len() >= self.max;
        if is_full && let Some(number) = present.most_tiresome() {
            present.remove(number);
        }
        let number = present.next;
        present.next += 1;
        let (send_away, sent_away) = oneshot::channel();
        present.by_number.insert(number, (origin(from), send_away));
        present.by_origin.entry(origin(from)).or_default().insert(number);
        drop(present);
        (Stranger { number, strangers: self.clone(), sent_away }, is_full)
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        // No code that can panic runs under this lock.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn most_tiresome(&self) -> Option<u64> {
        let most = self.by_origin.values().max_by_key(|numbers| numbers.len())?;
        most.first().copied()
    }

    /// Whoever waits for its handshake is told by the end of its channel.
    fn remove(&mut self, number: u64) {
        let Some((origin, _)) = self.by_number.remove(&number) else { return };
        if let Some(numbers) = self.by_origin.get_mut(&origin) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_origin.remove(&origin);
            }
        }
    }
}

impl Stranger {
    /// What comes of the handshake, unless this one has to go before.
    pub async fn unless_sent_away<T>(mut self, handshake: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::select! {
            outcome = handshake => outcome,
            _ = &mut self.sent_away => None,
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_here(stranger: &mut Stranger) -> bool {
        stranger.sent_away.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }

    #[test]
    fn the_oldest_of_the_most_makes_room_and_nobody_else() {
        let room = Strangers::new(4);
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let (mut quiet, is_full) = room.enter(address(1));
        assert!(!is_full);
        let mut many: Vec<Stranger> = (0..3).map(|_| room.enter(address(2)).0).collect();
        let (mut last, is_full) = room.enter(address(3));
        assert!(is_full && is_here(&mut quiet) && is_here(&mut last));
        assert_eq!(many.iter_mut().map(is_here).collect::<Vec<_>>(), [false, true, true]);
        drop(many);
        assert!(!room.enter(address(2)).1, "who has gone leaves its place");
        drop((quiet, last));
        assert!(room.lock().by_number.is_empty() && room.lock().by_origin.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin() {
        let of = |text: &str| origin(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
