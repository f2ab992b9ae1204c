//! Where the databases are, as the node tells it.

use std::collections::{BTreeMap, HashMap};

use rung_proto::NodeId;
use rung_shard::Shard;

/// Every database that this node knows of.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// By name.
    pub databases: HashMap<String, Database>,
    /// All nodes of the cluster; a cancel request may be for any of them.
    pub nodes: Vec<NodeId>,
}

/// A database.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// By number, from 0.
    pub shards: BTreeMap<u16, ShardPlace>,
}

/// Where a shard is.
#[derive(Clone, Default)]
pub struct ShardPlace {
    /// Which node is the primary, as far as is known.
    pub primary: Option<NodeId>,
    /// The nodes that hold copies, this one included if it does.
    pub copies: Vec<Copy>,
    /// The copy on this node.
    pub local: Option<Shard>,
}

/// A copy of a shard on some node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    pub node: NodeId,
    /// Its data center.
    pub dc: String,
    /// Whether the node is up and the copy serves reads.
    pub serves: bool,
}

impl std::fmt::Debug for ShardPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardPlace")
            .field("primary", &self.primary)
            .field("copies", &self.copies)
            .field("local", &self.local.is_some())
            .finish()
    }
}

impl ShardPlace {
    /// The copy on another node that is best to read from: one in the same data
    /// center, otherwise the primary, otherwise any.
    pub fn near_copy(&self, me: NodeId, dc: &str) -> Option<NodeId> {
        let others = || self.copies.iter().filter(|copy| copy.serves && copy.node != me);
        let near = others().filter(|copy| copy.dc == dc).map(|copy| copy.node);
        // Different nodes choose different copies.
        let near = near.min_by_key(|node| node.0 ^ me.0);
        let primary = self.primary.filter(|primary| *primary != me);
        near.or(primary).or_else(|| others().map(|copy| copy.node).next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_go_to_a_copy_nearby_then_to_the_primary() {
        let copy = |node, dc: &str, serves| Copy { node: NodeId(node), dc: dc.into(), serves };
        let mut place = ShardPlace {
            primary: Some(NodeId(1)),
            copies: vec![copy(1, "east", true), copy(2, "west", true), copy(3, "west", false)],
            local: None,
        };
        assert_eq!(place.near_copy(NodeId(9), "west"), Some(NodeId(2)));
        assert_eq!(place.near_copy(NodeId(2), "west"), Some(NodeId(1)));
        assert_eq!(place.near_copy(NodeId(9), "south"), Some(NodeId(1)));
        place.primary = None;
        place.copies.truncate(1);
        assert_eq!(place.near_copy(NodeId(9), "west"), Some(NodeId(1)));
        assert_eq!(place.near_copy(NodeId(1), "west"), None);
    }
}
