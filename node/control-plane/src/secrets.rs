//! The part of the control state that only voters hold.

use std::collections::BTreeMap;

use rung_proto::NodeId;
use serde::{Deserialize, Serialize};

use crate::sealed::Sealed;

/// SHA-256 of a token's secret, or of a joiner's public key.
pub type Hash = [u8; 32];

/// Tokens that may exist at once.
pub const MAX_TOKENS: usize = 256;
/// Bytes that one app's variables may take, sealed.
pub const MAX_ENV_BYTES: usize = 256 << 10;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenRecord {
    pub expires_ms: u64,
    pub uses_left: u32,
    pub created_by: String,
    /// Who used it: the hash of the joiner's public key, and the node id it
    /// got. A joiner that lost the answer asks again and gets the same.
    #[serde(default)]
    pub admitted: BTreeMap<Hash, NodeId>,
}

/// An app's variables: a map of names to values, sealed as one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnvRecord {
    /// The app's `env_version` that these are.
    pub version: u64,
    pub sealed: Sealed,
}

/// What only voters hold.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Secrets {
    /// The key of the certificate authority.
    pub ca_key: Option<Sealed>,
    pub tokens: BTreeMap<Hash, TokenRecord>,
    pub env: BTreeMap<String, EnvRecord>,
    /// The public key that each node was admitted with: only who holds it may
    /// renew that node's certificate.
    pub node_keys: BTreeMap<NodeId, Hash>,
}

/// What a token is called in lists: the first hexadecimal digits of its hash.
pub fn token_id(hash: &Hash) -> String {
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// What a ciphertext of an app's variables is sealed for.
pub fn env_purpose(app: &str) -> String {
    format!("env/{app}")
}

/// What the ciphertext of the authority's key is sealed for.
pub const CA_PURPOSE: &str = "ca";
