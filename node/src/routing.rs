//! What the balancer and the name servers of this node answer by, computed from
//! the state and from what the nodes say of themselves.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rung_control_plane::State;
use rung_dns::{LbTarget, Locations, NameServer, Zone, Zones};
use rung_lb::{AppRoute, Place, RoutingTable, Target, TargetState};
use rung_membership::{MemberState, MembershipView};
use rung_proto::soft::{InstanceState, InstanceStatus, NodeSoftState};
use rung_proto::{InstanceId, NodeId, Role};

/// The routing table of a balancer on node `me`. `local` says where an instance
/// of this very node listens.
///
/// It is made of what the nodes say of their instances, not of the placements:
/// an owner that starts an instance again while no voter is alive is believed.
pub fn routing_table(
    me: NodeId,
    state: &State,
    members: &MembershipView,
    soft: &BTreeMap<NodeId, NodeSoftState>,
    local: impl Fn(InstanceId) -> Option<SocketAddr>,
) -> RoutingTable {
    let mut apps = Vec::new();
    for app in state.apps.values() {
        let mut targets = Vec::new();
        for (node, told) in soft {
            // What a node said before it started again is of instances that are gone.
            let up = *node == me
                || members.members.get(node).is_some_and(|member| {
                    member.state.is_active() && member.incarnation == told.incarnation
                });
            let Some(record) = state.nodes.get(node).filter(|_| up) else { continue };
            let of_app = told.instances.iter().filter(|status| status.app == app.name);
            targets.extend(of_app.filter_map(|status| {
                let place = match *node == me {
                    true => Place::Local { address: local(status.id)? },
                    false => Place::Remote,
                };
                target(status, *node, &record.dc, place)
            }));
        }
        let domain = app.manifest().map(|manifest| manifest.domain.clone());
        let mut domains: Vec<String> = domain.into_iter().collect();
        domains.extend(domains.first().map(|domain| format!("www.{domain}")));
        apps.push(AppRoute::new(app.name.clone(), domains, targets));
    }
    RoutingTable { version: state.index, apps }
}

fn target(status: &InstanceStatus, node: NodeId, dc: &str, place: Place) -> Option<Target> {
    let state = match status.state {
        InstanceState::Healthy => TargetState::Ready,
        InstanceState::Draining => TargetState::Draining,
        InstanceState::Starting | InstanceState::Failed | InstanceState::Stopped => return None,
    };
    Some(Target { id: status.id, node, dc: dc.to_owned(), place, state, since_ms: status.since_ms })
}

/// The zones that node `me` serves: each app's domain, answered with the
/// balancers that are alive.
pub fn zones(me: NodeId, state: &State, members: &MembershipView) -> Zones {
    let alive = |node: &NodeId| {
        *node == me || members.state(*node).is_some_and(|state| state == MemberState::Alive)
    };
    let owners = |role: Role| {
        let owners = state.role(role).owners;
        let mut nodes: Vec<_> =
            state.nodes.values().filter(|node| owners.contains_key(&node.id)).collect();
        nodes.sort_by_key(|node| (node.joined, node.id));
        nodes
    };
    let targets: Vec<LbTarget> = owners(Role::Lb)
        .into_iter()
        .filter(|node| alive(&node.id))
        .map(|node| LbTarget { address: node.public, dc: node.dc.clone() })
        .collect();
    let my_dc = state.nodes.get(&me).map(|node| node.dc.clone()).unwrap_or_default();
    let mut zones = Vec::new();
    for app in state.apps.values() {
        let Some(domain) = app.manifest().map(|manifest| manifest.domain.clone()) else { continue };
        let servers: Vec<NameServer> = owners(Role::Dns)
            .into_iter()
            .enumerate()
            .map(|(position, node)| NameServer {
                name: format!("ns{}.{domain}", position + 1),
                addresses: vec![node.public],
            })
            .collect();
        if servers.is_empty() {
            continue;
        }
        let mut zone = Zone::new(domain, servers);
        // Secondaries compare serials; ours rises with the state.
        zone.serial = u32::try_from(state.index % u64::from(u32::MAX)).unwrap_or(1).max(1);
        zone.targets.clone_from(&targets);
        zones.push(zone);
    }
    Zones {
        version: state.index,
        zones,
        locations: Locations { default: vec![my_dc], entries: Vec::new() },
    }
}

#[cfg(test)]
mod tests;
