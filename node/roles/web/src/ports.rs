//! Which port an instance gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, TcpListener};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// How long a port rests after its instance is gone, so that a balancer that did
/// not hear of it cannot reach another app there.
const REST: Duration = Duration::from_secs(120);

/// The ports of a range: held, resting or free.
#[derive(Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    next: u16,
    held: BTreeSet<u16>,
    resting: BTreeMap<u16, Instant>,
}

impl Ports {
    /// Ports of `range`, in turn from `first`, which may be any number.
    pub fn new(range: RangeInclusive<u16>, first: u64) -> Self {
        let length = u64::from(range.end().saturating_sub(*range.start())) + 1;
        let offset = u16::try_from(first % length).unwrap_or(0);
        let next = range.start().saturating_add(offset);
        Self { range, next, held: BTreeSet::new(), resting: BTreeMap::new() }
    }

    /// A port that nobody holds, that `is_free` accepts, and that rests no more.
    pub fn take(&mut self, now: Instant, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        self.resting.retain(|_, until| *until > now);
        for _ in self.range.clone() {
            let port = self.next;
            self.next = if port >= *self.range.end() { *self.range.start() } else { port + 1 };
            let ours = self.held.contains(&port) || self.resting.contains_key(&port);
            if !ours && is_free(port) {
                self.held.insert(port);
                return Some(port);
            }
        }
        None
    }

    /// Gives a port back; it rests first.
    pub fn release(&mut self, port: u16, now: Instant) {
        if self.held.remove(&port) {
            self.resting.insert(port, now + REST);
        }
    }
}

/// Whether nothing listens on the port now.
pub fn is_free(host: IpAddr, port: u16) -> bool {
    TcpListener::bind((host, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_never_given_twice_nor_soon_after_its_release() {
        let now = Instant::now();
        let mut ports = Ports::new(100..=102, 1);
        assert_eq!(ports.take(now, |_| true), Some(101));
        assert_eq!(ports.take(now, |port| port != 102), Some(100));
        ports.release(101, now);
        assert_eq!(ports.take(now, |_| true), Some(102));
        assert_eq!(ports.take(now, |_| true), None);
        assert_eq!(ports.take(now + REST, |_| true), Some(101));
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!is_free(address.ip(), address.port()));
    }
}
