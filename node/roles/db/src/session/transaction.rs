//! Where a session is between BEGIN and COMMIT. Pure: it says what must be done at
//! the database and does none of it.

use rung_sql::{Isolation, SqlError, SqlState, TransactionModes};

use super::settings::Settings;
use crate::wire::Status;

/// Savepoints that a transaction may have at a time.
const MAX_SAVEPOINTS: usize = 1000;

/// What surrounds the next statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Each statement is its own transaction.
    Idle,
    /// Several statements that came together are one transaction.
    Implicit,
    /// After BEGIN.
    Block,
    /// After BEGIN and an error: only its end is accepted.
    Failed,
}

/// What the transaction has open at the database. It opens nothing until a
/// statement needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    Nothing,
    /// A snapshot that does not move: repeatable read, before the first write.
    Snapshot,
    /// The writer.
    Writer,
}

#[derive(Clone, Debug)]
struct Savepoint {
    name: String,
    settings: Settings,
    kept: Settings,
}

/// The transaction of a session.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub phase: Phase,
    pub opened: Opened,
    pub read_only: bool,
    pub isolation: Isolation,
    pub deferrable: bool,
    /// Whether a statement has read or written: then the isolation level stays.
    pub has_begun: bool,
    /// What it had done at the database is gone, so that no savepoint can be gone
    /// back to.
    pub lost: bool,
    /// When it began, as `now()` says it.
    pub time: i64,
    /// What the settings go back to when it is rolled back.
    before: Option<Settings>,
    /// What the settings are after it is committed: without SET LOCAL.
    kept: Option<Settings>,
    savepoints: Vec<Savepoint>,
}

impl Transaction {
    pub fn idle() -> Self {
        Self {
            phase: Phase::Idle,
            opened: Opened::Nothing,
            read_only: false,
            isolation: Isolation::ReadCommitted,
            deferrable: false,
            has_begun: false,
            lost: false,
            time: 0,
            before: None,
            kept: None,
            savepoints: Vec::new(),
        }
    }

    /// A transaction with the defaults of the session begins.
    pub fn begin(&mut self, phase: Phase, settings: &Settings, time: i64) {
        *self = Self {
            phase,
            time,
            read_only: settings.flag("default_transaction_read_only") || is_replica(settings),
            isolation: settings.isolation("default_transaction_isolation"),
            deferrable: settings.flag("default_transaction_deferrable"),
            before: Some(settings.clone()),
            kept: Some(settings.clone()),
            ..Self::idle()
        };
    }

    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Idle | Phase::Implicit => Status::Idle,
            Phase::Block => Status::InTransaction,
            Phase::Failed => Status::Failed,
        }
    }

    pub fn is_block(&self) -> bool {
        matches!(self.phase, Phase::Block | Phase::Failed)
    }

    /// Whether all its reads see one snapshot.
    pub fn is_repeatable(&self) -> bool {
        matches!(self.isolation, Isolation::RepeatableRead | Isolation::Serializable)
    }

    /// Takes properties that BEGIN or SET TRANSACTION gives.
    ///
    /// # Errors
    /// 25001 when it is too late for them.
    pub fn set_modes(
        &mut self,
        modes: &TransactionModes,
        settings: &Settings,
    ) -> Result<(), SqlError> {
        if let Some(isolation) = modes.isolation
            && isolation != self.isolation
        {
            if self.has_begun {
                return Err(SqlError::new(
                    SqlState::ACTIVE_TRANSACTION,
                    "SET TRANSACTION ISOLATION LEVEL must be called before any query",
                ));
            }
            self.isolation = isolation;
        }
        if let Some(read_only) = modes.read_only {
            if !read_only && is_replica(settings) {
                return Err(SqlError::new(
                    SqlState::READ_ONLY_TRANSACTION,
                    "cannot set transaction read-write mode on a connection for reading",
                )
                .hint("connect with DATABASE_URL to write"));
            }
            if !read_only && self.read_only && self.has_begun {
                return Err(SqlError::new(
                    SqlState::ACTIVE_TRANSACTION,
                    "transaction read-write mode must be set before any query",
                ));
            }
            self.read_only = read_only;
        }
        if let Some(deferrable) = modes.deferrable {
            self.deferrable = deferrable;
        }
        Ok(())
    }

    /// Keeps a setting beyond the end of the transaction: SET, not SET LOCAL.
    pub fn keep(&mut self, change: impl FnOnce(&mut Settings)) {
        if let Some(kept) = &mut self.kept {
            change(kept);
        }
    }

    /// It ends. Gives the settings that are valid from then on.
    pub fn end(&mut self, committed: bool) -> Option<Settings> {
        let ended = std::mem::replace(self, Self::idle());
        if committed { ended.kept } else { ended.before }
    }

    /// Names of savepoints that were set.
    pub fn savepoints(&self) -> usize {
        self.savepoints.len()
    }

    /// Sets a savepoint and gives its number, from 0.
    ///
    /// # Errors
    /// 54000 when there are too many.
    pub fn savepoint(&mut self, name: &str, settings: &Settings) -> Result<usize, SqlError> {
        if self.savepoints.len() >= MAX_SAVEPOINTS {
            return Err(SqlError::new(
                SqlState::LIMIT_EXCEEDED,
                format!("a transaction has at most {MAX_SAVEPOINTS} savepoints at a time"),
            )
            .hint("release savepoints that are no longer needed"));
        }
        let kept = self.kept.clone().unwrap_or_else(|| settings.clone());
        self.savepoints.push(Savepoint { name: name.to_owned(), settings: settings.clone(), kept });
        Ok(self.savepoints.len() - 1)
    }

    /// Forgets a savepoint and those after it; gives its number.
    ///
    /// # Errors
    /// 3B001 when there is none of that name.
    pub fn release(&mut self, name: &str) -> Result<usize, SqlError> {
        let number = self.find(name)?;
        self.savepoints.truncate(number);
        Ok(number)
    }

    /// Forgets the savepoints after that one, which makes a failed transaction work
    /// again. Gives its number and the settings of that time.
    ///
    /// # Errors
    /// 3B001 when there is none of that name.
    pub fn rollback_to(&mut self, name: &str) -> Result<(usize, Settings), SqlError> {
        let number = self.find(name)?;
        self.savepoints.truncate(number + 1);
        let savepoint = &self.savepoints[number];
        self.kept = Some(savepoint.kept.clone());
        self.phase = Phase::Block;
        Ok((number, savepoint.settings.clone()))
    }

    fn find(&self, name: &str) -> Result<usize, SqlError> {
        self.savepoints.iter().rposition(|savepoint| savepoint.name == name).ok_or_else(|| {
            SqlError::new(
                SqlState::INVALID_SAVEPOINT,
                format!("savepoint \"{name}\" does not exist"),
            )
        })
    }
}

