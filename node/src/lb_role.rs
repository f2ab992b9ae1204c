//! Runs the balancer while this node has the role, and keeps its table current.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rung_lb::{AccessLog, Balancer, LbConfig, LbMetrics};
use rung_membership::MemberState;
use rung_proto::{Incarnation, NodeId, Role};
use rung_runtime::{Shutdown, TaskResult};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::node::Node;
use crate::{routing, site_certificates};

/// Which version of each node's soft state the balancer routes by.
pub type Routed = BTreeMap<NodeId, (Incarnation, u64)>;

/// A routing table that the threads do not take in so long is no acknowledgement.
const ACKNOWLEDGE: Duration = Duration::from_millis(2_500);
const UPDATE_AGAIN: Duration = Duration::from_millis(200);
/// How often the files of certificates are looked at for changes.
const CERTIFICATES: Duration = Duration::from_secs(20);
const DRAIN: Duration = Duration::from_secs(5);
const ACCESS_LOG_BYTES: u64 = 16 << 20;
const ACCESS_LOGS: u32 = 4;

/// Takes back what the role said of itself, however it ended: after a panic too
/// nobody may wait for acknowledgements of a balancer that is gone.
struct Down(LbRole, Arc<Node>);

impl Drop for Down {
    fn drop(&mut self) {
        self.0.routed.send_replace(None);
        self.0.balancer.send_replace(None);
        self.1.soft.set_serving(Role::Lb, false);
    }
}

/// What others see of the role on this node.
#[derive(Clone)]
pub struct LbRole {
    routed: watch::Sender<Option<Routed>>,
    balancer: watch::Sender<Option<Arc<Balancer>>>,
}

impl LbRole {
    pub fn new() -> Self {
        Self { routed: watch::Sender::new(None), balancer: watch::Sender::new(None) }
    }

    /// Waits until a balancer that runs here routes by this version of a peer's
    /// soft state. False when it did not in time; true at once without a balancer.
    pub async fn routes_by(&self, node: NodeId, incarnation: Incarnation, version: u64) -> bool {
        let mut routed = self.routed.subscribe();
        let reached = routed.wait_for(|routed| match routed {
            None => true,
            Some(routed) => routed.get(&node).is_some_and(|known| *known >= (incarnation, version)),
        });
        matches!(timeout(ACKNOWLEDGE, reached).await, Ok(Ok(_)))
    }

    pub fn metrics(&self) -> Option<LbMetrics> {
        self.balancer.borrow().as_ref().map(|balancer| balancer.metrics())
    }

    pub fn runs(&self) -> bool {
        self.balancer.borrow().is_some()
    }

    /// Balances until told to stop, or until the balancer fails.
    ///
    /// # Errors
    /// Why it could not start or go on.
    pub async fn run(self, node: Arc<Node>, mut shutdown: Shutdown) -> TaskResult {
        let mut config = LbConfig::new(node.id, node.dc(), node.addresses.http);
        config.https = Some(node.addresses.https);
        config.access_log = AccessLog::File {
            path: node.data.join("logs/access.log"),
            max_bytes: ACCESS_LOG_BYTES,
            keep: ACCESS_LOGS,
        };
        // From here on nothing is acknowledged that the balancer does not route by.
        let _down = Down(self.clone(), Arc::clone(&node));
        self.routed.send_replace(Some(Routed::new()));
        let balancer = Balancer::start(config, Some(node.mesh.clone()))
            .map_err(|error| error.failure().to_string())?;
        let balancer = Arc::new(balancer);
        self.balancer.send_replace(Some(Arc::clone(&balancer)));
        node.soft.set_serving(Role::Lb, true);
        let ended = tokio::select! {
            reason = balancer.failed() => Err(reason),
            () = self.keep_table(&node, &balancer) => Err("the table is no longer kept".to_owned()),
            () = shutdown.requested() => Ok(()),
        };
        self.balancer.send_replace(None);
        if let Some(balancer) = Arc::into_inner(balancer) {
            balancer.stop(DRAIN).await;
        }
        ended.map_err(Into::into)
    }

    /// Keeps the balancer's table at what is known. Never ends.
    async fn keep_table(&self, node: &Node, balancer: &Balancer) {
        let mut state = node.control.watch_state();
        let mut members = node.membership.watch();
        let mut mine = node.soft.watch_mine();
        let mut others = node.soft.watch_others();
        let mut avoided = BTreeMap::new();
        let mut certified = None;
        let mut look_again = tokio::time::interval(CERTIFICATES);
        look_again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look_at_files = false;
        loop {
            let (now, view) =
                (state.borrow_and_update().clone(), members.borrow_and_update().clone());
            mine.mark_unchanged();
            others.mark_unchanged();
            let soft = node.soft.all();
            for member in view.members.values() {
                let avoid = member.state != MemberState::Alive;
                if avoided.insert(member.node, avoid) != Some(avoid) {
                    balancer.avoid_node(member.node, avoid);
                }
            }
            let local = |id| node.web.local_address(id);
            let table = routing::routing_table(node.id, &now, &view, &soft, local);
            let domains: Vec<String> =
                table.apps.iter().flat_map(|app| app.domains.iter().cloned()).collect();
            if !balancer.update(table).await {
                tracing::error!("a data-plane thread did not take the routing table");
                tokio::time::sleep(UPDATE_AGAIN).await;
                continue;
            }
            let same = certified.as_ref().is_some_and(|(known, _)| *known == domains);
            if !same || look_at_files {
                look_at_files = false;
                let files = site_certificates::fingerprint(&node.data, &domains).await;
                let now = Some((domains, files));
                if certified != now {
                    certified = now;
                    let domains = certified.as_ref().map_or(&[][..], |(domains, _)| domains);
                    site_certificates::install(&node.data, domains, balancer).await;
                }
            }
            let routed: Routed =
                soft.values().map(|told| (told.node, (told.incarnation, told.version))).collect();
            if let Some((_, version)) = routed.get(&node.id) {
                node.soft.acknowledge_here(*version);
            }
            self.routed.send_replace(Some(routed));
            tokio::select! {
                _ = state.changed() => {}
                _ = members.changed() => {}
                _ = mine.changed() => {}
                _ = others.changed() => {}
                _ = look_again.tick() => look_at_files = true,
            }
        }
    }
}
