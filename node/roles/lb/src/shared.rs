//! What all threads of a balancer share, and what each has of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rung_proto::{InstanceId, NodeId};
use rung_transport::Mesh;
use tokio::sync::watch;

use crate::access_log::{LogLines, LogSender};
use crate::config::LbConfig;
use crate::hash_ring::HashRing;
use crate::instance::Instance;
use crate::metrics::{AppMetrics, InstanceMetrics, LbMetrics, RequestMetrics, Totals};
use crate::rate_limit::RateLimiter;
use crate::route::{App, LastingApp, Snapshot};
use crate::table::{Policy, RoutingTable, TargetState};
use crate::tls::Certificates;

pub(crate) struct Shared {
    pub config: LbConfig,
    pub threads: usize,
    pub origin: Instant,
    pub mesh: Option<Mesh>,
    pub snapshot: ArcSwap<Snapshot>,
    /// Rises with each table and each change of what is avoided.
    pub changed: watch::Sender<u64>,
    pub stopping: AtomicBool,
    pub connections: AtomicUsize,
    /// Requests being served.
    pub active: AtomicUsize,
    pub waiting: AtomicUsize,
    pub totals: Totals,
    pub rate_limiter: Option<RateLimiter>,
    pub certificates: Arc<Certificates>,
    pub log: Option<LogSender>,
    lasting: Mutex<Lasting>,
}

/// What outlives a table.
#[derive(Default)]
struct Lasting {
    instances: HashMap<InstanceId, (String, Arc<Instance>)>,
    /// Replaced by one of the same id at another address, and still busy.
    former: Vec<Arc<Instance>>,
    apps: HashMap<String, Arc<LastingApp>>,
    avoided: HashMap<NodeId, Arc<AtomicBool>>,
}

/// One thread's view.
pub(crate) struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub log: Mutex<LogLines>,
}

impl Lasting {
    /// Sets those aside that came back at another address, after a restart. They
    /// get no new requests any more.
    fn drop_moved(&mut self, table: &RoutingTable) -> Vec<Arc<Instance>> {
        self.former.retain(|instance| instance.in_flight.load(Relaxed) > 0);
        let mut moved = Vec::new();
        for target in table.apps.iter().flat_map(|app| &app.instances) {
            let Some((_, known)) = self.instances.get(&target.id) else { continue };
            if known.place != target.place || known.node != target.node {
                known.retired.store(true, Relaxed);
                moved.push(known.clone());
                self.former.push(known.clone());
                self.instances.remove(&target.id);
            }
        }
        moved
    }
}

impl Shared {
    pub fn new(
        config: LbConfig,
        threads: usize,
        mesh: Option<Mesh>,
        certificates: Arc<Certificates>,
        log: Option<LogSender>,
    ) -> Shared {
        Shared {
            rate_limiter: config.limits.rate.map(RateLimiter::new),
            config,
            threads,
            origin: Instant::now(),
            mesh,
            snapshot: ArcSwap::default(),
            changed: watch::channel(0).0,
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            totals: Totals::default(),
            certificates,
            log,
            lasting: Mutex::default(),
        }
    }

