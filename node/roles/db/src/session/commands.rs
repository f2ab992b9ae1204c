//! Statements about the session: settings, prepared statements, and what is
//! refused or does nothing.

use std::sync::Arc;

use bytes::Bytes;
use rung_sql::{
    Description, Discard, Formats, Kind, Parameters, PgType, ResultColumn, RowSink, SessionCommand,
    SqlError, SqlState, Statement, TransactionModes, TypeUse,
};

use super::prepared::{Prepared, Progress};
use super::settings::isolation_name;
use super::transaction::Phase;
use super::{Arguments, Outcome, Portal, Session, Surroundings};
use crate::rows::Rows;
use crate::wire::Severity;

impl Session {
    pub(super) async fn command(
        &mut self,
        command: &SessionCommand,
        arguments: Arguments,
        surroundings: Surroundings,
    ) -> Result<Outcome, SqlError> {
        let tag = match command {
            SessionCommand::Set { name, value, local } => {
                if *local && self.transaction.phase == Phase::Idle {
                    let message = "SET LOCAL can only be used in transaction blocks";
                    self.notice(Severity::Warning, SqlState::NO_ACTIVE_TRANSACTION, message);
                }
                self.set(name, value.as_deref(), *local)?;
                "SET"
            }
            SessionCommand::SetTransaction { modes, session } => {
                self.set_transaction(modes, *session)?;
                "SET"
            }
            SessionCommand::SetConstraints { names, deferred } => {
                return self.set_constraints(names, *deferred);
            }
            SessionCommand::Reset { name } => {
                self.reset(name.as_deref())?;
                "RESET"
            }
            SessionCommand::Show { name } => return self.show(name.as_deref()),
            SessionCommand::Discard(what) => self.discard(*what)?,
            SessionCommand::Prepare { name, types, statement } => {
                if name.is_empty() {
                    return Err(SqlError::new(SqlState::SYNTAX_ERROR, "a name is needed"));
                }
                self.prepare(name, statement.clone(), types.iter().cloned().map(Some).collect())?;
                "PREPARE"
            }
            SessionCommand::Execute { name, arguments: values } => {
                return self
                    .execute_prepared(name, values.as_ref(), arguments.formats, surroundings)
                    .await;
            }
            SessionCommand::Deallocate { name: None } => {
                self.statements.clear();
                "DEALLOCATE ALL"
            }
            SessionCommand::Deallocate { name: Some(name) } => {
                self.statements.get(name)?;
                self.statements.remove(name);
                "DEALLOCATE"
            }
            SessionCommand::Declare { name, binary, scroll, hold, query } => {
                self.declare(name, *binary, *scroll, *hold, query, arguments).await?;
                "DECLARE CURSOR"
            }
            SessionCommand::Fetch { name, direction, is_move } => {
                return self.fetch(name, *direction, *is_move);
            }
            SessionCommand::Close { name } => self.close_cursor(name.as_deref())?,
            SessionCommand::LockTable { .. } => {
                return Err(SqlError::not_supported(
                    "LOCK TABLE",
                    "use SELECT ... FOR UPDATE before you read what you will change: it keeps \
                     others from writing",
                ));
            }
        };
        Ok(Outcome::Done { tag: tag.to_owned() })
    }

    /// The columns of commands that give rows.
    pub(super) async fn describe_command(
        &mut self,
        command: &SessionCommand,
    ) -> Result<Description, SqlError> {
        let columns = match command {
            SessionCommand::Show { name: Some(name) } => {
                vec![text_column(&self.show_one(name)?.0)]
            }
            SessionCommand::Show { name: None } => show_all_columns(),
            SessionCommand::Fetch { name, is_move: false, .. } => {
                self.cursors.get_mut(name)?.rows.rows.columns.clone()
            }
            SessionCommand::Execute { name, .. } => {
                let prepared = self.statements.get(name)?;
                let types = prepared.types.clone();
                let described = Box::pin(self.describe(&prepared.statement, types)).await?;
                described.columns
            }
            _ => Vec::new(),
        };
        Ok(Description { parameters: Vec::new(), columns })
    }

