//! `COPY ... FROM STDIN`: data in pieces becomes rows.

use std::sync::Arc;

use rusqlite::types::Value;

use super::copy_text::{Field, Splitter, csv_fields, text_fields};
use super::{Executor, errors};
use crate::analyze::{Plan, quoted};
use crate::context::Context;
use crate::result::Complete;
use crate::statement::{CopyCommand, CopyFormat, CopyHeader, CopySource};
use crate::values::{decode_binary, decode_text};
use crate::{SqlError, SqlState, TypeUse};

/// Bytes of one record.
const MAXIMUM_RECORD: usize = 256 << 20;

/// How the binary format begins.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// A COPY in progress. It belongs to the transaction in which it began.
pub struct CopyIn {
    command: CopyCommand,
    table: String,
    names: Vec<String>,
    types: Vec<TypeUse>,
    plan: Arc<Plan>,
    /// Data of a record that is not complete yet.
    pending: Vec<u8>,
    splitter: Splitter,
    line: u64,
    rows: u64,
    header: Header,
    /// The end was marked in the data; what follows is ignored.
    is_done: bool,
}

/// What stands before the first row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Header {
    Line,
    Binary,
    Passed,
}

impl CopyIn {
    /// How many columns the client sends, for `CopyInResponse`.
    pub fn columns(&self) -> usize {
        self.names.len()
    }

    pub fn format(&self) -> CopyFormat {
        self.command.format
    }

    /// The next record's fields; None if more data is needed.
    fn next(&mut self, start: &mut usize, at_end: bool) -> Result<Option<Vec<Field>>, SqlError> {
        if self.command.format == CopyFormat::Binary {
            return self.next_binary(start);
        }
        loop {
            let data = &self.pending[*start..];
            let (length, line_end) = match self.splitter.next(data, &self.command) {
                Some(found) => found,
                None if at_end && !data.is_empty() => (data.len(), 0),
                None => return Ok(None),
            };
            self.line += 1;
            let line = &data[..length];
            let line = line.strip_suffix(b"\r").filter(|_| line_end == 0).unwrap_or(line);
            *start += length + line_end;
            if line == b"\\." {
                self.is_done = true;
                return Ok(None);
            }
            let fields = match self.command.format {
                CopyFormat::Csv => csv_fields(line, &self.command, &self.names)?,
                _ => text_fields(line, &self.command),
            };
            if self.header == Header::Line {
                self.header = Header::Passed;
                self.check_header(&fields)?;
                continue;
            }
            return Ok(Some(fields));
        }
    }

    fn check_header(&self, fields: &[Field]) -> Result<(), SqlError> {
        if self.command.header != CopyHeader::Match {
            return Ok(());
        }
        let same = fields.len() == self.names.len()
            && fields.iter().zip(&self.names).all(|(field, name)| {
                field.as_deref().is_some_and(|field| field == name.as_bytes())
            });
        if same {
            return Ok(());
        }
        Err(bad("column name mismatch in header line")
            .hint(format!("The header must be: {}", self.names.join(", "))))
    }

    fn next_binary(&mut self, start: &mut usize) -> Result<Option<Vec<Field>>, SqlError> {
        let data = &self.pending[*start..];
        if self.header == Header::Binary {
            let Some(head) = data.get(..SIGNATURE.len() + 8) else { return Ok(None) };
            if !head.starts_with(SIGNATURE) {
                return Err(bad("COPY file signature not recognized"));
            }
            let extension = integer(&head[SIGNATURE.len() + 4..]);
            let extension = usize::try_from(extension)
                .ok()
                .filter(|length| *length <= MAXIMUM_RECORD)
                .ok_or_else(|| bad("invalid COPY file header (wrong length)"))?;
            if data.len() < head.len() + extension {
                return Ok(None);
            }
            *start += head.len() + extension;
            self.header = Header::Passed;
            return self.next_binary(start);
        }
        let Some(count) = data.get(..2) else { return Ok(None) };
        let count = i16::from_be_bytes([count[0], count[1]]);
        if count == -1 {
            self.is_done = true;
            return Ok(None);
        }
        let expected = self.names.len();
        if usize::try_from(count) != Ok(expected) {
            self.line += 1;
            return Err(bad(format!("row field count is {count}, expected {expected}")));
        }
        let mut fields = Vec::with_capacity(expected);
        let mut position = 2;
        for _ in 0..expected {
            let Some(length) = data.get(position..position + 4) else { return Ok(None) };
            let length = integer(length);
            position += 4;
            if length == -1 {
                fields.push(None);
                continue;
            }
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= MAXIMUM_RECORD)
                .ok_or_else(|| bad("invalid field size"))?;
            let Some(value) = data.get(position..position + length) else { return Ok(None) };
            fields.push(Some(value.to_vec()));
            position += length;
        }
        self.line += 1;
        *start += position;
        Ok(Some(fields))
    }

    fn values(&self, fields: &[Field], context: &Context) -> Result<Vec<Value>, SqlError> {
        if let Some(missing) = self.names.get(fields.len()) {
            return Err(bad(format!("missing data for column \"{missing}\"")));
        }
        if fields.len() > self.names.len() {
            return Err(bad("extra data after last expected column"));
        }
        let mut values = Vec::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate() {
            let Some(bytes) = field else {
                values.push(Value::Null);
                continue;
            };
            let data_type = TypeUse { base: self.types[index].base.clone(), modifier: -1 };
            let value = match self.command.format {
                CopyFormat::Binary => decode_binary(bytes, &data_type),
                _ => decode_text(bytes, &data_type, context),
            };
            values.push(value.map_err(|error| self.located(error, Some(index)))?);
        }
        Ok(values)
    }

    /// Says in which line, and column, an error occurred.
    fn located(&self, mut error: SqlError, column: Option<usize>) -> SqlError {
        let mut place = format!("COPY {}, line {}", self.table, self.line);
        if let Some(name) = column.and_then(|index| self.names.get(index)) {
            place.push_str(&format!(", column {name}"));
        }
        error.detail = Some(match error.detail.take() {
            Some(detail) if detail.contains("COPY ") => detail,
            Some(detail) => format!("{detail} ({place})"),
            None => place,
        });
        error
    }
}

