//! `COPY ... TO STDOUT`.

use std::ops::ControlFlow;

use super::Executor;
use super::copy_text::{write_csv, write_text};
use crate::analyze::quoted;
use crate::context::Context;
use crate::result::{Complete, Formats, Parameters, ResultColumn, RowSink};
use crate::statement::{CopyCommand, CopyFormat, CopyHeader, CopySource};
use crate::{PgType, SqlError};

/// How the binary format begins: signature, flags, no extension.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

impl Executor {
    /// Executes a `COPY ... TO STDOUT`: the sink gets a record of the format at a time,
    /// with the number of fields 0.
    pub(super) fn copy_out(
        &mut self,
        command: &CopyCommand,
        parameter_types: &[Option<PgType>],
        parameters: &Parameters,
        context: &Context,
        sink: &mut dyn RowSink,
    ) -> Result<Complete, SqlError> {
        let statement = match &command.source {
            CopySource::Query(statement) => statement.clone(),
            CopySource::Table { schema, table, columns } => {
                let schema =
                    schema.as_ref().map_or_else(String::new, |name| format!("{}.", quoted(name)));
                let list = match columns.as_slice() {
                    [] => self.stored_columns(table)?,
                    some => some.to_vec(),
                };
                let list: Vec<String> = list.iter().map(|name| quoted(name)).collect();
                let text = format!("SELECT {} FROM {schema}{}", list.join(", "), quoted(table));
                crate::parse(&text)?.remove(0)
            }
        };
        let (plan, values) = self.bound(&statement, parameter_types, parameters, context)?;
        self.context.set(context);
        let binary = command.format == CopyFormat::Binary;
        let formats = Formats(vec![i16::from(binary)]);
        let mut records = Records { command, sink, forced: Vec::new(), buffer: Vec::new() };
        let run = self.run(&plan, &values, &formats, context, &mut records)?;
        if binary && records.sink.row(&(-1i16).to_be_bytes(), 0).is_break() {
            return Ok(Complete { suspended: true, ..run });
        }
        Ok(Complete { tag: format!("COPY {}", run.rows), ..run })
    }

    /// All columns but generated ones, which COPY leaves out. A relation of the system
    /// has none of these.
    fn stored_columns(&mut self, table: &str) -> Result<Vec<String>, SqlError> {
        let catalog = self.catalog()?;
        let Some(relation) = catalog.relations.get(table) else {
            return Err(SqlError::new(
                crate::SqlState::UNDEFINED_TABLE,
                format!("relation \"{table}\" does not exist"),
            ));
        };
        let stored = relation.columns.iter().filter(|column| !column.generated);
        Ok(stored.map(|column| column.name.clone()).collect())
    }
}

/// Makes records of rows.
struct Records<'a> {
    command: &'a CopyCommand,
    sink: &'a mut dyn RowSink,
    /// Whether each column's values are always quoted.
    forced: Vec<bool>,
    buffer: Vec<u8>,
}

impl RowSink for Records<'_> {
    fn columns(&mut self, columns: &[ResultColumn]) -> ControlFlow<()> {
        let forced = &self.command.force_quote;
        let all = forced.as_slice() == ["*"];
        self.forced = columns.iter().map(|column| all || forced.contains(&column.name)).collect();
        self.sink.columns(columns)?;
        if self.command.format == CopyFormat::Binary {
            return self.sink.row(BINARY_HEADER, 0);
        }
        if self.command.header == CopyHeader::None {
            return ControlFlow::Continue(());
        }
        self.buffer.clear();
        for (index, column) in columns.iter().enumerate() {
            self.write(index, Some(column.name.as_bytes()), false, columns.len() == 1);
        }
        self.buffer.push(b'\n');
        self.sink.row(&self.buffer, 0)
    }

    fn row(&mut self, data: &[u8], fields: usize) -> ControlFlow<()> {
        self.buffer.clear();
        if self.command.format == CopyFormat::Binary {
            // A tuple is a DataRow's body with the count before it.
            let count = i16::try_from(fields).unwrap_or(i16::MAX);
            self.buffer.extend_from_slice(&count.to_be_bytes());
            self.buffer.extend_from_slice(data);
            return self.sink.row(&self.buffer, 0);
        }
        let mut rest = data;
        for index in 0..fields {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let value = length.and_then(|length| after.get(..length));
            rest = &after[value.map_or(0, <[u8]>::len)..];
            let forced = self.forced.get(index).copied().unwrap_or(false);
            self.write(index, value, forced, fields == 1);
        }
        self.buffer.push(b'\n');
        self.sink.row(&self.buffer, 0)
    }
}

impl Records<'_> {
    fn write(&mut self, index: usize, value: Option<&[u8]>, forced: bool, only: bool) {
        if index > 0 {
            self.buffer.push(self.command.delimiter);
        }
        match (value, self.command.format) {
            (None, _) => self.buffer.extend_from_slice(self.command.null.as_bytes()),
            (Some(value), CopyFormat::Csv) => {
                write_csv(&mut self.buffer, value, self.command, forced, only);
            }
            (Some(value), _) => write_text(&mut self.buffer, value, self.command),
        }
    }
}
