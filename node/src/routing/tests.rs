use std::net::{IpAddr, Ipv4Addr};

use rung_control_plane::state::{AppRecord, NodeRecord, ReleaseRecord};
use rung_membership::{Member, Text};
use rung_proto::{Digest, Epoch, Incarnation};

use super::*;

const ME: NodeId = NodeId(1);

fn record(number: u8, dc: &str) -> NodeRecord {
    let public = IpAddr::V4(Ipv4Addr::new(192, 0, 2, number));
    NodeRecord {
        id: NodeId(number.into()),
        name: format!("n{number}"),
        dc: dc.to_owned(),
        mesh: SocketAddr::new(public, 7400),
        admin: SocketAddr::new(public, 7401),
        public,
        pins: BTreeMap::new(),
        cordoned: false,
        draining: false,
        incarnation: Incarnation(1),
        version: "0.1.0".to_owned(),
        joined: number.into(),
    }
}

/// The nodes n1 and n2 in `east`, n3 in `west`, and the app `photos`.
fn state() -> State {
    let manifest = "name = \"photos\"\ndomain = \"photos.test\"\n[web]\ncommand = \"./run\"\n";
    let release = ReleaseRecord {
        digest: Digest([1; 32]),
        size: 1,
        manifest: rung_bundle::parse_manifest(manifest).unwrap(),
        created_ms: 1,
    };
    let app = AppRecord {
        name: "photos".to_owned(),
        releases: BTreeMap::from([(1, release)]),
        current: Some(1),
        targets: BTreeMap::new(),
        web: 2,
        env_version: 0,
        env_names: BTreeMap::new(),
        removing: false,
        last_release: 1,
    };
    let nodes = [record(1, "east"), record(2, "east"), record(3, "west")];
    let mut state = State { index: 7, ..State::default() };
    state.nodes = nodes.into_iter().map(|node| (node.id, node)).collect();
    state.apps.insert(app.name.clone(), app);
    state
}

fn owners(state: &mut State, role: Role, nodes: &[u64]) {
    let owners = nodes.iter().map(|node| (NodeId(*node), Epoch(1))).collect();
    state.roles.entry(role).or_default().owners = owners;
}

/// Who is a member, with its incarnation and how it seems.
fn members(list: &[(u64, u64, MemberState)]) -> MembershipView {
    let member = |(node, incarnation, state): &(u64, u64, MemberState)| Member {
        node: NodeId(*node),
        incarnation: Incarnation(*incarnation),
        address: "192.0.2.1:7400".parse().unwrap(),
        dc: Text::new("east").unwrap(),
        name: Text::new("n").unwrap(),
        state: *state,
        since_ms: 0,
    };
    let members = list.iter().map(|entry| (NodeId(entry.0), member(entry))).collect();
    MembershipView { version: 1, local: ME, members, health: 0, superseded_by: None }
}

fn told(node: u64, incarnation: u64, instances: &[(u64, InstanceState)]) -> NodeSoftState {
    let status = |(id, state): &(u64, InstanceState)| InstanceStatus {
        id: InstanceId(*id),
        app: "photos".to_owned(),
        release: 1,
        state: *state,
        pid: None,
        port: None,
        restarts: 0,
        since_ms: 5,
        problem: None,
    };
    NodeSoftState {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        version: 1,
        instances: instances.iter().map(status).collect(),
        host: Default::default(),
        actors: Vec::new(),
        broken_roles: Vec::new(),
        databases: Vec::new(),
        serving: Vec::new(),
        applied_index: 7,
        generation: 1,
    }
}

fn soft(list: Vec<NodeSoftState>) -> BTreeMap<NodeId, NodeSoftState> {
    list.into_iter().map(|told| (told.node, told)).collect()
}

/// The instances that are routed to; those of this node listen on their id.
fn routed(members: &MembershipView, told: Vec<NodeSoftState>) -> Vec<(u64, TargetState)> {
    let local = |id: InstanceId| Some(SocketAddr::from(([127, 0, 0, 1], id.0 as u16)));
    let table = routing_table(ME, &state(), members, &soft(told), local);
    table.apps[0].instances.iter().map(|target| (target.id.0, target.state)).collect()
}

use InstanceState::{Draining, Failed, Healthy, Starting, Stopped};
use MemberState::{Alive, Down, Left, Suspect};

#[test]
fn an_app_is_found_by_its_domain_with_and_without_www() {
    let table = routing_table(ME, &state(), &members(&[]), &soft(Vec::new()), |_| None);
    assert_eq!((table.version, table.apps.len()), (7, 1));
    assert_eq!(table.apps[0].domains, ["photos.test", "www.photos.test"]);
    assert_eq!(table.apps[0].instances, []);
}