fn integer(bytes: &[u8]) -> i32 {
    bytes.first_chunk().map_or(-1, |four| i32::from_be_bytes(*four))
}

fn bad(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::BAD_COPY_FORMAT, message)
}

impl Executor {
    /// Begins a `COPY ... FROM STDIN`.
    ///
    /// # Errors
    /// 42P01, 42703 and others if there is no such table or column.
    pub fn copy_in(
        &mut self,
        command: &CopyCommand,
        context: &Context,
    ) -> Result<CopyIn, SqlError> {
        let CopySource::Table { schema, table, columns } = &command.source else {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "COPY FROM needs a table"));
        };
        let catalog = self.catalog()?;
        let relation = catalog.relations.get(table).ok_or_else(|| {
            SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{table}\" does not exist"))
        })?;
        let mut names = columns.clone();
        if names.is_empty() {
            let stored = relation.columns.iter().filter(|column| !column.generated);
            names.extend(stored.map(|column| column.name.clone()));
        }
        let mut types = Vec::with_capacity(names.len());
        for name in &names {
            let column = relation.column(name).ok_or_else(|| {
                SqlError::new(
                    SqlState::UNDEFINED_COLUMN,
                    format!("column \"{name}\" of relation \"{table}\" does not exist"),
                )
            })?;
            types.push(column.data_type.clone());
        }
        let schema =
            schema.as_ref().map_or_else(String::new, |schema| format!("{}.", quoted(schema)));
        let list: Vec<String> = names.iter().map(|name| quoted(name)).collect();
        let places: Vec<String> = (1..=names.len()).map(|number| format!("${number}")).collect();
        // Identity columns take the values of COPY, as in PostgreSQL.
        let text = format!(
            "INSERT INTO {schema}{} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
            quoted(table),
            list.join(", "),
            places.join(", ")
        );
        let statement = crate::parse(&text)?.remove(0);
        let known: Vec<_> = types.iter().map(|one| Some(one.base.clone())).collect();
        let plan = self.plan(&statement, &known, context)?;
        let header = match (command.format, command.header) {
            (CopyFormat::Binary, _) => Header::Binary,
            (_, CopyHeader::None) => Header::Passed,
            _ => Header::Line,
        };
        Ok(CopyIn {
            command: command.clone(),
            table: table.clone(),
            names,
            types,
            plan,
            pending: Vec::new(),
            splitter: Splitter::default(),
            line: 0,
            rows: 0,
            header,
            is_done: false,
        })
    }

    /// Takes a piece of the data and inserts the rows that it completes. After an error
    /// the rows before it are there: the transaction must be rolled back.
    ///
    /// # Errors
    /// As those of INSERT, and 22P04 for data that is not in the format; the detail has
    /// the line.
    pub fn copy_data(
        &mut self,
        copy: &mut CopyIn,
        data: &[u8],
        context: &Context,
    ) -> Result<(), SqlError> {
        if copy.is_done {
            return Ok(());
        }
        copy.pending.extend_from_slice(data);
        self.copy_pending(copy, false, context)?;
        if copy.pending.len() > MAXIMUM_RECORD {
            let error = SqlError::new(
                SqlState::LIMIT_EXCEEDED,
                format!("a record of COPY is longer than {MAXIMUM_RECORD} bytes"),
            );
            return Err(copy.located(error, None));
        }
        Ok(())
    }

    /// All data has come.
    pub fn copy_end(&mut self, mut copy: CopyIn, context: &Context) -> Result<Complete, SqlError> {
        self.copy_pending(&mut copy, true, context)?;
        if copy.command.format == CopyFormat::Binary && !copy.is_done {
            return Err(copy.located(bad("unexpected EOF in COPY data"), None));
        }
        let effects = std::mem::take(&mut self.context.lock().effects);
        Ok(Complete {
            tag: format!("COPY {}", copy.rows),
            rows: copy.rows,
            effects,
            ..Complete::default()
        })
    }

    fn copy_pending(
        &mut self,
        copy: &mut CopyIn,
        at_end: bool,
        context: &Context,
    ) -> Result<(), SqlError> {
        let effects = std::mem::take(&mut self.context.lock().effects);
        self.context.set(context);
        self.context.lock().effects = effects;
        let mut start = 0;
        let prepared = self.connection.prepare_cached(&copy.plan.sql);
        let mut statement = prepared.map_err(|error| errors::plain(&error))?;
        while !copy.is_done {
            let fields = match copy.next(&mut start, at_end) {
                Ok(Some(fields)) => fields,
                Ok(None) => break,
                Err(error) => return Err(copy.located(error, None)),
            };
            let values = copy.values(&fields, context).map_err(|e| copy.located(e, None))?;
            super::run::bind(&mut statement, &values).map_err(|error| errors::plain(&error))?;
            if let Err(error) = statement.raw_execute() {
                let error = self.explained(&error, &copy.plan, &values);
                return Err(copy.located(error, None));
            }
            copy.rows += 1;
        }
        copy.pending.drain(..start);
        Ok(())
    }
}
