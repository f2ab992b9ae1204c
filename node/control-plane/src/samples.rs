//! Records for tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rung_bundle::{Instances, Manifest, Web};
use rung_proto::api::NodeState;
use rung_proto::soft::{HostStatus, NodeSoftState};
use rung_proto::{Digest, Incarnation, NodeId, Role};

use crate::command::{Answer, Command, Proposal};
use crate::sealed::ClusterKey;
use crate::state::{ClusterRecord, NodeRecord, ReleaseRecord, State};
use crate::view::{Liveness, View};
use crate::{Machine, Outcome};

/// SplitMix64: the same numbers from the same seed, everywhere.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[(self.next() % items.len() as u64) as usize].clone()
    }
}

pub fn node(number: u64, dc: &str) -> NodeRecord {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 10 + number as u8));
    NodeRecord {
        id: NodeId(number),
        name: format!("n{number}"),
        dc: dc.to_owned(),
        mesh: SocketAddr::new(address, 7400),
        admin: SocketAddr::new(address, 7401),
        public: address,
        pins: BTreeMap::new(),
        cordoned: false,
        draining: false,
        incarnation: Incarnation(1),
        version: "0.1.0".to_owned(),
        joined: 0,
    }
}

pub fn manifest(name: &str, instances: u32) -> Manifest {
    Manifest {
        name: name.to_owned(),
        domain: format!("{name}.test"),
        web: Web {
            command: "./run".to_owned(),
            instances: Instances::fixed(instances),
            health: None,
            allow_public_listen: false,
            test: None,
            drain_timeout_ms: 30_000,
        },
        env: BTreeMap::new(),
        db: None,
    }
}

/// A release whose bundle's digest is all `byte`.
pub fn release(name: &str, byte: u8, instances: u32) -> ReleaseRecord {
    ReleaseRecord {
        digest: Digest([byte; 32]),
        size: 1000,
        manifest: manifest(name, instances),
        created_ms: 1,
    }
}

pub fn put_release(name: &str, number: u32, instances: u32) -> Command {
    let record = release(name, number as u8, instances);
    Command::PutRelease {
        app: name.to_owned(),
        release: number,
        digest: record.digest,
        size: record.size,
        manifest: Box::new(record.manifest),
    }
}

pub fn create_cluster(first: NodeRecord) -> Command {
    Command::CreateCluster {
        cluster: ClusterRecord { name: "test".to_owned(), created_ms: 1, ..Default::default() },
        key: [first.id.0 as u8; 32],
        first: Box::new(first),
        ca_key: ClusterKey::from_bytes([1; 32]).seal("ca", b"key"),
    }
}

pub fn proposal(at_ms: u64, command: Command) -> Proposal {
    Proposal { at_ms, if_index: None, by: String::new(), command }
}

/// Applies commands at the indices that follow.
pub trait Applies {
    fn run(&mut self, command: Command) -> Outcome;
    fn done(&mut self, command: Command) -> Answer;
}

impl Applies for Machine {
    fn run(&mut self, command: Command) -> Outcome {
        let index = self.state.index + 1;
        self.apply(index, &proposal(1_000_000 + index, command)).0
    }

    fn done(&mut self, command: Command) -> Answer {
        self.run(command).expect("the command is carried out")
    }
}

/// A cluster of nodes n1, n2, ... that joined in this order.
pub fn cluster(dcs: &[&str]) -> Machine {
    let mut machine = Machine::default();
    let token = [9; 32];
    for (number, dc) in (1..).zip(dcs) {
        let node = node(number, dc);
        if number == 1 {
            machine.done(create_cluster(node));
            let expires_ms = u64::MAX;
            machine.done(Command::CreateToken { hash: token, expires_ms, uses: 1000 });
        } else {
            let key = [number as u8; 32];
            machine.done(Command::AdmitNode { token, key, node: Box::new(node) });
        }
    }
    machine
}

/// All nodes alive and up to date, and no voter yet.
pub fn view(state: &State) -> View {
    let soft = |node: NodeId| NodeSoftState {
        node,
        incarnation: Incarnation(1),
        version: 1,
        instances: Vec::new(),
        host: HostStatus::default(),
        actors: Vec::new(),
        broken_roles: Vec::new(),
        databases: Vec::new(),
        serving: vec![Role::Dns, Role::Lb],
        applied_index: state.index,
        generation: state.generation,
    };
    let alive = Liveness { state: NodeState::Alive, since_ms: 0 };
    View {
        now_ms: 2_000_000,
        members: state.nodes.keys().map(|id| (*id, alive)).collect(),
        soft: state.nodes.keys().map(|id| (*id, soft(*id))).collect(),
        ..View::default()
    }
}

/// Makes a node down for long enough to count as gone.
pub fn kill(view: &mut View, node: u64) {
    let long_ago = view.now_ms - 60_000;
    view.members.insert(NodeId(node), Liveness { state: NodeState::Down, since_ms: long_ago });
}

pub fn ids(numbers: &[u64]) -> std::collections::BTreeSet<NodeId> {
    numbers.iter().map(|number| NodeId(*number)).collect()
}
