//! Who a member is, as foca sees it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rung_proto::{Incarnation, NodeId};

/// The most bytes that the name of a data center or of a node may have.
pub const MAX_TEXT: usize = 63;

/// A name of at most [`MAX_TEXT`] bytes, cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

/// A name that is too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a name has at most {MAX_TEXT} bytes, this one has {0}; choose a shorter one")]
pub struct InvalidText(pub usize);

impl Text {
    /// Takes a name.
    ///
    /// # Errors
    /// When it is longer than [`MAX_TEXT`] bytes.
    pub fn new(text: &str) -> Result<Self, InvalidText> {
        if text.len() > MAX_TEXT { Err(InvalidText(text.len())) } else { Ok(Self(text.into())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One life of a member. A node that was wrongly declared down goes on with the
/// next `renewal`; a node that starts again has the next incarnation.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: NodeId,
    /// Which start of the node this is.
    pub incarnation: Incarnation,
    /// How often it came back from being declared down since that start.
    pub renewal: u32,
    /// It left on purpose; only ever seen as down.
    pub left: bool,
    pub address: SocketAddr,
    pub dc: Text,
    pub name: Text,
}

impl Identity {
    /// What orders the lives of one node.
    pub fn life(&self) -> (Incarnation, u32) {
        (self.incarnation, self.renewal)
    }

    /// The identity with which this life ends on purpose.
    pub fn leaving(&self) -> Self {
        Self { renewal: self.renewal.saturating_add(1), left: true, ..self.clone() }
    }
}

/// The address and the names follow from the life, so they take no part.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node && self.life() == other.life() && self.left == other.left
    }
}

impl Eq for Identity {}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        if self.left {
            return None;
        }
        let renewal = self.renewal.checked_add(1)?;
        Some(Self { renewal, ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    /// A later life wins; in the same life, having left wins.
    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.life(), self.left) > (adversary.life(), adversary.left)
    }
}
