//! Binding values, stepping through rows and writing them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::ControlFlow;

use rusqlite::types::{Value, ValueRef};
use rusqlite::{CachedStatement, Row};

use super::{Executor, errors, explain_column};
use crate::analyze::{Plan, Tag};
use crate::result::{Complete, Formats, Parameters, ResultColumn, RowSink};
use crate::values::{decode_binary, decode_text, encode_binary, encode_text};
use crate::{Catalog, Context, SqlError, SqlState, TypeUse, system};

/// The buffer for a row is kept from one statement to the next up to this size.
const BUFFER_KEPT: usize = 1 << 20;

impl Executor {
    pub(super) fn run(
        &mut self,
        plan: &Plan,
        values: &[Value],
        formats: &Formats,
        context: &Context,
        sink: &mut dyn RowSink,
    ) -> Result<Complete, SqlError> {
        let result = self.step(plan, values, formats, context, sink);
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer = Vec::new();
        }
        match result {
            Ok(complete) => Ok(complete),
            Err(Failure::Sql(error)) => Err(error),
            Err(Failure::Sqlite(error)) => Err(self.explained(&error, plan, values)),
        }
    }

    fn step(
        &mut self,
        plan: &Plan,
        values: &[Value],
        formats: &Formats,
        context: &Context,
        sink: &mut dyn RowSink,
    ) -> Result<Complete, Failure> {
        let mut statement = self.connection.prepare_cached(&plan.sql)?;
        bind(&mut statement, values)?;
        if plan.notes_rows {
            self.noted.clear();
        }
        if plan.columns.is_empty() && plan.tag != Tag::Select {
            if !plan.notes_rows {
                let changed = statement.raw_execute()? as u64;
                return Ok(complete(plan.tag, changed, false));
            }
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
            return Ok(complete(plan.tag, self.connection.changes(), false));
        }
        let columns = formatted(plan, formats)?;
        let mut suspended = sink.columns(&columns).is_break();
        let mut count = 0;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            if suspended {
                break;
            }
            self.buffer.clear();
            write_row(&mut self.buffer, row, &columns, &self.catalog, context)?;
            count += 1;
            suspended = sink.row(&self.buffer, columns.len()).is_break();
        }
        drop(rows);
        if suspended && plan.tag != Tag::Select {
            // All rows were changed before the first was given.
            count = self.connection.changes();
        }
        Ok(complete(plan.tag, count, suspended))
    }

    /// SQLite's own plan, a line for each step.
    pub(super) fn explain_plan(
        &mut self,
        plan: &Plan,
        sink: &mut dyn RowSink,
    ) -> Result<Complete, SqlError> {
        let column = explain_column();
        let lines = self.plan_lines(plan).map_err(|error| errors::plain(&error))?;
        let mut count = 0;
        if sink.columns(&[column]).is_continue() {
            for line in lines {
                self.buffer.clear();
                write_field(&mut self.buffer, |buffer| {
                    buffer.extend_from_slice(line.as_bytes());
                    Ok(())
                })?;
                count += 1;
                if sink.row(&self.buffer, 1) == ControlFlow::Break(()) {
                    break;
                }
            }
        }
        Ok(Complete { tag: "EXPLAIN".to_owned(), rows: count, ..Complete::default() })
    }

    fn plan_lines(&self, plan: &Plan) -> rusqlite::Result<Vec<String>> {
        let text = format!("EXPLAIN QUERY PLAN {}", plan.sql);
        let mut statement = self.connection.prepare(&text)?;
        let mut depths: Vec<(i64, usize)> = Vec::new();
        let mut lines = Vec::new();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            let (id, parent): (i64, i64) = (row.get(0)?, row.get(1)?);
            let step: String = row.get(3)?;
            let above = depths.iter().find(|(known, _)| *known == parent);
            let depth = above.map_or(0, |(_, depth)| depth + 1);
            depths.push((id, depth));
            let arrow = if depth == 0 { "" } else { "->  " };
            let indent = depth.saturating_sub(1) * 6 + if depth == 0 { 0 } else { 2 };
            lines.push(format!("{:indent$}{arrow}{step}", ""));
        }
        Ok(lines)
    }
}

