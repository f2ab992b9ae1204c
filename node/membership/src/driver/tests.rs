//! Nodes over real meshes on the loopback.

use std::sync::OnceLock;

use futures_util::FutureExt;
use rung_proto::{ClusterId, Code, Failure, Generation};
use rung_transport::{
    CallRefusal, CertificateAuthority, Handlers, KeyPair, MeshConfig, MeshLimits, NodeIdentity,
};

use super::*;

const SERVICE: u16 = 7;
const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    mesh: Mesh,
    membership: Membership,
}

fn identity(authority: &CertificateAuthority, node: NodeId) -> NodeIdentity {
    let key = KeyPair::generate().unwrap();
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let lifetime = Duration::from_secs(3600);
    let signed = authority.sign(&key.to_csr().unwrap(), node, "east", lifetime, now_ms as u64);
    NodeIdentity::new(&key, signed.unwrap(), authority.certificate_der().to_vec()).unwrap()
}

fn start(authority: &CertificateAuthority, node: u64, incarnation: u64, seeds: Vec<Seed>) -> Node {
    let (node, incarnation) = (NodeId(node), Incarnation(incarnation));
    let (datagram, datagrams) = mpsc::channel(1024);
    let (closed, closed_receiver) = mpsc::channel(16);
    let membership: Arc<OnceLock<Membership>> = Arc::default();
    let answering = membership.clone();
    let handlers = Handlers {
        call: Arc::new(move |call| {
            let refused = || CallRefusal::Failed(Failure::new(Code::Internal, "refused"));
            let answer = answering.get().ok_or_else(refused).and_then(|membership| {
                membership.exchange(&call.from, &call.body).map_err(|_| refused())
            });
            async move { answer }.boxed()
        }),
        stream: Arc::new(|_, _, _, _| {}),
        datagram,
        join: Arc::new(|_, _| {
            async { Err(Failure::new(Code::TokenInvalid, "nobody joins here")) }.boxed()
        }),
        closed,
    };
    let config = MeshConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        identity: identity(authority, node),
        incarnation,
        generation: Generation(1),
        authorise: Arc::new(|_| Ok(())),
        limits: MeshLimits::default(),
    };
    let mesh = Mesh::start(config, handlers).unwrap();
    let config = MembershipConfig {
        node,
        incarnation,
        address: mesh.local_addr(),
        dc: "east".into(),
        name: format!("n{node}"),
        seeds,
        settings: Settings::lan(),
        service: SERVICE,
        random_seed: node.0,
    };
    let started = Membership::start(config, mesh.clone(), datagrams, closed_receiver).unwrap();
    membership.set(started.clone()).ok().expect("set once");
    Node { mesh, membership: started }
}

impl Node {
    fn seed(&self) -> Seed {
        Seed { node: self.membership.view().local, address: self.mesh.local_addr() }
    }

    async fn sees(&self, node: u64, incarnation: u64, state: MemberState) {
        let wanted = |view: &Arc<MembershipView>| {
            let member = view.members.get(&NodeId(node));
            member.is_some_and(|m| m.state == state && m.incarnation.0 == incarnation)
        };
        let mut view = self.membership.watch();
        tokio::time::timeout(PATIENCE, view.wait_for(wanted))
            .await
            .unwrap_or_else(|_| {
                panic!("{node} never became {state:?}: {:?}", self.membership.view())
            })
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_leave_crash_and_come_back_over_a_real_mesh() {
    let authority = CertificateAuthority::create(ClusterId(1)).unwrap();
    let first = start(&authority, 1, 1, Vec::new());
    let second = start(&authority, 2, 1, vec![first.seed()]);
    let third = start(&authority, 3, 1, vec![first.seed()]);
    for (node, others) in [(&first, [2, 3]), (&second, [1, 3]), (&third, [1, 2])] {
        for other in others {
            node.sees(other, 1, MemberState::Alive).await;
        }
    }

    second.membership.leave().await;
    second.mesh.close().await;
    first.sees(2, 1, MemberState::Left).await;
    third.sees(2, 1, MemberState::Left).await;

    // The process of the third is gone: nothing answers any more.
    third.mesh.close().await;
    drop(third);
    first.sees(3, 1, MemberState::Down).await;

    let third = start(&authority, 3, 2, vec![first.seed()]);
    first.sees(3, 2, MemberState::Alive).await;
    third.sees(1, 1, MemberState::Alive).await;
    let second = start(&authority, 2, 2, vec![first.seed()]);
    third.sees(2, 2, MemberState::Alive).await;
    for node in [first, second, third] {
        node.mesh.close().await;
    }
}

#[tokio::test]
async fn a_name_that_is_too_long_is_refused() {
    assert!(matches!(Text::new(&"x".repeat(64)), Err(InvalidText(64))));
}
