//! A loopback network for each cluster, and turns for clusters.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Condvar, Mutex, PoisonError};

/// Networks that tests use; 127.0.0 is for developers.
const NETWORKS: std::ops::Range<u8> = 100..250;
/// Nothing of Rung's listens here, so that whoever does holds the network.
const LEASE_PORT: u16 = 7399;

/// `127.0.X.0/24`, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Network {
    number: u8,
    _lease: TcpListener,
}

impl Network {
    /// Takes one that nobody uses.
    ///
    /// # Panics
    /// When all are taken.
    pub fn take() -> Self {
        for number in NETWORKS {
            let lease = TcpListener::bind((Ipv4Addr::new(127, 0, number, 1), LEASE_PORT));
            if let Ok(lease) = lease {
                return Self { number, _lease: lease };
            }
        }
        panic!("no loopback network is free");
    }

    /// The address of node `nK`.
    pub fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, self.number, 10 + number)
    }
}

/// How many clusters run at once, since each keeps a processor busy.
static FREE: Mutex<Option<usize>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

fn all_turns() -> usize {
    let wanted = std::env::var("RUNG_TEST_CLUSTERS").ok().and_then(|text| text.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    wanted.unwrap_or(cores).max(1)
}

/// Beside what else a cluster may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Company {
    /// As many others as there are processors.
    Others,
    /// None, so that what it measures is its own.
    Nobody,
    /// The other cluster of the same test, which has the turn.
    Same,
}

/// A cluster's turn on the machine.
#[derive(Debug)]
pub struct Turn {
    parts: usize,
}

impl Turn {
    /// Waits until there is room for the cluster.
    pub fn take(company: Company) -> Self {
        let all = all_turns();
        let parts = match company {
            Company::Others => 1,
            Company::Nobody => all,
            Company::Same => 0,
        };
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        while free.unwrap_or(all) < parts {
            free = CHANGED.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free = Some(free.unwrap_or(all) - parts);
        Self { parts }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = free.as_mut() {
            *free += self.parts;
        }
        CHANGED.notify_all();
    }
}
