//! Soft state: what this node tells every peer of itself, and what they told it.
//!
//! Each change gets a version and is pushed to every peer that membership calls
//! alive, again and again until that peer acknowledges it or a newer one. A
//! balancer acknowledges only when it routes by it, which is what makes an
//! acknowledged removal mean that no new request comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rung_membership::MembershipView;
use rung_proto::soft::{InstanceState, NodeSoftState, first_generation};
use rung_proto::{Incarnation, InstanceId, NodeId, Role, encoding};
use rung_transport::{Lane, Mesh};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::protocol::service;

/// How long a peer may take to acknowledge before it is told again.
const PUSH: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(200);

/// What this node knows by soft state. Clones are the same.
#[derive(Clone)]
pub struct SoftState {
    shared: Arc<Shared>,
    mine: watch::Sender<Arc<NodeSoftState>>,
    others: watch::Sender<Arc<BTreeMap<NodeId, NodeSoftState>>>,
    /// Which version of ours each peer has acknowledged.
    acknowledged: watch::Sender<BTreeMap<NodeId, (Incarnation, u64)>>,
}

struct Shared {
    node: NodeId,
    mesh: Mesh,
    pushers: Mutex<BTreeMap<NodeId, (Incarnation, JoinHandle<()>)>>,
}

impl Shared {
    fn pushers(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Incarnation, JoinHandle<()>)>> {
        self.pushers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SoftState {
    pub fn new(node: NodeId, incarnation: Incarnation, mesh: Mesh) -> Self {
        let mine = NodeSoftState {
            node,
            incarnation,
            version: 1,
            instances: Vec::new(),
            host: Default::default(),
            actors: Vec::new(),
            broken_roles: Vec::new(),
            serving: Vec::new(),
            databases: Vec::new(),
            applied_index: 0,
            generation: first_generation(),
        };
        Self {
            shared: Arc::new(Shared { node, mesh, pushers: Mutex::default() }),
            mine: watch::Sender::new(Arc::new(mine)),
            others: watch::Sender::new(Arc::default()),
            acknowledged: watch::Sender::new(BTreeMap::new()),
        }
    }

    /// Changes what this node says of itself. An edit that changes nothing is
    /// not told to anybody.
    pub fn update(&self, edit: impl FnOnce(&mut NodeSoftState)) {
        self.mine.send_if_modified(|mine| {
            let mut next = (**mine).clone();
            edit(&mut next);
            if next == **mine {
                return false;
            }
            next.version = mine.version + 1;
            *mine = Arc::new(next);
            true
        });
    }

    /// Says whether a role that listens does so here.
    pub fn set_serving(&self, role: Role, serves: bool) {
        self.update(|mine| {
            mine.serving.retain(|other| *other != role);
            if serves {
                mine.serving.push(role);
                mine.serving.sort_unstable();
            }
        });
    }

    pub fn mine(&self) -> Arc<NodeSoftState> {
        self.mine.borrow().clone()
    }

    pub fn watch_mine(&self) -> watch::Receiver<Arc<NodeSoftState>> {
        self.mine.subscribe()
    }

    pub fn watch_others(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, NodeSoftState>>> {
        self.others.subscribe()
    }

    /// What every node says of itself, this one included.
    pub fn all(&self) -> BTreeMap<NodeId, NodeSoftState> {
        let mut all = (**self.others.borrow()).clone();
        all.insert(self.shared.node, (*self.mine()).clone());
        all
    }

    /// Takes in what a peer says of itself. Returns whether it was news.
    pub fn learn(&self, from: NodeId, told: NodeSoftState) -> bool {
        if told.node != from {
            return false;
        }
        self.others.send_if_modified(|others| {
            let known = others.get(&from).map(|known| (known.incarnation, known.version));
            if known.is_some_and(|known| known >= (told.incarnation, told.version)) {
                return false;
            }
            let mut next = (**others).clone();
            next.insert(from, told);
            *others = Arc::new(next);
            true
        })
    }

    /// Pushes to exactly the members that are up, and forgets the removed.
    pub fn follow_membership(&self, view: &MembershipView) {
        let mut pushers = self.shared.pushers();
        pushers.retain(|node, (incarnation, task)| {
            let same = view
                .members
                .get(node)
                .is_some_and(|m| m.state.is_active() && m.incarnation == *incarnation);
            if !same {
                task.abort();
            }
            same
        });
        for member in view.active().filter(|member| member.node != self.shared.node) {
            pushers.entry(member.node).or_insert_with(|| {
                let pusher = self.clone().push_to(member.node, member.incarnation);
                (member.incarnation, tokio::spawn(pusher))
            });
        }
        drop(pushers);
        self.others.send_if_modified(|others| {
            if others.keys().all(|node| view.members.contains_key(node)) {
                return false;
            }
            let mut next = (**others).clone();
            next.retain(|node, _| view.members.contains_key(node));
            *others = Arc::new(next);
            true
        });
    }

    async fn push_to(self, peer: NodeId, incarnation: Incarnation) {
        let mut mine = self.mine.subscribe();
        let mut told = 0;
        loop {
            let current = mine.borrow_and_update().clone();
            if current.version > told {
                let body = Bytes::from(encoding::encode(&*current));
                let call =
                    self.shared.mesh.call(peer, Lane::Control, service::SOFT_STATE, body, PUSH);
                match call.await {
                    Ok(_) => {
                        told = current.version;
                        self.acknowledged.send_modify(|acknowledged| {
                            acknowledged.insert(peer, (incarnation, told));
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%peer, %error, "a peer did not take this node's state");
                        // A newer version is as good a reason to try as a pause.
                        let _ = timeout(RETRY, mine.changed()).await;
                    }
                }
            } else if mine.changed().await.is_err() {
                return;
            }
        }
    }

    /// This node's own balancer routes by this version.
    pub fn acknowledge_here(&self, version: u64) {
        let incarnation = self.mine().incarnation;
        let node = self.shared.node;
        self.acknowledged.send_if_modified(|acknowledged| {
            acknowledged.insert(node, (incarnation, version)) != Some((incarnation, version))
        });
    }

    /// Waits until each of `peers` has acknowledged that the instance drains, or
    /// is none of `alive` any more, or the deadline has passed. Returns those
    /// that stayed silent.
    pub async fn drain_acknowledged(
        &self,
        instance: InstanceId,
        peers: impl Fn() -> Vec<NodeId>,
        deadline: Duration,
    ) -> Vec<NodeId> {
        let mut acknowledged = self.acknowledged.subscribe();
        let waiting = async {
            // The version in which the removal is told; pushed after it is made.
            let mut mine = self.mine.subscribe();
            let version = loop {
                let current = mine.borrow_and_update().clone();
                let draining = current
                    .instances
                    .iter()
                    .find(|status| status.id == instance)
                    .is_none_or(|status| status.state > InstanceState::Healthy);
                if draining {
                    break current.version;
                }
                if mine.changed().await.is_err() {
                    return;
                }
            };
            loop {
                let done = {
                    let acknowledged = acknowledged.borrow_and_update();
                    peers().iter().all(|peer| {
                        acknowledged.get(peer).is_some_and(|(_, told)| *told >= version)
                    })
                };
                if done {
                    return;
                }
                // Membership may have changed as well, so look from time to time.
                let _ = timeout(RETRY, acknowledged.changed()).await;
            }
        };
        if timeout(deadline, waiting).await.is_ok() {
            return Vec::new();
        }
        let version = self.mine().version;
        let acknowledged = self.acknowledged.borrow();
        let silent = |peer: &NodeId| acknowledged.get(peer).is_none_or(|(_, told)| *told < version);
        peers().into_iter().filter(silent).collect()
    }
}