/// Why a statement failed.
enum Failure {
    Sql(SqlError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

/// The client's values in their stored forms.
pub(super) fn decoded(
    plan: &Plan,
    parameters: &Parameters,
    context: &Context,
) -> Result<Vec<Value>, SqlError> {
    if parameters.values.len() != plan.parameters.len() {
        return Err(SqlError::new(
            SqlState::PROTOCOL_VIOLATION,
            format!(
                "bind message supplies {} parameters, but prepared statement requires {}",
                parameters.values.len(),
                plan.parameters.len()
            ),
        ));
    }
    let mut values = Vec::with_capacity(plan.parameters.len());
    for (index, (bytes, base)) in parameters.values.iter().zip(&plan.parameters).enumerate() {
        let Some(bytes) = bytes else {
            values.push(Value::Null);
            continue;
        };
        let data_type = TypeUse { base: base.clone(), modifier: -1 };
        values.push(match parameters.formats.of(index) {
            0 => decode_text(bytes, &data_type, context)?,
            1 => decode_binary(bytes, &data_type)?,
            format => return Err(unknown_format(format)),
        });
    }
    Ok(values)
}

fn unknown_format(format: i16) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("unsupported format code: {format}"))
}

/// Parameters that the statement does not mention have no place in SQLite's.
pub(super) fn bind(statement: &mut CachedStatement<'_>, values: &[Value]) -> rusqlite::Result<()> {
    let known = statement.parameter_count();
    for (index, value) in values.iter().take(known).enumerate() {
        statement.raw_bind_parameter(index + 1, value)?;
    }
    Ok(())
}

/// The plan's columns with the formats that the client wants.
fn formatted<'p>(plan: &'p Plan, formats: &Formats) -> Result<Cow<'p, [ResultColumn]>, SqlError> {
    let wanted = (0..plan.columns.len()).map(|index| formats.of(index));
    if let Some(format) = wanted.clone().find(|format| !matches!(format, 0 | 1)) {
        return Err(unknown_format(format));
    }
    if wanted.clone().all(|format| format == 0) {
        return Ok(Cow::Borrowed(&plan.columns));
    }
    let columns = plan.columns.iter().zip(wanted);
    Ok(columns.map(|(column, format)| ResultColumn { format, ..column.clone() }).collect())
}

fn write_row(
    buffer: &mut Vec<u8>,
    row: &Row<'_>,
    columns: &[ResultColumn],
    catalog: &Catalog,
    context: &Context,
) -> Result<(), Failure> {
    for (index, column) in columns.iter().enumerate() {
        let value = row.get_ref(index)?;
        if let ValueRef::Null = value {
            buffer.extend_from_slice(&(-1i32).to_be_bytes());
            continue;
        }
        if let (0, ValueRef::Integer(oid)) = (column.format, value)
            && let Some(name) = system::name_shown(catalog, &column.data_type.base, oid)
        {
            write_field(buffer, |buffer| {
                buffer.extend_from_slice(name.as_bytes());
                Ok(())
            })?;
            continue;
        }
        write_field(buffer, |buffer| match column.format {
            0 => encode_text(buffer, value, &column.data_type, context),
            _ => encode_binary(buffer, value, &column.data_type),
        })?;
    }
    Ok(())
}

/// A field: its length, which is known afterwards, and its bytes.
fn write_field(
    buffer: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), SqlError>,
) -> Result<(), SqlError> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    write(buffer)?;
    let length = i32::try_from(buffer.len() - start - 4).map_err(|_| {
        SqlError::new(SqlState::LIMIT_EXCEEDED, "a value is larger than a message can be")
    })?;
    buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn complete(tag: Tag, rows: u64, suspended: bool) -> Complete {
    let mut text = String::with_capacity(16);
    text.push_str(match tag {
        Tag::Select => "SELECT ",
        Tag::Insert => "INSERT 0 ",
        Tag::Update => "UPDATE ",
        Tag::Delete => "DELETE ",
    });
    // Writing to a String cannot fail.
    let _ = write!(text, "{rows}");
    Complete { tag: text, rows, suspended, ..Complete::default() }
}