    /// SET, and `set_config`.
    pub(super) fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
        local: bool,
    ) -> Result<(), SqlError> {
        let lower = name.to_ascii_lowercase();
        match lower.as_str() {
            "transaction_isolation" | "transaction_read_only" | "transaction_deferrable" => {
                return self.set_transaction_setting(&lower, value);
            }
            "rung.token" => self.set_token(value.unwrap_or_default())?,
            "role" | "session authorization"
                if value.is_none_or(|value| value == "none" || value == self.user.name) =>
            {
                return Ok(());
            }
            "rung.role" => {
                return Err(SqlError::new(
                    SqlState::CANNOT_CHANGE_PARAMETER,
                    "parameter \"rung.role\" cannot be set after connection start",
                ));
            }
            _ => {}
        }
        self.settings.set(name, value)?;
        if !local {
            self.transaction.keep(|kept| {
                // The same change has just succeeded.
                let _ = kept.set(name, value);
            });
        }
        self.settings_changed();
        Ok(())
    }

    fn set_token(&mut self, value: &str) -> Result<(), SqlError> {
        self.token = match value {
            "" => None,
            text => Some(text.parse().map_err(|error| {
                SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("invalid value for parameter \"rung.token\": {error}"),
                )
            })?),
        };
        Ok(())
    }

    fn set_transaction_setting(&mut self, name: &str, value: Option<&str>) -> Result<(), SqlError> {
        // The ordinary check of the value, on a copy that is thrown away.
        let mut checked = self.settings.clone();
        checked.set(name, value)?;
        let modes = match name {
            "transaction_isolation" => TransactionModes {
                isolation: Some(checked.isolation(name)),
                ..TransactionModes::default()
            },
            "transaction_read_only" => TransactionModes {
                read_only: Some(checked.flag(name)),
                ..TransactionModes::default()
            },
            _ => TransactionModes {
                deferrable: Some(checked.flag(name)),
                ..TransactionModes::default()
            },
        };
        self.set_transaction(&modes, false)
    }

    fn set_transaction(&mut self, modes: &TransactionModes, session: bool) -> Result<(), SqlError> {
        if !session {
            if self.transaction.phase == Phase::Idle {
                let message = "SET TRANSACTION can only be used in transaction blocks";
                self.notice(Severity::Warning, SqlState::NO_ACTIVE_TRANSACTION, message);
                return Ok(());
            }
            return self.transaction.set_modes(modes, &self.settings);
        }
        let flag = |flag| if flag { "on" } else { "off" };
        if let Some(isolation) = modes.isolation {
            let name = "default_transaction_isolation";
            self.set(name, Some(isolation_name(isolation)), false)?;
        }
        if let Some(read_only) = modes.read_only {
            self.set("default_transaction_read_only", Some(flag(read_only)), false)?;
        }
        if let Some(deferrable) = modes.deferrable {
            self.set("default_transaction_deferrable", Some(flag(deferrable)), false)?;
        }
        Ok(())
    }

    fn set_constraints(&mut self, names: &[String], deferred: bool) -> Result<Outcome, SqlError> {
        if !names.is_empty() || deferred {
            return Err(SqlError::not_supported(
                "SET CONSTRAINTS for some constraints, or to defer them",
                "declare the constraint DEFERRABLE INITIALLY DEFERRED",
            ));
        }
        if self.transaction.opened != super::Opened::Nothing {
            return Err(SqlError::not_supported(
                "SET CONSTRAINTS ALL IMMEDIATE after the first statement of a transaction",
                "deferred constraints are checked by COMMIT",
            ));
        }
        Ok(Outcome::Done { tag: "SET CONSTRAINTS".to_owned() })
    }

    fn reset(&mut self, name: Option<&str>) -> Result<(), SqlError> {
        match name {
            Some(name) => self.set(name, None, false),
            None => {
                self.settings.reset_all();
                self.transaction.keep(|kept| kept.reset_all());
                self.token = None;
                self.settings_changed();
                Ok(())
            }
        }
    }

    fn show_one(&self, name: &str) -> Result<(String, String), SqlError> {
        let (shown, mut value) = self.settings.show(name)?;
        let flag = |flag| if flag { "on" } else { "off" }.to_owned();
        let in_transaction = self.transaction.phase != Phase::Idle;
        match shown.as_str() {
            "transaction_isolation" if in_transaction => {
                value = isolation_name(self.transaction.isolation).to_owned();
            }
            "transaction_isolation" => {
                value = self.settings.value("default_transaction_isolation").to_owned();
            }
            "transaction_read_only" if in_transaction => value = flag(self.transaction.read_only),
            "transaction_read_only" => {
                let is_replica = super::is_replica(&self.settings);
                value = flag(is_replica || self.settings.flag("default_transaction_read_only"));
            }
            "transaction_deferrable" => value = flag(self.transaction.deferrable),
            "rung.token" => {
                let token = self.mark.highest(self.token);
                value = token.map(|token| token.to_string()).unwrap_or_default();
            }
            _ => {}
        }
        Ok((shown, value))
    }

    fn show(&self, name: Option<&str>) -> Result<Outcome, SqlError> {
        let mut rows = Rows::new(&self.shared.spool);
        match name {
            Some(name) => {
                let (shown, value) = self.show_one(name)?;
                rows.columns = vec![text_column(&shown)];
                put_texts(&mut rows, &[&value]);
            }
            None => {
                rows.columns = show_all_columns();
                for (name, _) in self.settings.all() {
                    let (name, value) = self.show_one(&name)?;
                    put_texts(&mut rows, &[&name, &value, ""]);
                }
            }
        }
        rows.check()?;
        Ok(Outcome::Rows { rows, tag: "SHOW".to_owned() })
    }

    fn discard(&mut self, what: Discard) -> Result<&'static str, SqlError> {
        Ok(match what {
            Discard::Plans => "DISCARD PLANS",
            Discard::Temporary => "DISCARD TEMP",
            Discard::Sequences => {
                self.context.sequence_values = Arc::default();
                self.context.last_sequence = None;
                "DISCARD SEQUENCES"
            }
            Discard::All => {
                if self.transaction.phase != Phase::Idle {
                    return Err(SqlError::new(
                        SqlState::ACTIVE_TRANSACTION,
                        "DISCARD ALL cannot run inside a transaction block",
                    ));
                }
                self.reset(None)?;
                self.statements.clear();
                self.portals.clear();
                self.cursors.clear();
                self.context.sequence_values = Arc::default();
                self.context.last_sequence = None;
                "DISCARD ALL"
            }
        })
    }

    /// Keeps a statement under a name.
    ///
    /// # Errors
    /// What the client is told.
    pub fn prepare(
        &mut self,
        name: &str,
        statement: Statement,
        types: Arc<[Option<PgType>]>,
    ) -> Result<(), SqlError> {
        self.statements.add(name, Arc::new(Prepared { statement, types }))
    }

    /// # Errors
    /// 26000 when there is none of that name.
    pub fn prepared(&self, name: &str) -> Result<Arc<Prepared>, SqlError> {
        self.statements.get(name)
    }

    /// Forgets a prepared statement. It need not exist.
    pub fn forget_statement(&mut self, name: &str) {
        self.statements.remove(name);
    }

    /// Keeps a statement with its parameters under a name.
    ///
    /// # Errors
    /// What the client is told.
    pub fn bind(
        &mut self,
        name: &str,
        prepared: Arc<Prepared>,
        parameters: Parameters,
        formats: Formats,
    ) -> Result<(), SqlError> {
        if self.cursors.contains(name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{name}\" already exists"),
            ));
        }
        let portal = Portal {
            prepared,
            parameters,
            formats,
            progress: Progress::NotRun,
            tag: String::new(),
        };
        self.portals.add(name, portal)
    }

    /// # Errors
    /// 34000 when there is none of that name.
    pub fn portal(&mut self, name: &str) -> Result<&mut Portal, SqlError> {
        self.portals.get_mut(name)
    }

    /// Forgets a portal, or a cursor of that name. It need not exist.
    pub fn forget_portal(&mut self, name: &str) {
        if self.portals.remove(name).is_err() && !name.is_empty() {
            let _ = self.cursors.remove(name);
        }
    }

    async fn execute_prepared(
        &mut self,
        name: &str,
        values: Option<&Statement>,
        formats: Formats,
        surroundings: Surroundings,
    ) -> Result<Outcome, SqlError> {
        let prepared = self.statements.get(name)?;
        if let Kind::Session(command) = prepared.statement.kind()
            && matches!(**command, SessionCommand::Execute { .. } | SessionCommand::Prepare { .. })
        {
            return Err(SqlError::not_supported(
                "EXECUTE of a statement that itself prepares or executes",
                "execute that statement directly",
            ));
        }
        let parameters = match values {
            None => Parameters::default(),
            Some(query) => {
                let answer = self.read(self.call(query, Arguments::default())).await?;
                Parameters { values: first_row(&answer.rows)?, formats: Formats::default() }
            }
        };
        let arguments = Arguments { types: prepared.types.clone(), parameters, formats };
        Box::pin(self.dispatch(&prepared.statement, arguments, surroundings)).await
    }
}

