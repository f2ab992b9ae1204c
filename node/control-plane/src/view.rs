//! What one node observes of the others, at one moment.

use std::collections::{BTreeMap, BTreeSet};

use rung_proto::api::NodeState;
use rung_proto::soft::{
    ArchiveStatus, CopyKind, CopyState, CopyStatus, InstanceState, InstanceStatus, NodeSoftState,
};
use rung_proto::{GroupId, InstanceId, NodeId, Role};

/// What membership says of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Liveness {
    pub state: NodeState,
    /// When it reached that state, on the observer's clock.
    pub since_ms: u64,
}

/// The observations that decisions are made from.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct View {
    /// The observer's clock, milliseconds since 1970.
    pub now_ms: u64,
    pub members: BTreeMap<NodeId, Liveness>,
    pub soft: BTreeMap<NodeId, NodeSoftState>,
    /// The control group's voters and leader.
    pub voters: BTreeSet<NodeId>,
    pub leader: Option<NodeId>,
}

impl View {
    /// Alive or suspected: a suspicion alone changes nothing.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.members
            .get(&node)
            .is_some_and(|m| matches!(m.state, NodeState::Alive | NodeState::Suspect))
    }

    /// Known to be gone for at least `grace_ms`. A node that membership has not
    /// heard of is not gone: it may be about to be heard of.
    pub fn is_gone(&self, node: NodeId, grace_ms: u64) -> bool {
        self.members.get(&node).is_some_and(|m| match m.state {
            NodeState::Alive | NodeState::Suspect => false,
            // One that said goodbye may only be starting again.
            NodeState::Left | NodeState::Down => self.now_ms.saturating_sub(m.since_ms) >= grace_ms,
        })
    }

    pub fn instance(&self, node: NodeId, id: InstanceId) -> Option<&InstanceStatus> {
        self.soft.get(&node).and_then(|soft| soft.instances.iter().find(|status| status.id == id))
    }

    /// Whether an instance takes requests, as far as its node, which is up, says.
    pub fn is_healthy(&self, node: NodeId, id: InstanceId) -> bool {
        self.is_up(node)
            && self.instance(node, id).is_some_and(|status| status.state == InstanceState::Healthy)
    }

    pub fn is_broken(&self, node: NodeId, role: Role) -> bool {
        self.soft
            .get(&node)
            .is_some_and(|soft| soft.broken_roles.iter().any(|(broken, _)| *broken == role))
    }

    /// Whether a role that listens does so on a node, as it says. The others
    /// have nothing to say of themselves.
    pub fn serves(&self, node: NodeId, role: Role) -> bool {
        match role {
            Role::Control | Role::Web => true,
            Role::Dns | Role::Lb | Role::Db => {
                self.soft.get(&node).is_some_and(|soft| soft.serving.contains(&role))
            }
        }
    }

    /// What a node says of its copy of a shard.
    pub fn copy(&self, node: NodeId, group: GroupId) -> Option<&CopyStatus> {
        let soft = self.soft.get(&node)?;
        soft.databases.iter().find(|copy| copy.group == group)
    }

    /// The primary of a shard: of those that are up and call themselves so, the
    /// one with the highest epoch.
    pub fn primary(&self, group: GroupId) -> Option<(NodeId, &CopyStatus)> {
        let up = self.soft.keys().copied().filter(|node| self.is_up(*node));
        let copies = up.filter_map(|node| Some((node, self.copy(node, group)?)));
        copies
            .filter(|(_, copy)| copy.kind == CopyKind::Primary)
            .max_by_key(|(_, copy)| (copy.generation, copy.epoch))
    }

    /// The archive of a shard as its writer tells it: of those that are up, the one that
    /// is furthest.
    pub fn archive(&self, group: GroupId) -> Option<(NodeId, &ArchiveStatus)> {
        let up = self.soft.keys().copied().filter(|node| self.is_up(*node));
        let told = up.filter_map(|node| Some((node, self.copy(node, group)?.archive.as_ref()?)));
        told.max_by_key(|(_, archive)| (archive.complete_ms, archive.log_index))
    }

    /// The node that should write the archive of a shard: a replica that serves, so that
    /// the primary has no work with it, otherwise the primary.
    pub fn archiver(&self, group: GroupId) -> Option<NodeId> {
        let serves = |node: &NodeId, kind: CopyKind| {
            let copy = self.copy(*node, group);
            self.is_up(*node)
                && copy.is_some_and(|it| it.kind == kind && it.state == CopyState::Serving)
        };
        let replica = self.soft.keys().copied().find(|node| serves(node, CopyKind::Replica));
        replica.or_else(|| self.primary(group).map(|(node, _)| node))
    }

    /// The control index that a node has applied, as it says.
    pub fn applied(&self, node: NodeId) -> u64 {
        self.soft.get(&node).map_or(0, |soft| soft.applied_index)
    }
}
