//! Why an operation was not done, and what may be done about it.

use rung_proto::NodeId;
use rung_shard::ShardError;
use rung_sql::{SqlError, SqlState};

/// Why an operation was not done. All but [`Failure::Unknown`] say that nothing was
/// changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The statement's own error, or one that is final for the client.
    Sql(Box<SqlError>),
    /// Not there, not now: another node may do it, or the same one later.
    NotDone { why: Box<SqlError>, primary: Option<NodeId> },
    /// The copy is not fresh enough.
    TooFarBehind,
    /// The token is of another life of the database.
    WrongGeneration(Box<SqlError>),
    /// It may have been done.
    Unknown(Box<SqlError>),
}

impl Failure {
    pub fn sql(state: SqlState, message: impl Into<String>) -> Self {
        Failure::Sql(Box::new(SqlError::new(state, message)))
    }

    pub fn not_done(message: impl Into<String>, primary: Option<NodeId>) -> Self {
        let why = SqlError::new(SqlState::CANNOT_CONNECT_NOW, message);
        Failure::NotDone { why: Box::new(why), primary }
    }

    /// What the client is told when nothing else is tried.
    pub fn into_error(self) -> SqlError {
        match self {
            Failure::Sql(error)
            | Failure::WrongGeneration(error)
            | Failure::Unknown(error)
            | Failure::NotDone { why: error, .. } => *error,
            Failure::TooFarBehind => SqlError::new(
                SqlState::CANNOT_CONNECT_NOW,
                "no copy of the database is fresh enough for the read, and its primary does not \
                 answer",
            )
            .hint("try again, or read with SET rung.read = 'any'"),
        }
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Failure::Sql(Box::new(error))
    }
}

impl From<ShardError> for Failure {
    fn from(error: ShardError) -> Self {
        let message = error.to_string();
        let state = match error {
            ShardError::NotPrimary { primary } => return Failure::not_done(message, primary),
            ShardError::NoQuorum | ShardError::Stopped(_) => {
                return Failure::not_done(message, None);
            }
            ShardError::TooFarBehind => return Failure::TooFarBehind,
            ShardError::WrongGeneration { .. } | ShardError::WrongShard { .. } => {
                let error = SqlError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .hint("the database was recovered since; RESET rung.token");
                return Failure::WrongGeneration(Box::new(error));
            }
            ShardError::OutcomeUnknown => return Failure::Unknown(Box::new(outcome_unknown())),
            ShardError::Refused(error) => return Failure::Sql(error),
            ShardError::Changed => {
                let error = SqlError::new(SqlState::SERIALIZATION_FAILURE, message).hint(
                    "the transaction might succeed if retried; with SET rung.optimistic = off it \
                     keeps others from writing until it ends",
                );
                return Failure::Sql(Box::new(error));
            }
            ShardError::Lost | ShardError::SnapshotTooOld => SqlState::SERIALIZATION_FAILURE,
            ShardError::Overloaded(_) => SqlState::INSUFFICIENT_RESOURCES,
            ShardError::TimedOut(_) | ShardError::Canceled => SqlState::QUERY_CANCELED,
            ShardError::TransactionTooLong(_) => SqlState::IDLE_IN_TRANSACTION_TIMEOUT,
            ShardError::DiskFull => SqlState::DISK_FULL,
            ShardError::Failed(_) => SqlState::INTERNAL,
        };
        Failure::sql(state, message)
    }
}

pub fn outcome_unknown() -> SqlError {
    SqlError::new(
        SqlState::OUTCOME_UNKNOWN,
        "the outcome is unknown: the primary of the database was lost before it answered, what \
         was asked may have been done or may yet be",
    )
    .hint("look whether it was done before you do it again")
}

/// The transaction is gone with the primary that it was open at.
pub fn transaction_lost() -> SqlError {
    SqlError::new(
        SqlState::SERIALIZATION_FAILURE,
        "the primary of the database changed during the transaction; nothing of it was done",
    )
    .hint("begin the transaction again")
}
