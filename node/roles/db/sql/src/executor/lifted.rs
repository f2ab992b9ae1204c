//! Executing statements without their literals: one plan for all that differ in
//! constants alone. Whatever goes wrong on this way, the statement is executed with
//! its literals, so that answers and errors are the same.

use std::sync::Arc;

use rusqlite::types::Value;

use super::Executor;
use super::plans::translated;
use crate::analyze::{LiftedValue, Plan};
use crate::statement::Statement;
use crate::values::decode_text;
use crate::{Catalog, Context, SqlError};

/// A plan with values for its literals.
pub(super) type Filled = (Arc<Plan>, Vec<Value>);

impl Executor {
    /// The plan of a statement without its literals, and these. None if it has none
    /// that were taken out, or must be executed with them.
    pub(super) fn filled(
        &mut self,
        statement: &Statement,
        context: &Context,
    ) -> Result<Option<Filled>, SqlError> {
        let Some(shape) = statement.shape() else { return Ok(None) };
        if shape.is_refused() {
            return Ok(None);
        }
        let catalog = self.catalog()?;
        let plan = match self.plans.of_shape(shape, &catalog, context) {
            Some(plan) => plan,
            None => match self.translate_shape(statement, &catalog, context) {
                Some(plan) => plan,
                None => {
                    // Others of this shape need their literals as well, unless this one
                    // is wrong with them too.
                    let whole = statement.with_literals()?;
                    if self.plans.get(&whole, &[], &catalog, context).is_ok() {
                        shape.refuse();
                    }
                    return Ok(None);
                }
            },
        };
        let values = plan.lifted.iter().map(|lifted| value(lifted, statement, context));
        let values: Result<Vec<Value>, SqlError> = values.collect();
        Ok(values.ok().map(|values| (plan, values)))
    }

    fn translate_shape(
        &mut self,
        statement: &Statement,
        catalog: &Arc<Catalog>,
        context: &Context,
    ) -> Option<Arc<Plan>> {
        let plan = translated(statement, &[], catalog, context).ok()?;
        // SQLite wants the value itself at some places.
        self.connection.prepare_cached(&plan.sql).ok()?;
        self.plans.keep_of_shape(statement.shape()?, &plan, catalog, context);
        Some(plan)
    }
}

fn value(
    wanted: &LiftedValue,
    statement: &Statement,
    context: &Context,
) -> Result<Value, SqlError> {
    let content = statement.literals()[wanted.lifted.number].content(statement.text());
    match wanted.lifted.is_negative {
        true => decode_text(format!("-{content}").as_bytes(), &wanted.data_type, context),
        false => decode_text(content.as_bytes(), &wanted.data_type, context),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::{Formats, Parameters, ResultColumn, RowSink, parse};

    #[derive(Default)]
    struct Count(usize);

    impl RowSink for Count {
        fn columns(&mut self, _: &[ResultColumn]) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }

        fn row(&mut self, _: &[u8], _: usize) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Continue(())
        }
    }

    /// Executes and gives the number of rows.
    fn execute(executor: &mut Executor, text: &str) -> Result<usize, SqlError> {
        let statement = parse(text)?.remove(0);
        let mut rows = Count::default();
        executor.execute(
            &statement,
            &[],
            &Parameters::default(),
            &Formats::default(),
            &Context::new("", ""),
            &mut rows,
        )?;
        Ok(rows.0)
    }

    fn executor() -> Executor {
        let connection = rusqlite::Connection::open_in_memory().expect("a database");
        let mut executor = Executor::new(connection).expect("an executor");
        executor.install().expect("its tables");
        executor
    }

    #[test]
    fn statements_that_differ_in_constants_have_one_plan_until_the_schema_changes() {
        let mut executor = executor();
        execute(&mut executor, "CREATE TABLE t (id integer PRIMARY KEY, s text)").unwrap();
        for number in 0..100 {
            let insert = format!("INSERT INTO t VALUES ({number}, 'it''s {number}');");
            execute(&mut executor, &insert).unwrap();
            let select = format!("SELECT * FROM t WHERE id = {number} AND s = 'it''s {number}'");
            assert_eq!(execute(&mut executor, &select).unwrap(), 1);
        }
        assert_eq!(executor.plans.len(), 2);
        execute(&mut executor, "ALTER TABLE t RENAME COLUMN s TO u").unwrap();
        let select = "SELECT * FROM t WHERE id = 5 AND s = 'it''s 5'";
        assert_eq!(execute(&mut executor, select).unwrap_err().state.0, "42703");
    }

    #[test]
    fn a_literal_that_is_no_value_of_its_type_is_an_error_as_ever() {
        let mut executor = executor();
        execute(&mut executor, "CREATE TABLE t (id smallint PRIMARY KEY)").unwrap();
        execute(&mut executor, "INSERT INTO t VALUES (1)").unwrap();
        let state = |executor: &mut Executor, text: &str| {
            execute(executor, text).map_err(|error| error.state.0)
        };
        assert_eq!(state(&mut executor, "INSERT INTO t VALUES (2)"), Ok(0));
        assert_eq!(state(&mut executor, "INSERT INTO t VALUES (70000)"), Err("22003"));
        assert_eq!(state(&mut executor, "SELECT 0 FROM t WHERE id = '1'"), Ok(1));
        assert_eq!(state(&mut executor, "SELECT 0 FROM t WHERE id = 'x'"), Err("22P02"));
        assert_eq!(state(&mut executor, "SELECT 0 FROM t WHERE id = '2'"), Ok(1));
    }

    #[test]
    fn a_shape_that_needs_its_values_is_executed_with_them() {
        let mut executor = executor();
        execute(&mut executor, "CREATE TABLE t (a integer, b integer)").unwrap();
        let text = "SELECT a + 1, count(*) FROM t GROUP BY a + 1";
        assert!(parse(text).unwrap()[0].shape().is_some());
        for _ in 0..3 {
            assert_eq!(execute(&mut executor, text).unwrap(), 0);
        }
        assert!(parse(text).unwrap()[0].shape().is_none());
    }
}
