//! Executes statements on one SQLite connection.

mod brevity;
mod catalog_state;
mod copy_in;
mod copy_out;
mod copy_text;
mod deferred;
mod errors;
mod guards;
mod keys;
mod lifted;
mod plans;
mod run;

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

pub use copy_in::CopyIn;

use crate::analyze::Plan;
use crate::context::{Context, SharedContext};
use crate::result::{Complete, Description, Formats, Parameters, ResultColumn, RowSink};
use crate::statement::{Body, CopyDirection, Kind, Statement};
use crate::system::{SequenceValues, System};
use crate::tape::Tape;
use crate::{Catalog, PgType, SqlError, SqlState, TypeUse, catalog_store, functions, schema};
use catalog_state::CatalogState;
use guards::Noted;
use lifted::Filled;
use plans::Plans;

/// Statements that SQLite keeps compiled, for each connection.
const PREPARED_STATEMENTS: usize = 256;

/// A connection that speaks PostgreSQL's language. It begins and ends no
/// transactions; each statement is atomic within what its owner began. A transaction
/// that cannot write must be ended by ROLLBACK, for the catalog's sake.
pub struct Executor {
    connection: Connection,
    context: SharedContext,
    catalog: Arc<Catalog>,
    catalog_state: CatalogState,
    system: System,
    plans: Plans,
    noted: Noted,
    /// Where rows are written before they are given to the sink.
    buffer: Vec<u8>,
}

impl Executor {
    /// Prepares a connection: limits, functions, collations, foreign keys.
    ///
    /// # Errors
    /// What SQLite gives when it cannot be set up, such as for a lack of memory.
    pub fn new(connection: Connection) -> Result<Self, SqlError> {
        Self::sharing(connection, SequenceValues::default())
    }

    /// As [`Executor::new`], for one of several connections that write to a database.
    ///
    /// # Errors
    /// As [`Executor::new`].
    pub fn sharing(mut connection: Connection, given: SequenceValues) -> Result<Self, SqlError> {
        let context = SharedContext::new(Context::new("", ""));
        let noted = set_up(&connection, &context).map_err(|error| errors::plain(&error))?;
        let catalog_state =
            CatalogState::of(&mut connection).map_err(|error| errors::plain(&error))?;
        let system = System::register(&connection, &context, given)
            .map_err(|error| errors::plain(&error))?;
        Ok(Self {
            connection,
            system,
            context,
            catalog: Arc::default(),
            catalog_state,
            plans: Plans::new(),
            noted,
            buffer: Vec::new(),
        })
    }

    /// Creates the tables of the catalog in an empty database.
    pub fn install(&mut self) -> Result<(), SqlError> {
        self.catalog_state.changes();
        catalog_store::install(&self.connection)
    }

    /// Executes something so that it can be executed once more with the same random
    /// numbers, times and values of sequences, by [`Executor::playing`].
    pub fn recording<R>(&mut self, work: impl FnOnce(&mut Executor) -> R) -> (R, Tape) {
        let recording = self.context.recorder.record();
        let result = work(self);
        (result, recording.end())
    }