/// Whether the connection was made for reading: through DATABASE_REPLICA_URL.
pub fn is_replica(settings: &Settings) -> bool {
    settings.value("rung.role") == "replica"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(settings: &Settings) -> Transaction {
        let mut transaction = Transaction::idle();
        transaction.begin(Phase::Block, settings, 7);
        transaction
    }

    #[test]
    fn set_survives_commit_and_set_local_does_not() {
        let mut settings = Settings::new("app", false);
        let before = settings.clone();
        let mut transaction = begun(&settings);
        settings.set("a.kept", Some("1")).unwrap();
        transaction.keep(|kept| kept.set("a.kept", Some("1")).unwrap());
        settings.set("a.local", Some("2")).unwrap();
        let mut other = transaction.clone();
        let after = transaction.end(true).unwrap();
        assert_eq!(after.show("a.kept").unwrap().1, "1");
        assert!(after.show("a.local").is_err());
        assert_eq!(other.end(false).unwrap(), before);
    }

    #[test]
    fn the_last_savepoint_of_a_name_is_meant() {
        let settings = Settings::new("app", false);
        let mut transaction = begun(&settings);
        assert_eq!(transaction.savepoint("a", &settings), Ok(0));
        assert_eq!(transaction.savepoint("b", &settings), Ok(1));
        assert_eq!(transaction.savepoint("a", &settings), Ok(2));
        transaction.phase = Phase::Failed;
        assert_eq!(transaction.rollback_to("a").unwrap().0, 2);
        assert_eq!(transaction.phase, Phase::Block);
        assert_eq!(transaction.release("a"), Ok(2));
        assert_eq!(transaction.release("a"), Ok(0));
        assert_eq!(transaction.release("b").unwrap_err().state, SqlState::INVALID_SAVEPOINT);
    }

    #[test]
    fn the_isolation_level_stays_after_the_first_query() {
        let settings = Settings::new("app", false);
        let mut transaction = begun(&settings);
        let serializable =
            TransactionModes { isolation: Some(Isolation::Serializable), ..Default::default() };
        transaction.set_modes(&serializable, &settings).unwrap();
        transaction.has_begun = true;
        transaction.set_modes(&serializable, &settings).unwrap();
        let other =
            TransactionModes { isolation: Some(Isolation::ReadCommitted), ..Default::default() };
        assert!(transaction.set_modes(&other, &settings).is_err());
    }
}
