//! The extended protocol: Parse, Bind, Describe, Execute, Sync.

use std::sync::Arc;

use bytes::Bytes;
use rung_sql::{Description, Formats, Kind, Parameters, PgType, SqlError, SqlState};

use super::connection::{Connection, End, slice};
use super::encode;
use super::frontend::{Bind, HEADER, Target};
use crate::rows::RowCursor;
use crate::session::{Arguments, Outcome, Phase, Progress, Surroundings};

impl Connection {
    /// Tells an error; nothing more is done until Sync.
    async fn refuse(&mut self, error: &SqlError) {
        self.session.fail().await;
        self.error(error);
        self.skipping = true;
        self.described = None;
    }

    pub async fn parse(&mut self, name: &str, query: &str, types: &[u32]) -> Result<(), End> {
        match self.try_parse(name, query, types) {
            Ok(()) => encode::parse_complete(&mut self.wire.output),
            Err(error) => self.refuse(&error).await,
        }
        Ok(())
    }

    fn try_parse(&mut self, name: &str, query: &str, types: &[u32]) -> Result<(), SqlError> {
        let types = types.iter().map(|oid| match (*oid, PgType::from_oid(*oid)) {
            (0, _) | (_, Some(PgType::Unknown)) => Ok(None),
            (_, Some(known)) => Ok(Some(known)),
            (oid, None) => Err(SqlError::new(
                SqlState::UNDEFINED_OBJECT,
                format!("there is no type with OID {oid}"),
            )),
        });
        let types: Arc<[Option<PgType>]> = types.collect::<Result<_, _>>()?;
        let mut statements = rung_sql::parse(query)?;
        if statements.len() > 1 {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            ));
        }
        let Some(statement) = statements.pop() else {
            return Err(SqlError::new(SqlState::INTERNAL, "a text without a statement"));
        };
        let ends = matches!(statement.kind(), Kind::Control(_) | Kind::Empty);
        if self.session.phase() == Phase::Failed && !ends {
            return Err(SqlError::new(
                SqlState::IN_FAILED_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        self.session.prepare(name, statement, types)
    }

    pub async fn bind(&mut self, body: &Bytes, bind: Bind<'_>) -> Result<(), End> {
        match self.try_bind(body, bind) {
            Ok(()) => encode::bind_complete(&mut self.wire.output),
            Err(error) => self.refuse(&error).await,
        }
        Ok(())
    }

    fn try_bind(&mut self, body: &Bytes, bind: Bind<'_>) -> Result<(), SqlError> {
        let prepared = self.session.prepared(bind.statement)?;
        let violation = |what: String| SqlError::new(SqlState::PROTOCOL_VIOLATION, what);
        let (formats, values) = (bind.formats.len(), bind.parameters.len());
        if formats > 1 && formats != values {
            return Err(violation(format!(
                "bind message has {formats} parameter formats but {values} parameters"
            )));
        }
        let mut all = bind.formats.iter().chain(&bind.result_formats);
        if let Some(format) = all.find(|format| !matches!(format, 0 | 1)) {
            return Err(violation(format!("unsupported format code: {format}")));
        }
        let values = bind.parameters.into_iter().map(|value| slice(body, value)).collect();
        let parameters = Parameters { values, formats: Formats(bind.formats) };
        let formats = Formats(bind.result_formats);
        self.session.bind(bind.portal, prepared, parameters, formats)
    }

    pub async fn describe(&mut self, target: Target<'_>) -> Result<(), End> {
        let described = match target {
            Target::Statement(name) => self.describe_statement(name).await,
            Target::Portal(name) => self.describe_portal(name).await,
        };
        if let Err(error) = described {
            self.refuse(&error).await;
        }
        Ok(())
    }

    async fn describe_statement(&mut self, name: &str) -> Result<(), SqlError> {
        let prepared = self.session.prepared(name)?;
        let described = self.session.describe(&prepared.statement, prepared.types.clone()).await?;
        let types = described.parameters.iter().map(PgType::oid);
        encode::parameter_description(&mut self.wire.output, types);
        self.tell_columns(&described);
        Ok(())
    }

    async fn describe_portal(&mut self, name: &str) -> Result<(), SqlError> {
        if let Some(columns) = self.session.cursor_columns(name) {
            encode::row_description(&mut self.wire.output, columns);
            return Ok(());
        }
        let portal = self.session.portal(name)?;
        if let Progress::Suspended(cursor) = &portal.progress {
            encode::row_description(&mut self.wire.output, &cursor.rows.columns);
            return Ok(());
        }
        let prepared = portal.prepared.clone();
        let formats = portal.formats.clone();
        if self.wire.peek(0).is_some_and(|header| header.kind == b'E')
            && matches!(prepared.statement.kind(), Kind::Read | Kind::Write)
        {
            // The execution that follows tells the columns as well.
            self.described = Some(name.to_owned());
            return Ok(());
        }
        let mut described =
            self.session.describe(&prepared.statement, prepared.types.clone()).await?;
        for (index, column) in described.columns.iter_mut().enumerate() {
            column.format = formats.of(index);
        }
        self.tell_columns(&described);
        Ok(())
    }

    fn tell_columns(&mut self, described: &Description) {
        match described.columns.as_slice() {
            [] => encode::no_data(&mut self.wire.output),
            columns => encode::row_description(&mut self.wire.output, columns),
        }
    }

    pub async fn execute(&mut self, name: &str, max_rows: i32) -> Result<(), End> {
        let max_rows = u64::try_from(max_rows).unwrap_or(0);
        let mut tell_columns = false;
        if let Some(described) = self.described.take() {
            tell_columns = described == name;
            if !tell_columns {
                let error = SqlError::new(
                    SqlState::PROTOCOL_VIOLATION,
                    "a portal was described and another one executed right after it",
                );
                self.refuse(&error).await;
                return Ok(());
            }
        }
        let portal = match self.session.portal(name) {
            Ok(portal) => portal,
            Err(error) => {
                self.refuse(&error).await;
                return Ok(());
            }
        };
        match std::mem::replace(&mut portal.progress, Progress::Done) {
            Progress::NotRun => self.run_portal(name, max_rows, tell_columns).await,
            Progress::Suspended(cursor) => {
                let tag = portal.tag.clone();
                self.give(name, *cursor, tag, max_rows).await
            }
            Progress::Done => {
                // As PostgreSQL: a query gives no more rows, anything else must not
                // be done twice.
                let is_query = matches!(portal.prepared.statement.kind(), Kind::Read);
                let tag = portal.tag.clone();
                match is_query {
                    true => self.complete(&with_count(&tag, 0)),
                    false => {
                        let error = SqlError::new(
                            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                            format!("portal \"{name}\" cannot be run"),
                        );
                        self.refuse(&error).await;
                    }
                }
                Ok(())
            }
        }
    }

    async fn run_portal(
        &mut self,
        name: &str,
        max_rows: u64,
        tell_columns: bool,
    ) -> Result<(), End> {
        let surroundings = self.surroundings();
        let executed = match self.session.portal(name) {
            Ok(portal) => {
                let arguments = Arguments {
                    types: portal.prepared.types.clone(),
                    parameters: portal.parameters.clone(),
                    formats: portal.formats.clone(),
                };
                let prepared = portal.prepared.clone();
                self.session.execute(&prepared.statement, arguments, surroundings).await
            }
            Err(error) => Err(error),
        };
        let outcome = match executed {
            Ok(outcome) => outcome,
            Err(error) => {
                self.refuse(&error).await;
                return Ok(());
            }
        };
        if tell_columns {
            match &outcome {
                Outcome::Rows { rows, .. } => {
                    encode::row_description(&mut self.wire.output, &rows.columns);
                }
                _ => encode::no_data(&mut self.wire.output),
            }
        }
        match outcome {
            Outcome::Empty => encode::empty_query(&mut self.wire.output),
            Outcome::Done { tag } => self.complete(&tag),
            Outcome::Rows { rows, tag } if max_rows == 0 => {
                if let Ok(portal) = self.session.portal(name) {
                    portal.tag.clone_from(&tag);
                }
                self.complete_rows(&rows, &tag).await?;
            }
            Outcome::Rows { rows, tag } => {
                self.give(name, RowCursor::new(rows), tag, max_rows).await?;
            }
            Outcome::CopyOut { rows, tag, binary, columns } => {
                self.copy_out(&rows, &tag, binary, columns).await?;
            }
            Outcome::CopyIn { binary, columns } => match self.copy_in(binary, columns).await? {
                Ok(tag) => self.complete(&tag),
                Err(error) => self.refuse(&error).await,
            },
        }
        Ok(())
    }

    /// Gives the next rows of a portal: at most so many, or all with 0.
    async fn give(
        &mut self,
        name: &str,
        mut cursor: RowCursor,
        tag: String,
        max_rows: u64,
    ) -> Result<(), End> {
        let mut given = 0;
        while max_rows == 0 || given < max_rows {
            match cursor.next() {
                Ok(Some(row)) => self.wire.output.extend_from_slice(row),
                Ok(None) => {
                    self.complete(&with_count(&tag, given));
                    self.keep(name, Progress::Done, tag);
                    return Ok(());
                }
                Err(error) => return Err(End::Broken(std::io::Error::other(error).into())),
            }
            given += 1;
            self.wire.flush_if_full().await?;
        }
        // Whether there is one more row is told by the next execution.
        encode::portal_suspended(&mut self.wire.output);
        self.keep(name, Progress::Suspended(Box::new(cursor)), tag);
        Ok(())
    }

    /// The portal is gone if its statement has ended the transaction.
    fn keep(&mut self, name: &str, progress: Progress, tag: String) {
        if let Ok(portal) = self.session.portal(name) {
            portal.progress = progress;
            portal.tag = tag;
        }
    }

    /// Whether an execution is all that comes before Sync, as far as it has arrived.
    /// Then it is a transaction of its own, which the database groups with others.
    fn surroundings(&self) -> Surroundings {
        if self.session.phase() != Phase::Idle {
            return Surroundings::OneOfSeveral;
        }
        let mut offset = 0;
        while let Some(header) = self.wire.peek(offset) {
            match header.kind {
                b'S' => return Surroundings::Alone,
                b'C' | b'H' => offset += HEADER + header.body,
                _ => return Surroundings::OneOfSeveral,
            }
        }
        Surroundings::OneOfSeveral
    }

    pub async fn sync(&mut self) -> Result<(), End> {
        let was_skipping = std::mem::take(&mut self.skipping);
        self.described = None;
        if !was_skipping && let Err(error) = self.session.finish_implicit().await {
            self.session.fail().await;
            self.error(&error);
        }
        self.session.end_of_series();
        self.ready().await
    }
}

/// A tag with the rows of this execution in place of all rows.
fn with_count(tag: &str, count: u64) -> String {
    match tag.rsplit_once(' ') {
        Some((command, _)) => format!("{command} {count}"),
        None => tag.to_owned(),
    }
}