    /// Milliseconds of the balancer's own clock; starts at 1, so that zero can
    /// mean never.
    pub fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64 + 1
    }

    fn lasting(&self) -> std::sync::MutexGuard<'_, Lasting> {
        self.lasting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Routes by `table` from now on. The instances that get no new requests
    /// any more.
    pub fn replace_table(&self, table: &RoutingTable) -> Vec<Arc<Instance>> {
        let now_ms = self.ms(Instant::now());
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut lasting = self.lasting();
        let mut apps = Vec::with_capacity(table.apps.len());
        let mut named = Vec::new();
        let mut retired = lasting.drop_moved(table);
        for route in &table.apps {
            let mut ready = Vec::new();
            for target in &route.instances {
                let avoided = lasting.avoided.entry(target.node).or_default().clone();
                let age_ms = wall_ms as i64 - target.since_ms as i64;
                let (_, instance) = lasting.instances.entry(target.id).or_insert_with(|| {
                    let new = Instance::new(target, avoided, age_ms.max(0), now_ms, self.threads);
                    (route.name.clone(), Arc::new(new))
                });
                named.push(target.id);
                instance.retired.store(target.state == TargetState::Draining, Relaxed);
                if target.state == TargetState::Ready {
                    ready.push(instance.clone());
                }
            }
            ready.sort_by_key(|instance| instance.dc != self.config.dc);
            let near = ready.iter().filter(|instance| instance.dc == self.config.dc).count();
            let ring = match route.policy {
                Policy::ConsistentHash(_) => HashRing::new(ready.iter().map(|one| one.id)),
                _ => HashRing::default(),
            };
            let threads = self.threads;
            let of_app = lasting.apps.entry(route.name.clone());
            apps.push(Arc::new(App {
                name: route.name.clone(),
                policy: route.policy.clone(),
                max_in_flight: route.max_in_flight,
                sticky: route.sticky,
                ready,
                near,
                ring,
                lasting: of_app.or_insert_with(|| Arc::new(LastingApp::new(threads))).clone(),
            }));
        }
        self.snapshot.store(Arc::new(Snapshot::new(table.version, &table.apps, apps)));
        let named: std::collections::HashSet<InstanceId> = named.into_iter().collect();
        lasting.instances.retain(|id, (_, instance)| {
            let gone = !named.contains(id);
            if gone {
                instance.retired.store(true, Relaxed);
            }
            if instance.retired.load(Relaxed) {
                retired.push(instance.clone());
            }
            !gone || instance.in_flight.load(Relaxed) > 0
        });
        lasting.apps.retain(|name, app| {
            table.apps.iter().any(|route| route.name == *name) || app.in_flight.load(Relaxed) > 0
        });
        drop(lasting);
        self.changed.send_modify(|version| *version += 1);
        retired
    }

    /// Sends nothing to `node`, and takes back what waits there, while `avoid`.
    pub fn avoid_node(&self, node: NodeId, avoid: bool) {
        let mut lasting = self.lasting();
        lasting.avoided.entry(node).or_default().store(avoid, Relaxed);
        let there: Vec<_> = lasting
            .instances
            .values()
            .filter(|(_, instance)| instance.node == node)
            .map(|(_, instance)| instance.clone())
            .collect();
        drop(lasting);
        if avoid {
            for (instance, thread) in
                there.iter().flat_map(|i| (0..self.threads).map(move |t| (i, t)))
            {
                instance.prune_idle(thread, |_| false);
            }
        }
        self.changed.send_modify(|version| *version += 1);
    }

    pub fn in_flight(&self, id: InstanceId) -> usize {
        let lasting = self.lasting();
        let known = lasting.instances.get(&id).map(|(_, instance)| instance);
        let former = lasting.former.iter().filter(|instance| instance.id == id);
        known.into_iter().chain(former).map(|instance| instance.in_flight.load(Relaxed)).sum()
    }

    /// Every instance that is known, also those that are draining.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.lasting().instances.values().map(|(_, instance)| instance.clone()).collect()
    }

    pub fn metrics(&self) -> LbMetrics {
        let now_ms = self.ms(Instant::now());
        let totals = &self.totals;
        let lasting = self.lasting();
        let mut apps: Vec<_> = lasting
            .apps
            .iter()
            .map(|(name, app)| AppMetrics {
                name: name.clone(),
                requests: RequestMetrics::of(&app.counters, app.in_flight.load(Relaxed)),
            })
            .collect();
        apps.sort_by(|a, b| a.name.cmp(&b.name));
        let mut instances: Vec<_> = lasting
            .instances
            .values()
            .map(|(app, instance)| InstanceMetrics {
                id: instance.id,
                app: app.clone(),
                node: instance.node,
                requests: RequestMetrics::of(&instance.counters, instance.in_flight.load(Relaxed)),
                ejected: instance.health.standing(now_ms) != crate::health::Standing::Good,
                ejections: instance.health.ejections(),
                latency_us: instance.latency_us(),
                idle_connections: instance.idle_count(),
            })
            .collect();
        instances.sort_by_key(|instance| instance.id);
        LbMetrics {
            table_version: self.snapshot.load().version,
            connections: self.connections.load(Relaxed),
            connections_accepted: totals.accepted.load(Relaxed),
            connections_refused: totals.refused.load(Relaxed),
            bad_requests: totals.bad_requests.load(Relaxed),
            unrouted: totals.unrouted.load(Relaxed),
            rate_limited: totals.rate_limited.load(Relaxed),
            tls_failures: totals.tls_failures.load(Relaxed),
            log_lines_dropped: self.log.as_ref().map_or(0, LogSender::dropped),
            waiting: self.waiting.load(Relaxed),
            apps,
            instances,
        }
    }
}

/// Counts itself while it lives.
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub fn new(counter: &'a AtomicUsize) -> Counted<'a> {
        counter.fetch_add(1, Relaxed);
        Counted(counter)
    }

    /// Unless `most` are counted already.
    pub fn up_to(counter: &'a AtomicUsize, most: usize) -> Option<Counted<'a>> {
        if counter.fetch_add(1, Relaxed) >= most {
            counter.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Counted(counter))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
