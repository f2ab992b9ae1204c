//! The mesh: how nodes speak with each other.
//!
//! One UDP port speaks QUIC with mutual TLS. A peer is who its certificate says,
//! whatever its address. With each peer there is a main connection, which
//! carries two ordered lanes of calls and posts and the datagrams, and, on
//! demand, a second one for streams, so that a snapshot does not delay a
//! heartbeat.
//!
//! It is *not* an actor system: it moves bytes to numbered services and knows
//! nothing of what they mean. It is no membership either: it is told addresses,
//! and a connection that ends is a hint to others, never a verdict. It does not
//! retry: a call is made at most once.

mod authority;
mod endpoint;
mod error;
mod frame;
mod handshake;
mod identity;
mod join;
mod lane;
mod link;
mod mesh;
mod peer;
mod serve;
mod server_certificate;
mod shape;
mod stream;
mod sync;
mod tls;
mod token;

pub use authority::CertificateAuthority;
pub use error::{CallError, CallRefusal, IdentityError, JoinError, MeshError};
pub use frame::{
    Frame, FrameError, MAX_STREAM_HEADER, parse_frame, parse_frames, put_frame, take_frame,
};
pub use identity::{
    KeyPair, NodeIdentity, PeerIdentity, certificate_hash, check_dc, csr_public_key,
};
pub use join::{MAX_JOIN_ANSWER, MAX_JOIN_REQUEST, join_request, parse_join_answer};
pub use lane::Lane;
pub use mesh::{
    Authorise, CallHandler, Datagram, Handlers, IncomingCall, JoinHandler, MAX_DATAGRAM, Mesh,
    MeshConfig, MeshCounters, MeshLimits, PeerLink, StreamHandler,
};
pub use server_certificate::{ServerCertificate, ServerNames};
pub use shape::LinkShape;
pub use stream::{MeshStream, StreamKind, abort_code};
pub use token::{JoinToken, ParseTokenError};
