//! What nodes say to each other above the mesh: the services, the streams and
//! their messages.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use rung_control_plane::state::Pin;
use rung_control_plane::{Delta, State};
use rung_proto::api::{ChangeAnswer, ChangeRequest, Token, TokenCreated, TokenRequest};
use rung_proto::soft::first_generation;
use rung_proto::{ClusterId, Digest, Incarnation, NodeId, Role};
use rung_transport::StreamKind;
use serde::{Deserialize, Serialize};

/// Numbered services of the mesh. A number is never used for something else.
pub mod service {
    pub const RAFT: u16 = 1;
    pub const MEMBERSHIP: u16 = 2;
    pub const SOFT_STATE: u16 = 3;
    pub const CONTROL_GROUP: u16 = 5;
    pub const FETCH_BUNDLE: u16 = 6;
    /// Calls of actors by address.
    pub const ACTORS: u16 = 8;
    pub const DATABASE_TOP: u16 = 9;
    /// What tails of former generations a node has.
    pub const TAILS: u16 = 10;
    pub const DATABASE_SCRUB: u16 = 11;
}

/// Names of the actors that other nodes may call; both have the role control.
pub mod actor {
    /// Takes a `LeaderRequest`.
    pub const LEADER_REQUESTS: &str = "leader-requests";
    /// Takes an `EnvRequest`.
    pub const APP_ENV: &str = "app-env";
}

/// A balancer's requests to an instance; see the load balancer's crate.
pub const STREAM_HTTP: StreamKind = StreamKind(1);
/// A snapshot of a group.
pub const STREAM_SNAPSHOT: StreamKind = StreamKind(2);
/// A bundle, asked for by its digest.
pub const STREAM_BUNDLE: StreamKind = StreamKind(3);
/// The control state, followed.
pub const STREAM_FOLLOW: StreamKind = StreamKind(4);
/// Log lines.
pub const STREAM_LOGS: StreamKind = StreamKind(5);
/// Statements for a copy of a database.
pub const STREAM_SQL: StreamKind = StreamKind(6);

/// What a joiner says to a seed, before it has an identity.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinRequest {
    Join(Box<Joiner>),
    /// Who is known by its key asks for a certificate in place of one that has
    /// expired.
    Renew {
        node: NodeId,
        #[serde(with = "serde_bytes")]
        csr: Vec<u8>,
        now_ms: u64,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Joiner {
    #[serde(with = "serde_bytes")]
    pub secret: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub csr: Vec<u8>,
    pub node: NodeId,
    pub name: String,
    pub dc: String,
    pub mesh: SocketAddr,
    pub admin: SocketAddr,
    pub public: IpAddr,
    pub pins: BTreeMap<Role, Pin>,
    pub version: String,
    /// The joiner's clock.
    pub now_ms: u64,
}

/// What a node that was let in needs to take part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    pub cluster: ClusterId,
    pub cluster_name: String,
    pub node: NodeId,
    #[serde(with = "serde_bytes")]
    pub certificate: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub ca_certificate: Vec<u8>,
    pub peers: Vec<Contact>,
}

/// Where a node is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Contact {
    pub node: NodeId,
    pub mesh: SocketAddr,
    #[serde(default)]
    pub incarnation: Incarnation,
}

/// Things that only the leader of the control group can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaderRequest {
    Change(ChangeRequest),
    CreateToken(TokenRequest),
    RevokeToken {
        id: String,
        by: String,
    },
    Tokens,
    Admit(Box<Joiner>),
    /// A certificate for a key that a node was admitted with.
    Renew {
        node: NodeId,
        #[serde(with = "serde_bytes")]
        csr: Vec<u8>,
    },
    /// A certificate by which a node's clients of SQL know it.
    CertifyServer {
        node: NodeId,
        #[serde(with = "serde_bytes")]
        csr: Vec<u8>,
    },
    /// A node that started says where it is.
    Started {
        node: NodeId,
        incarnation: Incarnation,
        mesh: SocketAddr,
        admin: SocketAddr,
        public: IpAddr,
        version: String,
    },
    /// Who takes part in the control group, confirmed by a quorum.
    Members,
    /// What the user of a database logs in with.
    DatabasePassword {
        database: String,
    },
}

impl LeaderRequest {
    /// Whether asking again, after an answer that did not come, does no harm.
    pub fn is_idempotent(&self) -> bool {
        match self {
            LeaderRequest::Change(request) => request.dry_run,
            LeaderRequest::CreateToken(_) | LeaderRequest::RevokeToken { .. } => false,
            LeaderRequest::Tokens
            | LeaderRequest::Admit(_)
            | LeaderRequest::Renew { .. }
            | LeaderRequest::CertifyServer { .. }
            | LeaderRequest::Started { .. }
            | LeaderRequest::Members
            | LeaderRequest::DatabasePassword { .. } => true,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaderAnswer {
    Change(ChangeAnswer),
    TokenCreated(TokenCreated),
    Token(Token),
    Tokens(Vec<Token>),
    Welcome(Box<Welcome>),
    /// In DER.
    ServerCertificate(serde_bytes::ByteBuf),
    Index(u64),
    /// Voters and learners.
    Members(Vec<NodeId>),
    DatabasePassword(String),
}

/// How a request to the leader went. It travels inside the answer, so that "I do
/// not lead" is told apart from a refusal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaderReply {
    Answer(Box<LeaderAnswer>),
    Refused(rung_proto::Failure),
    /// Nothing was done; ask that one.
    NotLeader {
        leader: Option<NodeId>,
    },
}

/// The leader tells a node to take part in the control group, or not to; or whoever
/// begins a new generation, to stop.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlGroupRequest {
    Open {
        #[serde(with = "serde_bytes")]
        cluster_key: Vec<u8>,
    },
    Leave,
    /// Tell of your part in it; answered with a `Told`.
    Survey,
    /// Accept this generation: take no part in the group any more. Answered with the
    /// last entry of the log, a `LogPlace`.
    Seal {
        generation: u64,
    },
}

/// Who votes and who leads, as a node knows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Leadership {
    pub voters: Vec<NodeId>,
    pub leader: Option<NodeId>,
    pub term: u64,
    /// That of the cluster; what is known of an earlier one counts for nothing.
    #[serde(default = "first_generation")]
    pub generation: u64,
}

/// One frame of [`STREAM_FOLLOW`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowFrame {
    /// The whole state; what was followed so far is replaced.
    State(Box<State>),
    Delta(Delta),
    Leadership(Leadership),
}

/// Asks a node to hold a bundle, pulling it from those who have it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchBundle {
    pub digest: Digest,
}

/// Asks a voter for the variables of an app.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnvRequest {
    pub app: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnvAnswer {
    pub version: u64,
    pub variables: BTreeMap<String, String>,
    /// Of the database that has the app's name, if there is one.
    #[serde(default)]
    pub database_password: Option<String>,
}

/// Which log lines a peer asks this node for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRequest {
    pub app: Option<String>,
    pub role: Option<Role>,
    pub lines: u32,
    pub follow: bool,
}
