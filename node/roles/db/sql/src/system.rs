//! The system catalog: `pg_catalog` and `information_schema` as relations that any
//! query can run over, and the functions that explain the catalog.

mod contents;
mod definitions;
mod functions;
mod information_schema;
mod objects;
mod relations;
mod rows;
mod sequences;
mod server;
mod sizes;
mod types;
mod views;
mod virtual_table;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::types::Value;

pub(crate) use functions::{FUNCTIONS, TABLE_FUNCTIONS, name_shown, relation_oid};
pub(crate) use relations::find;
pub use sequences::SequenceValues;

use crate::{Catalog, Context, SharedContext};
use contents::Table;

/// Oids that PostgreSQL gives to what every database has.
const PG_CATALOG: u32 = 11;
const PUBLIC: u32 = 2200;
const INFORMATION_SCHEMA: u32 = 13_207;
const DATABASE: u32 = 5;
const OWNER: u32 = 10;
const HEAP: u32 = 2;
const BTREE: u32 = 403;

fn schema_oid(name: &str) -> u32 {
    match name {
        "pg_catalog" => PG_CATALOG,
        "information_schema" => INFORMATION_SCHEMA,
        _ => PUBLIC,
    }
}

fn schema_name(oid: i64) -> Value {
    let known = [PG_CATALOG, PUBLIC, INFORMATION_SCHEMA].into_iter().find(|k| i64::from(*k) == oid);
    Value::Text(match known {
        Some(PG_CATALOG) => "pg_catalog".to_owned(),
        Some(PUBLIC) => "public".to_owned(),
        Some(_) => "information_schema".to_owned(),
        None => oid.to_string(),
    })
}

/// What a connection's relations and functions of the system know. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct System {
    state: Arc<Mutex<State>>,
    given: SequenceValues,
    session: SharedContext,
}

#[derive(Debug, Default)]
struct State {
    catalog: Arc<Catalog>,
    /// Rows that were made of this catalog, by the relation's oid.
    tables: HashMap<u32, Arc<Table>>,
    /// For whom they were made: database and user.
    made_for: Option<(Arc<str>, Arc<str>)>,
}

impl System {
    /// Makes relations and functions of the system known to a connection. They are
    /// about an empty database until a catalog is set.
    ///
    /// # Errors
    /// What SQLite gives, such as for a lack of memory.
    pub fn register(
        connection: &Connection,
        session: &SharedContext,
        given: SequenceValues,
    ) -> rusqlite::Result<Self> {
        let system = Self { state: Arc::default(), given, session: session.clone() };
        for relation in relations::all() {
            virtual_table::register(connection, &relation.relation, &system)?;
        }
        functions::register(connection, &system)?;
        sequences::register(connection, &system)?;
        Ok(system)
    }

    /// The schema has changed, or the connection is new.
    pub fn set_catalog(&self, catalog: Arc<Catalog>) {
        let mut state = self.lock();
        state.catalog = catalog;
        state.tables.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.lock().catalog.clone()
    }

    fn context(&self) -> Context {
        self.session.lock().clone()
    }

    /// The rows that were made before, if for this user of this database.
    fn kept(&self, context: &Context, oid: u32) -> Option<Arc<Table>> {
        let mut state = self.lock();
        let asks = (context.database.clone(), context.user.clone());
        if state.made_for.as_ref() != Some(&asks) {
            state.tables.clear();
            state.made_for = Some(asks);
        }
        state.tables.get(&oid).cloned()
    }

    fn keep(&self, oid: u32, table: &Arc<Table>) {
        self.lock().tables.insert(oid, table.clone());
    }
}
