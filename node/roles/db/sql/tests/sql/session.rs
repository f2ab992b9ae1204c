//! A session as a server would have it, on a database in memory.

use std::ops::ControlFlow;

use rung_sql::{
    Context, Control, Executor, Formats, Kind, Parameters, ResultColumn, RowSink, SqlError, parse,
};

pub struct Session {
    pub executor: Executor,
    pub context: Context,
    is_in_transaction: bool,
    has_failed: bool,
}

/// Collects rows as text.
#[derive(Default)]
pub struct Rows {
    pub lines: Vec<String>,
}

impl RowSink for Rows {
    fn columns(&mut self, columns: &[ResultColumn]) -> ControlFlow<()> {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        self.lines.push(names.join("|"));
        ControlFlow::Continue(())
    }

    fn row(&mut self, data: &[u8], fields: usize) -> ControlFlow<()> {
        let mut rest = data;
        let mut values = Vec::new();
        for _ in 0..fields {
            let (length, after) = rest.split_at(4);
            let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
            match usize::try_from(length) {
                Err(_) => {
                    values.push("NULL".to_owned());
                    rest = after;
                }
                Ok(length) => {
                    let (value, after) = after.split_at(length);
                    values.push(String::from_utf8_lossy(value).into_owned());
                    rest = after;
                }
            }
        }
        assert!(rest.is_empty(), "bytes after the last field");
        self.lines.extend(values.join("|").split('\n').map(str::to_owned));
        ControlFlow::Continue(())
    }
}

impl Session {
    pub fn new() -> Self {
        let connection = rusqlite::Connection::open_in_memory().expect("a database in memory");
        let mut executor = Executor::new(connection).expect("an executor");
        executor.install().expect("the catalog's tables");
        let context = Context::new("rung", "c");
        Self { executor, context, is_in_transaction: false, has_failed: false }
    }

    /// What a client sees.
    pub fn answer(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        match parse(text) {
            Err(error) => lines.extend(error_lines(&error)),
            Ok(statements) => {
                for statement in statements {
                    let mut rows = Rows::default();
                    let result = self.execute(&statement, &mut rows);
                    match result {
                        Ok(tag) => {
                            lines.append(&mut rows.lines);
                            lines.push(tag);
                        }
                        Err(error) => {
                            self.has_failed = self.is_in_transaction;
                            lines.extend(error_lines(&error));
                            break;
                        }
                    }
                }
            }
        }
        lines.retain(|line| !line.is_empty());
        lines
    }

    fn execute(
        &mut self,
        statement: &rung_sql::Statement,
        rows: &mut Rows,
    ) -> Result<String, SqlError> {
        if let Kind::Control(control) = statement.kind() {
            return Ok(self.control(control));
        }
        let complete = self.executor.execute(
            statement,
            &[],
            &Parameters::default(),
            &Formats::default(),
            &self.context,
            rows,
        )?;
        self.context.remember_sequences(&complete.effects);
        Ok(complete.tag)
    }

    fn control(&mut self, control: &Control) -> String {
        let (sql, tag) = match control {
            Control::Begin(_) => ("BEGIN".to_owned(), "BEGIN"),
            Control::Commit { .. } if self.has_failed => ("ROLLBACK".to_owned(), "ROLLBACK"),
            Control::Commit { .. } => ("COMMIT".to_owned(), "COMMIT"),
            Control::Rollback { .. } => ("ROLLBACK".to_owned(), "ROLLBACK"),
            Control::Savepoint(name) => (format!("SAVEPOINT \"{name}\""), "SAVEPOINT"),
            Control::Release(name) => (format!("RELEASE \"{name}\""), "RELEASE"),
            Control::RollbackTo(name) => (format!("ROLLBACK TO \"{name}\""), "ROLLBACK"),
        };
        let ends = matches!(control, Control::Commit { .. } | Control::Rollback { .. });
        if self.is_in_transaction || !ends {
            self.executor.connection().execute_batch(&sql).expect("control of a transaction");
        }
        self.is_in_transaction = !ends;
        self.has_failed = false;
        tag.to_owned()
    }
}

fn error_lines(error: &SqlError) -> Vec<String> {
    let mut lines = vec![format!("ERROR {}: {}", error.state.0, error.message)];
    lines.extend(error.detail.iter().map(|detail| format!("DETAIL: {detail}")));
    lines
}

/// Collects the records of COPY.
#[derive(Default)]
pub struct Records(pub Vec<u8>);

impl RowSink for Records {
    fn columns(&mut self, _: &[ResultColumn]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn row(&mut self, data: &[u8], fields: usize) -> ControlFlow<()> {
        assert_eq!(fields, 0, "a record is whole");
        self.0.extend_from_slice(data);
        ControlFlow::Continue(())
    }
}
