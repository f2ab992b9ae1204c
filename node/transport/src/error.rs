//! What can go wrong, and whether the thing asked for may have happened.

use std::io;
use std::path::PathBuf;

use rung_proto::{Code, Failure};
use serde::{Deserialize, Serialize};

/// Why the called node did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum CallRefusal {
    /// Nothing there answers to that service number.
    #[error("the node has no service {0}")]
    UnknownService(u16),
    /// Too many calls of ours are being worked on there; nothing was begun.
    #[error("the node works on as many of our calls as it allows")]
    Overloaded,
    /// The deadline had passed before the work began; nothing was begun.
    #[error("the call arrived after its deadline")]
    Expired,
    /// The answer does not fit a frame.
    #[error("the answer of {size} bytes is over the limit of {limit} bytes")]
    AnswerTooLarge { size: u64, limit: u64 },
    /// The handler says why.
    #[error(transparent)]
    Failed(Failure),
}

impl From<Failure> for CallRefusal {
    fn from(failure: Failure) -> Self {
        CallRefusal::Failed(failure)
    }
}

/// Why a call, a post or a stream did not work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// The node is not in the address book and has not connected to us.
    #[error("the node's address is not known")]
    UnknownPeer,
    /// Too much waits for this peer already. Nothing was sent.
    #[error("the queue to the node is full")]
    QueueFull,
    /// The message is over the size limit. Nothing was sent.
    #[error("a message of {size} bytes is over the limit of {limit} bytes")]
    TooLarge { size: usize, limit: usize },
    /// Nothing was sent; the text says why.
    #[error("the node cannot be reached, nothing was sent: {0}")]
    Unreachable(String),
    /// The peer answered that it did not do it.
    #[error("refused: {0}")]
    Refused(CallRefusal),
    /// No answer in time. It may have been done.
    #[error("no answer before the deadline; it may have been done")]
    Deadline,
    /// The connection broke after the call was sent. It may have been done.
    #[error("the connection was lost before the answer; it may have been done")]
    ConnectionLost,
}

impl CallError {
    /// Whether the peer may have done what was asked. Where this is false,
    /// asking again cannot do it twice.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            CallError::Deadline | CallError::ConnectionLost => true,
            CallError::Refused(CallRefusal::Failed(failure)) => {
                failure.code == Code::OutcomeUnknown
            }
            CallError::Refused(_)
            | CallError::UnknownPeer
            | CallError::QueueFull
            | CallError::TooLarge { .. }
            | CallError::Unreachable(_) => false,
        }
    }
}

/// Why the endpoint could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("the mesh could not listen on {address}: {source}")]
    Bind { address: std::net::SocketAddr, source: io::Error },
    #[error("the node's certificate cannot be used for TLS: {0}")]
    Tls(String),
    #[error("the mesh's limits are not usable: {0}")]
    Limits(String),
    #[error("the mesh must be started inside a tokio runtime")]
    NoRuntime,
}

/// Why a key, a certificate or a token is not usable.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate signing request is not usable: {0}")]
    Request(String),
    #[error("the certificate is not usable: {0}")]
    Certificate(String),
    #[error("the key is not usable: {0}")]
    Key(String),
    #[error(
        "{0:?} is not a data center name: use 1 to 63 letters, digits, dots, dashes or underscores"
    )]
    DataCenter(String),
    #[error("the stored {what} cannot be read: {why}")]
    Stored { what: &'static str, why: String },
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("signing failed: {0}")]
    Signing(String),
}

/// Why joining did not work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JoinError {
    /// The seed could not be reached; nothing was sent.
    #[error("the seed cannot be reached: {0}")]
    Unreachable(String),
    /// The seed does not belong to the cluster that made the token; nothing was
    /// sent.
    #[error("the seed is not of the token's cluster: {0}")]
    WrongCluster(String),
    /// A certificate is not valid at this machine's time; nothing was sent.
    #[error("a certificate is not valid now, check the clocks of this machine and the seed: {0}")]
    Clock(String),
    /// The request does not fit; nothing was sent.
    #[error("the join request of {size} bytes is over the limit of {limit} bytes")]
    TooLarge { size: usize, limit: usize },
    /// The cluster answered that it does not want us.
    #[error(transparent)]
    Refused(Failure),
    /// The request was sent and no answer came. Ask again with the same key.
    #[error("the seed did not answer: {0}; it may have accepted, ask again with the same key")]
    NoAnswer(String),
}
