//! Executes statements on one SQLite connection.

use std::sync::Arc;

use rusqlite::Connection;

use crate::context::{Context, SharedContext};
use crate::result::{Complete, Description, Formats, Parameters, RowSink};
use crate::statement::Statement;
use crate::{Catalog, PgType, SqlError, SqlState};

/// A connection that speaks PostgreSQL's language. It begins and ends no
/// transactions; each statement is atomic within what its owner began.
pub struct Executor {
    connection: Connection,
    context: SharedContext,
    catalog: Arc<Catalog>,
}

impl Executor {
    /// Prepares a connection: limits, functions, collations, foreign keys.
    pub fn new(connection: Connection) -> Result<Self, SqlError> {
        let context = SharedContext::new(Context::new("", ""));
        Ok(Self { connection, context, catalog: Arc::default() })
    }

    /// Creates the tables of the catalog in an empty database.
    pub fn install(&mut self) -> Result<(), SqlError> {
        Err(SqlError::new(SqlState::INTERNAL, "the catalog cannot be made yet"))
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The schema as the connection sees it now.
    pub fn catalog(&mut self) -> Result<Arc<Catalog>, SqlError> {
        Ok(self.catalog.clone())
    }

    /// Says which parameters a statement takes and which columns it gives. Types that
    /// are not given are inferred.
    pub fn describe(
        &mut self,
        _statement: &Statement,
        _parameter_types: &[Option<PgType>],
        _context: &Context,
    ) -> Result<Description, SqlError> {
        Err(SqlError::new(SqlState::INTERNAL, "statements cannot be described yet"))
    }

    /// Executes a statement of the kinds read, write, schema and vacuum. What it
    /// changed before an error is undone.
    pub fn execute(
        &mut self,
        _statement: &Statement,
        _parameter_types: &[Option<PgType>],
        _parameters: &Parameters,
        _formats: &Formats,
        context: &Context,
        _rows: &mut dyn RowSink,
    ) -> Result<Complete, SqlError> {
        self.context.set(context);
        Err(SqlError::new(SqlState::INTERNAL, "statements cannot be executed yet"))
    }

    /// Why the transaction could not be committed now: a deferred foreign key that
    /// nothing has satisfied yet. To be asked before RELEASE and COMMIT.
    pub fn deferred_violation(&self) -> Option<SqlError> {
        None
    }
}