/// The fields of the first row.
fn first_row(rows: &Rows) -> Result<Vec<Option<Bytes>>, SqlError> {
    let malformed = || SqlError::new(SqlState::INTERNAL, "the arguments gave no row");
    let mut row = Vec::new();
    rows.read(0, usize::try_from(rows.length()).unwrap_or(usize::MAX), &mut row)?;
    // Kind and length of the message, then the number of fields.
    let row = Bytes::from(row);
    let mut offset = 7;
    let count = row.get(5..7).ok_or_else(malformed)?;
    let count = u16::from_be_bytes([count[0], count[1]]);
    let mut values = Vec::new();
    for _ in 0..count {
        let length = row.get(offset..offset + 4).ok_or_else(malformed)?;
        let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        offset += 4;
        values.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => {
                let end = offset.checked_add(length).filter(|end| *end <= row.len());
                let value = row.slice(offset..end.ok_or_else(malformed)?);
                offset += length;
                Some(value)
            }
        });
    }
    Ok(values)
}

fn text_column(name: &str) -> ResultColumn {
    ResultColumn {
        name: name.to_owned(),
        data_type: TypeUse { base: PgType::Text, modifier: -1 },
        table_oid: 0,
        column_number: 0,
        format: 0,
    }
}

fn show_all_columns() -> Vec<ResultColumn> {
    ["name", "setting", "description"].map(text_column).to_vec()
}

/// A row of texts. When a bound is reached the rows know it.
fn put_texts(rows: &mut Rows, texts: &[&str]) {
    let mut body = Vec::new();
    for text in texts {
        body.extend_from_slice(&(text.len() as u32).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let _ = RowSink::row(rows, &body, texts.len());
}
