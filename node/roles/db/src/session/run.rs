//! How a statement is executed: where, in which transaction, and what follows from
//! an error.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rung_sql::{
    CopyCommand, CopyDirection, CopyFormat, Description, Kind, SqlError, SqlState, Statement,
};

use super::control::failed;
use super::transaction::{Opened, Phase};
use super::{Arguments, Freshness, Outcome, Session, Surroundings, is_replica};
use crate::backend::{Answer, Call, Level, Open, Operation};
use crate::statistics::{Ended, Served, hash_of_normal_form};

impl Session {
    /// Executes one statement. After an error the transaction that it belongs to
    /// has failed, or is undone if the client did not begin it.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn execute(
        &mut self,
        statement: &Statement,
        arguments: Arguments,
        surroundings: Surroundings,
    ) -> Result<Outcome, SqlError> {
        self.tick();
        let began = Instant::now();
        let done = self.dispatch(statement, arguments, surroundings).await;
        match &done {
            // It ends with its data.
            Ok(Outcome::CopyIn { .. }) => self.copying = Some((statement.clone(), began)),
            Ok(outcome) => self.ended(statement, began, Some(outcome.tag())),
            Err(_) => {
                self.ended(statement, began, None);
                self.fail().await;
            }
        }
        done
    }

    /// Counts a statement, with the tag of what it did, if it did.
    fn ended(&self, statement: &Statement, began: Instant, tag: Option<&str>) {
        self.shared.statistics.statement(&Ended {
            text: statement.text(),
            hash: statement.number(hash_of_normal_form),
            took: began.elapsed(),
            failed: tag.is_none(),
            database: &self.context.database,
            user: &self.user.name,
            rows: tag.and_then(|tag| tag.rsplit(' ').next()?.parse().ok()),
            executed_on: self.backend.other_node(),
        });
    }

    /// Something went wrong within the transaction, if there is one.
    pub async fn fail(&mut self) {
        match self.transaction.phase {
            Phase::Idle | Phase::Failed => {}
            Phase::Implicit => {
                self.abandon().await;
                self.end(false);
            }
            Phase::Block => {
                self.transaction.phase = Phase::Failed;
                if self.transaction.savepoints() == 0 {
                    // Nothing of it can be kept, and others wait for the writer.
                    self.abandon().await;
                }
            }
        }
    }

    /// What came together has ended without an error: it is committed if the client
    /// has not begun a transaction of its own.
    ///
    /// # Errors
    /// What the client is told. Nothing of it was done then, unless the code is
    /// 08007.
    pub async fn finish_implicit(&mut self) -> Result<(), SqlError> {
        if self.transaction.phase == Phase::Implicit {
            self.tick();
            self.commit_and_end().await?;
        }
        Ok(())
    }

    /// Portals do not outlive the transaction that they were made in.
    pub fn end_of_series(&mut self) {
        if self.transaction.phase == Phase::Idle {
            self.portals.clear();
        }
    }

    pub(super) async fn dispatch(
        &mut self,
        statement: &Statement,
        arguments: Arguments,
        surroundings: Surroundings,
    ) -> Result<Outcome, SqlError> {
        if let Kind::Control(control) = statement.kind() {
            return self.control(control).await;
        }
        if self.transaction.phase == Phase::Failed {
            return Err(failed());
        }
        if self.transaction.phase == Phase::Idle && surroundings == Surroundings::OneOfSeveral {
            self.transaction.begin(Phase::Implicit, &self.settings, self.now);
        }
        match statement.kind() {
            Kind::Empty => Ok(Outcome::Empty),
            Kind::Control(_) => unreachable!("handled above"),
            Kind::Session(command) => {
                Box::pin(self.command(command, arguments, surroundings)).await
            }
            Kind::Read => {
                let answer = self.read(self.call(statement, arguments)).await?;
                self.finished(answer)
            }
            Kind::Write | Kind::Schema => {
                self.refuse_if_read_only(statement.text())?;
                let answer = self.write(self.call(statement, arguments)).await?;
                self.finished(answer)
            }
            Kind::Vacuum => self.vacuum(statement, arguments).await,
            Kind::Copy(command) => self.copy(statement, command, arguments).await,
        }
    }

    fn finished(&mut self, answer: Answer) -> Result<Outcome, SqlError> {
        self.keep(&answer.complete.effects)?;
        let tag = answer.complete.tag;
        Ok(match answer.rows.has_columns {
            true => Outcome::Rows { rows: answer.rows, tag },
            false => Outcome::Done { tag },
        })
    }

    /// Asks the backend, within the limits of the session.
    pub(super) async fn perform(&mut self, operation: Operation) -> Result<Answer, SqlError> {
        let limit = self.settings.limit("statement_timeout");
        let performed = self.backend.perform(operation, limit).await;
        if let Err(error) = &performed
            && !self.backend.has_transaction()
            && self.transaction.opened != Opened::Nothing
        {
            tracing::debug!(%error, "a transaction was lost");
            self.transaction.opened = Opened::Nothing;
            self.transaction.lost = true;
        }
        performed
    }

    /// Executes a statement that reads.
    pub(super) async fn read(&mut self, call: Arc<Call>) -> Result<Answer, SqlError> {
        let in_transaction = self.transaction.phase != Phase::Idle;
        self.transaction.has_begun = in_transaction;
        if self.transaction.opened != Opened::Nothing {
            return self.perform(Operation::Run { call, open: Open::Nothing }).await;
        }
        if in_transaction && self.transaction.is_repeatable() {
            // One that may write later is better off with the newest snapshot.
            let level = if self.transaction.read_only { self.level() } else { Level::Primary };
            let answer = self.perform(Operation::Run { call, open: Open::Snapshot(level) }).await?;
            self.transaction.opened = Opened::Snapshot;
            return Ok(answer);
        }
        let level = self.level();
        self.perform(Operation::Read { call, level }).await
    }

    /// Executes a statement that writes: as a transaction of its own, or in the one
    /// that has begun.
    async fn write(&mut self, call: Arc<Call>) -> Result<Answer, SqlError> {
        self.shared.statistics.served(Served::Write);
        if self.transaction.phase == Phase::Idle {
            return self.perform(Operation::Write(call)).await;
        }
        let open = self.open_writer();
        let answer = self.perform(Operation::Run { call, open }).await?;
        self.transaction.opened = Opened::Writer;
        Ok(answer)
    }

    /// What has to be opened before something is written in this transaction.
    fn open_writer(&mut self) -> Open {
        self.transaction.has_begun = true;
        match self.transaction.opened {
            Opened::Writer => Open::Nothing,
            Opened::Nothing | Opened::Snapshot => {
                let savepoints = self.transaction.savepoints();
                Open::Writer { savepoints, repeatable: self.transaction.is_repeatable() }
            }
        }
    }

    /// How fresh the next read must be.
    pub(super) fn level(&self) -> Level {
        match self.settings.freshness() {
            Freshness::Any => Level::Any,
            Freshness::Bounded(age) => Level::Bounded(age),
            Freshness::Session => Level::Session(self.token),
            Freshness::Linearizable => Level::Linearizable,
        }
    }

    pub(super) fn refuse_if_read_only(&self, what: &str) -> Result<(), SqlError> {
        let read_only = match self.transaction.phase {
            Phase::Idle => {
                self.settings.flag("default_transaction_read_only") || is_replica(&self.settings)
            }
            _ => self.transaction.read_only,
        };
        if !read_only {
            return Ok(());
        }
        let words = what.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
        let mut words = words.map(str::to_ascii_uppercase);
        let mut what = words.next().unwrap_or_default();
        if matches!(what.as_str(), "CREATE" | "ALTER" | "DROP")
            && let Some(object) = words.next()
        {
            what = format!("{what} {object}");
        }
        let error = SqlError::new(
            SqlState::READ_ONLY_TRANSACTION,
            format!("cannot execute {what} in a read-only transaction"),
        );
        Err(match is_replica(&self.settings) {
            true => error.hint("this connection is for reading; write with DATABASE_URL"),
            false => error,
        })
    }

    async fn vacuum(
        &mut self,
        statement: &Statement,
        arguments: Arguments,
    ) -> Result<Outcome, SqlError> {
        if self.transaction.phase != Phase::Idle {
            return Err(SqlError::new(
                SqlState::ACTIVE_TRANSACTION,
                "VACUUM cannot run inside a transaction block",
            ));
        }
        self.refuse_if_read_only("VACUUM")?;
        let answer = self.perform(Operation::Alone(self.call(statement, arguments))).await?;
        self.finished(answer)
    }

    /// What a statement takes and gives.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn describe(
        &mut self,
        statement: &Statement,
        types: Arc<[Option<rung_sql::PgType>]>,
    ) -> Result<Description, SqlError> {
        let described = match statement.kind() {
            Kind::Read | Kind::Write | Kind::Schema if self.transaction.phase == Phase::Failed => {
                Err(failed())
            }
            Kind::Read | Kind::Write | Kind::Schema => {
                self.tick();
                let arguments = Arguments { types, ..Arguments::default() };
                let call = self.call(statement, arguments);
                let level = self.level();
                let described = self.perform(Operation::Describe { call, level }).await;
                described.map(|answer| answer.description.unwrap_or_default())
            }
            Kind::Session(command) => self.describe_command(command).await,
            Kind::Empty | Kind::Vacuum | Kind::Control(_) | Kind::Copy(_) => {
                Ok(Description::default())
            }
        };
        if described.is_err() {
            self.fail().await;
        }
        described
    }

    async fn copy(
        &mut self,
        statement: &Statement,
        command: &CopyCommand,
        arguments: Arguments,
    ) -> Result<Outcome, SqlError> {
        let binary = command.format == CopyFormat::Binary;
        if command.direction == CopyDirection::Out {
            let answer = self.read(self.call(statement, arguments)).await?;
            let columns = answer.rows.columns.len();
            let tag = answer.complete.tag;
            return Ok(Outcome::CopyOut { rows: answer.rows, tag, binary, columns });
        }
        self.refuse_if_read_only("COPY FROM")?;
        if self.transaction.phase == Phase::Idle {
            self.transaction.begin(Phase::Implicit, &self.settings, self.now);
        }
        let open = self.open_writer();
        let call = self.call(statement, arguments);
        let answer = self.perform(Operation::CopyIn { call, open }).await?;
        self.transaction.opened = Opened::Writer;
        Ok(Outcome::CopyIn { binary, columns: answer.complete.rows as usize })
    }

    /// Takes a piece of the data of COPY.
    ///
    /// # Errors
    /// What the client is told; the COPY is over then.
    pub async fn copy_data(&mut self, data: Bytes) -> Result<(), SqlError> {
        self.perform(Operation::CopyData(data)).await.map(|_| ())
    }

    /// The COPY has failed, or its client gave it up.
    pub async fn copy_failed(&mut self) {
        self.copy_ended(None);
        self.fail().await;
    }

    fn copy_ended(&mut self, tag: Option<&str>) {
        if let Some((statement, began)) = self.copying.take() {
            self.ended(&statement, began, tag);
        }
    }

    /// All data of COPY has come. Gives the tag.
    ///
    /// # Errors
    /// What the client is told; nothing was copied then.
    pub async fn copy_done(&mut self) -> Result<String, SqlError> {
        let tag = self.perform(Operation::CopyDone).await?.complete.tag;
        self.copy_ended(Some(&tag));
        Ok(tag)
    }
}