    /// Executes something with what it was given when it was recorded.
    pub fn playing<R>(&mut self, tape: &Tape, work: impl FnOnce(&mut Executor) -> R) -> R {
        let _playing = self.context.recorder.play(tape);
        work(self)
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// For what replaces the whole database.
    pub fn connection_mut(&mut self) -> &mut Connection {
        self.catalog_state.changes();
        &mut self.connection
    }

    /// The schema as the connection sees it now.
    pub fn catalog(&mut self) -> Result<Arc<Catalog>, SqlError> {
        if self.catalog_state.is_current(&self.connection) {
            return Ok(self.catalog.clone());
        }
        let version = catalog_store::load_version(&self.connection)?;
        if version != self.catalog.version {
            self.catalog = Arc::new(catalog_store::load_catalog(&self.connection)?);
            self.system.set_catalog(self.catalog.clone());
        }
        self.catalog_state.looked_at(&self.connection);
        Ok(self.catalog.clone())
    }

    /// Says which parameters a statement takes and which columns it gives. Types that
    /// are not given are inferred.
    pub fn describe(
        &mut self,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        context: &Context,
    ) -> Result<Description, SqlError> {
        match (statement.kind(), statement.body()) {
            (Kind::Read | Kind::Write, Body::Statement(_)) => {
                if parameter_types.is_empty()
                    && let Some((plan, _)) = self.filled(statement, context)?
                {
                    let columns = plan.columns.clone();
                    return Ok(Description { parameters: Vec::new(), columns });
                }
                let plan = self.plan(statement, parameter_types, context)?;
                Ok(Description {
                    parameters: plan.parameters.clone(),
                    columns: plan.columns.clone(),
                })
            }
            (_, Body::Explain(statement)) => {
                let parameters = match statement.body() {
                    Body::Statement(_) => {
                        self.plan(statement, parameter_types, context)?.parameters.clone()
                    }
                    _ => Vec::new(),
                };
                Ok(Description { parameters, columns: vec![explain_column()] })
            }
            _ => Ok(Description::default()),
        }
    }

    /// Executes a statement of the kinds read, write, schema and vacuum, and `COPY ... TO
    /// STDOUT`, whose records are given to the sink one by one with the number of fields
    /// 0. What it changed before an error is undone.
    ///
    /// # Errors
    /// As PostgreSQL's; 57014 if the connection was interrupted, which also undoes the
    /// transaction that the statement is part of.
    pub fn execute(
        &mut self,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        parameters: &Parameters,
        formats: &Formats,
        context: &Context,
        rows: &mut dyn RowSink,
    ) -> Result<Complete, SqlError> {
        match (statement.kind(), statement.body()) {
            (Kind::Empty, _) => Ok(Complete::default()),
            (Kind::Schema | Kind::Vacuum, _) => self.change_schema(statement, context),
            (Kind::Read | Kind::Write, Body::Statement(_)) => {
                let (plan, values) = self.bound(statement, parameter_types, parameters, context)?;
                self.context.set(context);
                let mut complete = self.run(&plan, &values, formats, context, rows)?;
                complete.effects = std::mem::take(&mut self.context.lock().effects);
                Ok(complete)
            }
            (Kind::Copy(command), _) if command.direction == CopyDirection::Out => {
                self.copy_out(command, parameter_types, parameters, context, rows)
            }
            (Kind::Read, Body::Explain(statement)) => {
                self.explain(statement, parameter_types, context, rows)
            }
            _ => Err(SqlError::new(
                SqlState::INTERNAL,
                "a command for the session was given to the executor",
            )),
        }
    }

    fn change_schema(
        &mut self,
        statement: &Statement,
        context: &Context,
    ) -> Result<Complete, SqlError> {
        let catalog = self.catalog()?;
        self.catalog_state.changes();
        self.context.set(context);
        let complete = match statement.body() {
            Body::Statement(ast) => {
                schema::execute_schema(&self.connection, &catalog, ast, context)
            }
            Body::Schema(command) => {
                schema::execute_command(&self.connection, &catalog, command, context)
            }
            Body::Vacuum(vacuum) => {
                let is_vacuum = matches!(statement.kind(), Kind::Vacuum);
                schema::maintain(&self.connection, &catalog, vacuum, is_vacuum)
            }
            Body::None | Body::Explain(_) => {
                Err(SqlError::new(SqlState::INTERNAL, "a change of the schema without a statement"))
            }
        };
        // A statement that SQLite rolled back may have taken the catalog with it.
        self.catalog = Arc::default();
        self.catalog_state.changes();
        let mut complete = complete?;
        complete.effects = std::mem::take(&mut self.context.lock().effects);
        Ok(complete)
    }

    /// The plan of a query or DML, made or found.
    fn plan(
        &mut self,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        context: &Context,
    ) -> Result<Arc<Plan>, SqlError> {
        let statement = statement.with_literals()?;
        let catalog = self.catalog()?;
        self.plans.get(&statement, parameter_types, &catalog, context)
    }

    /// The plan of a query or DML with values for the parameters of SQLite's statement.
    fn bound(
        &mut self,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        parameters: &Parameters,
        context: &Context,
    ) -> Result<Filled, SqlError> {
        if parameters.values.is_empty()
            && parameter_types.is_empty()
            && let Some(filled) = self.filled(statement, context)?
        {
            return Ok(filled);
        }
        let plan = self.plan(statement, parameter_types, context)?;
        let values = run::decoded(&plan, parameters, context)?;
        Ok((plan, values))
    }

    fn explain(
        &mut self,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        context: &Context,
        rows: &mut dyn RowSink,
    ) -> Result<Complete, SqlError> {
        if !matches!(
            (statement.kind(), statement.body()),
            (Kind::Read | Kind::Write, Body::Statement(_))
        ) {
            return Err(SqlError::not_supported(
                "EXPLAIN of this statement",
                "Explain queries, INSERT, UPDATE and DELETE.",
            ));
        }
        let plan = self.plan(statement, parameter_types, context)?;
        self.explain_plan(&plan, rows)
    }

    /// Why the transaction could not be committed now: a deferred foreign key that
    /// nothing has satisfied yet. To be asked before RELEASE and COMMIT.
    pub fn deferred_violation(&self) -> Option<SqlError> {
        deferred::violation(&self.connection)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        catalog_state::forget(&mut self.connection);
    }
}

fn explain_column() -> ResultColumn {
    ResultColumn {
        name: "QUERY PLAN".to_owned(),
        data_type: TypeUse { base: PgType::Text, modifier: -1 },
        table_oid: 0,
        column_number: 0,
        format: 0,
    }
}

fn set_up(connection: &Connection, context: &SharedContext) -> rusqlite::Result<Noted> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    // A name in double quotes is never a string.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    functions::register(connection, context)?;
    guards::register(connection)
}
