//! Where an actor is.

use std::fmt;

use rung_proto::{Incarnation, NodeId, Role};
use serde::{Deserialize, Serialize};

/// An actor on a node, in one start of that node. After a restart it is another
/// actor: it knows nothing of what was said to the former one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ActorAddress {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// `None` for actors that serve the node itself.
    #[serde(default)]
    pub role: Option<Role>,
    pub name: String,
}

impl fmt::Display for ActorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = self.role.map_or("node", Role::name);
        write!(f, "{}#{}/{role}/{}", self.node, self.incarnation, self.name)
    }
}
