//! Runs the name server while this node has the role, and keeps its zones current.

use std::sync::{Arc, Mutex, PoisonError};

use rung_dns::{DnsConfig, DnsMetrics, DnsServer};
use rung_proto::Role;
use rung_runtime::{Shutdown, TaskResult};

use crate::node::Node;
use crate::routing;

/// What others see of the role on this node.
#[derive(Clone, Default)]
pub struct DnsRole {
    server: Arc<Mutex<Option<Arc<DnsServer>>>>,
}

impl DnsRole {
    pub fn metrics(&self) -> Option<DnsMetrics> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        server.map(|server| server.metrics())
    }

    fn keep(&self, server: Option<Arc<DnsServer>>) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Answers until told to stop, or until the server fails.
    ///
    /// # Errors
    /// Why it could not start or go on.
    pub async fn run(self, node: Arc<Node>, mut shutdown: Shutdown) -> TaskResult {
        let config = DnsConfig::new(node.addresses.dns);
        let server = DnsServer::start(config).map_err(|error| error.to_string())?;
        let server = Arc::new(server);
        self.keep(Some(Arc::clone(&server)));
        node.soft.set_serving(Role::Dns, true);
        let _down = Down(Arc::clone(&node));
        let ended = tokio::select! {
            reason = server.failed() => Err(reason),
            () = keep_zones(&node, &server) => Err("the zones are no longer kept".to_owned()),
            () = shutdown.requested() => Ok(()),
        };
        self.keep(None);
        if let Some(server) = Arc::into_inner(server) {
            server.stop().await;
        }
        ended.map_err(Into::into)
    }
}

/// Takes back what the role said of itself, however it ended.
struct Down(Arc<Node>);

impl Drop for Down {
    fn drop(&mut self) {
        self.0.soft.set_serving(Role::Dns, false);
    }
}

async fn keep_zones(node: &Node, server: &DnsServer) {
    let mut state = node.control.watch_state();
    let mut members = node.membership.watch();
    loop {
        let zones = routing::zones(
            node.id,
            &state.borrow_and_update().clone(),
            &members.borrow_and_update().clone(),
        );
        if let Err(error) = server.update(zones) {
            tracing::warn!(%error, "the zones could not be replaced; the last ones are served");
        }
        tokio::select! {
            _ = state.changed() => {}
            _ = members.changed() => {}
        }
    }
}