#[test]
fn only_instances_that_serve_are_routed_to_and_draining_ones_are_marked() {
    let all = [(1, Starting), (2, Healthy), (3, Draining), (4, Failed), (5, Stopped)];
    let ready = [(2, TargetState::Ready), (3, TargetState::Draining)];
    assert_eq!(routed(&members(&[(2, 1, Alive)]), vec![told(2, 1, &all)]), ready);
}

#[test]
fn nodes_that_are_down_gone_or_unknown_get_nothing_and_suspects_still_do() {
    let told = |node| vec![told(node, 1, &[(9, Healthy)])];
    for (state, wanted) in [(Alive, 1), (Suspect, 1), (Down, 0), (Left, 0)] {
        assert_eq!(routed(&members(&[(2, 1, state)]), told(2)).len(), wanted, "{state:?}");
    }
    assert_eq!(routed(&members(&[]), told(2)), []);
    // A member that the cluster does not know, or does not know any more.
    assert_eq!(routed(&members(&[(4, 1, Alive)]), told(4)), []);
}

#[test]
fn what_a_node_said_before_it_started_again_is_not_routed_by() {
    let before = || vec![told(2, 1, &[(9, Healthy)])];
    assert_eq!(routed(&members(&[(2, 1, Alive)]), before()).len(), 1);
    assert_eq!(routed(&members(&[(2, 2, Alive)]), before()), []);
    let after = vec![told(2, 2, &[(9, Healthy)])];
    assert_eq!(routed(&members(&[(2, 2, Alive)]), after).len(), 1);
}

#[test]
fn instances_of_this_node_are_reached_directly_whatever_membership_says() {
    let told = soft(vec![told(1, 3, &[(8, Healthy), (9, Healthy)]), told(3, 1, &[(7, Healthy)])]);
    let address = SocketAddr::from(([127, 0, 0, 1], 20_008));
    // Instance 9 takes no requests any more, which its node has not said yet.
    let local = |id: InstanceId| (id.0 == 8).then_some(address);
    let table = routing_table(ME, &state(), &members(&[(3, 1, Alive)]), &told, local);
    let target = |id, node, dc: &str, place| Target {
        id: InstanceId(id),
        node: NodeId(node),
        dc: dc.to_owned(),
        place,
        state: TargetState::Ready,
        since_ms: 5,
    };
    let wanted =
        [target(8, 1, "east", Place::Local { address }), target(7, 3, "west", Place::Remote)];
    assert_eq!(table.apps[0].instances, wanted);
}

#[test]
fn a_zone_lists_its_name_servers_and_the_balancers_that_are_alive() {
    let mut state = state();
    owners(&mut state, Role::Dns, &[1, 3]);
    owners(&mut state, Role::Lb, &[1, 2, 3]);
    // This node answers for itself although membership does not list it.
    let zones = zones(ME, &state, &members(&[(2, 1, Suspect), (3, 1, Alive)]));
    let [zone] = zones.zones.as_slice() else { panic!("{zones:?}") };
    assert_eq!((zones.version, zone.serial, zone.apex.as_str()), (7, 7, "photos.test"));
    let servers: Vec<_> = zone.name_servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(servers, ["ns1.photos.test", "ns2.photos.test"]);
    assert_eq!(zone.name_servers[1].addresses, [state.nodes[&NodeId(3)].public]);
    let target = |node: u64| LbTarget {
        address: state.nodes[&NodeId(node)].public,
        dc: state.nodes[&NodeId(node)].dc.clone(),
    };
    assert_eq!(zone.targets, [target(1), target(3)]);
    assert_eq!(zones.locations.default, ["east"]);
}

#[test]
fn without_a_name_server_or_a_release_there_is_no_zone() {
    let mut state = state();
    assert_eq!(zones(ME, &state, &members(&[])).zones, []);
    owners(&mut state, Role::Dns, &[1]);
    assert_eq!(zones(ME, &state, &members(&[])).zones.len(), 1);
    let app = state.apps.get_mut("photos").unwrap();
    app.releases.clear();
    app.current = None;
    assert_eq!(zones(ME, &state, &members(&[])).zones, []);
}

#[test]
fn a_serial_is_never_zero() {
    let mut state = state();
    owners(&mut state, Role::Dns, &[1]);
    for (index, serial) in [(0, 1), (u64::from(u32::MAX), 1), (u64::from(u32::MAX) + 5, 5)] {
        state.index = index;
        assert_eq!(zones(ME, &state, &members(&[])).zones[0].serial, serial);
    }
}
