//! One instance as all threads see it: its load, its health, its counters and
//! each thread's idle connections to it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rung_proto::{InstanceId, NodeId};

use crate::config::HealthConfig;
use crate::health::{Health, Outcome, slow_start_weight};
use crate::metrics::Counters;
use crate::table::{Place, Target};
use crate::upstream::Connection;

/// Latency is forgotten with this time constant, so that a slow instance is
/// tried again.
const LATENCY_MEMORY_MS: f64 = 10_000.0;

pub(crate) struct Instance {
    pub id: InstanceId,
    pub node: NodeId,
    pub dc: String,
    pub place: Place,
    /// Gets no new request: draining, or gone from the table.
    pub retired: AtomicBool,
    /// Its node is suspected to be dead.
    pub avoided: Arc<AtomicBool>,
    /// When it became ready, in milliseconds of the balancer's clock; negative
    /// for what was ready before the balancer started.
    ready_ms: i64,
    pub in_flight: AtomicUsize,
    pub health: Health,
    latency_us: AtomicU64,
    latency_at_ms: AtomicU64,
    /// For each thread.
    idle: Box<[Mutex<Vec<Idle>>]>,
    pub counters: Box<[Counters]>,
}

pub(crate) struct Idle {
    pub connection: Box<Connection>,
    pub since: Instant,
}

impl Instance {
    pub fn new(
        target: &Target,
        avoided: Arc<AtomicBool>,
        age_ms: i64,
        now_ms: u64,
        threads: usize,
    ) -> Instance {
        Instance {
            id: target.id,
            node: target.node,
            dc: target.dc.clone(),
            place: target.place,
            retired: AtomicBool::new(false),
            avoided,
            ready_ms: now_ms as i64 - age_ms,
            in_flight: AtomicUsize::new(0),
            health: Health::default(),
            latency_us: AtomicU64::new(0),
            latency_at_ms: AtomicU64::new(0),
            idle: (0..threads).map(|_| Mutex::new(Vec::new())).collect(),
            counters: (0..threads).map(|_| Counters::default()).collect(),
        }
    }

    /// Its share, 0.1 to 1, while it is new or just back.
    pub fn weight(&self, now_ms: u64, config: &HealthConfig) -> f64 {
        let since = match self.health.returned_ms() {
            0 => self.ready_ms,
            returned => self.ready_ms.max(returned as i64),
        };
        slow_start_weight(u64::try_from(now_ms as i64 - since).unwrap_or(0), config)
    }

    /// Expected cost of one more request: lower is better.
    pub fn cost(&self, now_ms: u64, config: &HealthConfig) -> f64 {
        let age = now_ms.saturating_sub(self.latency_at_ms.load(Relaxed)) as f64;
        let remembered = self.latency_us.load(Relaxed) as f64 / (1.0 + age / LATENCY_MEMORY_MS);
        // Differences below a tenth of a millisecond are noise.
        let latency = remembered + 100.0;
        latency * (self.in_flight.load(Relaxed) as f64 + 1.0) / self.weight(now_ms, config)
    }

    /// Takes the time to the first byte of a response into the average.
    pub fn record_latency(&self, us: u64, now_ms: u64) {
        let old = self.latency_us.load(Relaxed);
        // A peak counts quickly, calm returns slowly.
        let new = match old {
            0 => us,
            _ if us > old => old.midpoint(us),
            _ => old - (old - us) / 8,
        };
        self.latency_us.store(new, Relaxed);
        self.latency_at_ms.store(now_ms, Relaxed);
    }

    pub fn latency_us(&self) -> u64 {
        self.latency_us.load(Relaxed)
    }

    /// An idle connection of that thread, the one used last.
    pub fn take_idle(&self, thread: usize) -> Option<Idle> {
        self.idle[thread].lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps a connection for the next request.
    pub fn keep_idle(&self, thread: usize, idle: Idle, most: usize) {
        if self.retired.load(Relaxed) || self.avoided.load(Relaxed) {
            return;
        }
        let mut kept = self.idle[thread].lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < most {
            kept.push(idle);
        }
    }

    /// Closes that thread's idle connections that `keep` does not want.
    pub fn prune_idle(&self, thread: usize, keep: impl FnMut(&mut Idle) -> bool) {
        self.idle[thread].lock().unwrap_or_else(PoisonError::into_inner).retain_mut(keep);
    }

    pub fn idle_count(&self) -> usize {
        self.idle.iter().map(|idle| idle.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

/// One request that is at an instance. Dropping it ends that.
pub(crate) struct InFlight {
    pub instance: Arc<Instance>,
    /// It is the probe that decides whether the instance comes back.
    pub probe: bool,
    recorded: bool,
}

impl InFlight {
    pub fn new(instance: Arc<Instance>, probe: bool) -> InFlight {
        instance.in_flight.fetch_add(1, Relaxed);
        InFlight { instance, probe, recorded: false }
    }

    /// Records what came of it. True when the instance should be ejected.
    pub fn record(&mut self, outcome: Outcome, now_ms: u64, config: &HealthConfig) -> bool {
        self.recorded = true;
        self.instance.health.record(outcome, self.probe, now_ms, config)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.instance.in_flight.fetch_sub(1, Relaxed);
        if !self.recorded && self.probe {
            self.instance.health.record(Outcome::Unknown, true, 0, &HealthConfig::default());
        }
    }
}
