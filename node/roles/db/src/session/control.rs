//! BEGIN, COMMIT, ROLLBACK and savepoints.

use rung_sql::{Control, SqlError, SqlState, TransactionModes};

use super::transaction::{Opened, Phase};
use super::{Outcome, Session};
use crate::backend::Operation;
use crate::wire::Severity;

impl Session {
    pub(super) async fn control(&mut self, control: &Control) -> Result<Outcome, SqlError> {
        let tag = match control {
            Control::Begin(modes) => self.begin(modes)?,
            Control::Commit { chain } => self.commit(*chain).await?,
            Control::Rollback { chain } => self.rollback(*chain).await?,
            Control::Savepoint(name) => self.savepoint(name).await?,
            Control::Release(name) => self.release(name).await?,
            Control::RollbackTo(name) => self.rollback_to(name).await?,
        };
        Ok(Outcome::Done { tag: tag.to_owned() })
    }

    fn begin(&mut self, modes: &TransactionModes) -> Result<&'static str, SqlError> {
        match self.transaction.phase {
            Phase::Failed => return Err(failed()),
            Phase::Block => {
                let message = "there is already a transaction in progress";
                self.notice(Severity::Warning, SqlState::ACTIVE_TRANSACTION, message);
            }
            // What came before it in the same message belongs to it.
            Phase::Implicit => self.transaction.phase = Phase::Block,
            Phase::Idle => self.transaction.begin(Phase::Block, &self.settings, self.now),
        }
        if let Err(error) = self.transaction.set_modes(modes, &self.settings) {
            if !self.transaction.has_begun {
                self.end(false);
            }
            return Err(error);
        }
        Ok("BEGIN")
    }

    async fn commit(&mut self, chain: bool) -> Result<&'static str, SqlError> {
        match self.transaction.phase {
            Phase::Failed => {
                self.roll_back_and_end(chain).await;
                return Ok("ROLLBACK");
            }
            Phase::Idle | Phase::Implicit if chain => return Err(not_in_block("COMMIT AND CHAIN")),
            Phase::Idle | Phase::Implicit => {
                let message = "there is no transaction in progress";
                self.notice(Severity::Warning, SqlState::NO_ACTIVE_TRANSACTION, message);
            }
            Phase::Block => {}
        }
        let modes = self.modes();
        self.commit_and_end().await?;
        if chain {
            self.chain(&modes);
        }
        Ok("COMMIT")
    }

    async fn rollback(&mut self, chain: bool) -> Result<&'static str, SqlError> {
        if !self.transaction.is_block() {
            if chain {
                return Err(not_in_block("ROLLBACK AND CHAIN"));
            }
            let message = "there is no transaction in progress";
            self.notice(Severity::Warning, SqlState::NO_ACTIVE_TRANSACTION, message);
        }
        self.roll_back_and_end(chain).await;
        Ok("ROLLBACK")
    }

    /// Commits what is open. However that ends, the transaction is over.
    pub(super) async fn commit_and_end(&mut self) -> Result<(), SqlError> {
        if self.transaction.opened == Opened::Nothing {
            self.end(true);
            return Ok(());
        }
        let committed = self.perform(Operation::Commit).await;
        self.end(committed.is_ok());
        committed.map(|_| ())
    }

    async fn roll_back_and_end(&mut self, chain: bool) {
        let modes = self.modes();
        self.abandon().await;
        self.end(false);
        if chain {
            self.chain(&modes);
        }
    }

    /// Rolls back what is open at the database. It cannot fail: what is not
    /// committed is gone when nobody asks for it.
    pub(super) async fn abandon(&mut self) {
        if self.transaction.opened != Opened::Nothing {
            let _ = self.perform(Operation::Rollback).await;
            self.transaction.opened = Opened::Nothing;
        }
    }

    /// The transaction is over, and with it what lives no longer.
    pub(super) fn end(&mut self, committed: bool) {
        if let Some(settings) = self.transaction.end(committed)
            && settings != self.settings
        {
            self.settings = settings;
            self.settings_changed();
        }
        self.portals.clear();
        self.cursors.retain(|cursor| cursor.hold && committed);
    }

    fn modes(&self) -> TransactionModes {
        TransactionModes {
            read_only: Some(self.transaction.read_only),
            isolation: Some(self.transaction.isolation),
            deferrable: Some(self.transaction.deferrable),
        }
    }

    /// Another transaction begins at once, with the same properties.
    fn chain(&mut self, modes: &TransactionModes) {
        self.transaction.begin(Phase::Block, &self.settings, self.now);
        // They were allowed before, and nothing has happened since.
        let _ = self.transaction.set_modes(modes, &self.settings);
    }

    async fn savepoint(&mut self, name: &str) -> Result<&'static str, SqlError> {
        match self.transaction.phase {
            Phase::Failed => return Err(failed()),
            Phase::Block => {}
            Phase::Idle | Phase::Implicit => return Err(not_in_block("SAVEPOINT")),
        }
        let number = self.transaction.savepoint(name, &self.settings)?;
        if self.transaction.opened == Opened::Writer {
            self.perform(Operation::Savepoint(number)).await?;
        }
        Ok("SAVEPOINT")
    }

    async fn release(&mut self, name: &str) -> Result<&'static str, SqlError> {
        match self.transaction.phase {
            Phase::Failed => return Err(failed()),
            Phase::Block => {}
            Phase::Idle | Phase::Implicit => return Err(not_in_block("RELEASE SAVEPOINT")),
        }
        let number = self.transaction.release(name)?;
        if self.transaction.opened == Opened::Writer {
            self.perform(Operation::Release(number)).await?;
        }
        Ok("RELEASE")
    }

    async fn rollback_to(&mut self, name: &str) -> Result<&'static str, SqlError> {
        if !self.transaction.is_block() {
            return Err(not_in_block("ROLLBACK TO SAVEPOINT"));
        }
        if self.transaction.lost {
            return Err(failed());
        }
        let (number, settings) = self.transaction.rollback_to(name)?;
        if self.transaction.opened == Opened::Writer {
            self.perform(Operation::RollbackTo(number)).await?;
        }
        if settings != self.settings {
            self.settings = settings;
            self.settings_changed();
        }
        Ok("ROLLBACK")
    }
}

/// Only the end of a failed transaction is accepted.
pub(super) fn failed() -> SqlError {
    SqlError::new(
        SqlState::IN_FAILED_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

pub(super) fn not_in_block(what: &str) -> SqlError {
    SqlError::new(
        SqlState::NO_ACTIVE_TRANSACTION,
        format!("{what} can only be used in transaction blocks"),
    )
}
