//! Plans of statements that came before.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::analyze::{self, Plan};
use crate::statement::{Body, Statement};
use crate::{Catalog, Context, PgType, SqlError, SqlState};

/// Plans that one connection keeps.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Statements longer than this are not kept: they are bulk loads, sent once.
const LONGEST_TEXT: usize = 16 << 10;

pub(super) struct Plans {
    plans: LruCache<u64, Known>,
}

struct Known {
    statement: Statement,
    parameter_types: Vec<Option<PgType>>,
    search_path: Arc<str>,
    catalog_version: u64,
    plan: Arc<Plan>,
}

impl Plans {
    pub fn new() -> Self {
        Self { plans: LruCache::new(CAPACITY) }
    }

    /// The plan of a query or DML for this catalog and context.
    pub fn get(
        &mut self,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        catalog: &Arc<Catalog>,
        context: &Context,
    ) -> Result<Arc<Plan>, SqlError> {
        let mut hasher = DefaultHasher::new();
        statement.text().hash(&mut hasher);
        parameter_types.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(known) = self.plans.get(&hash)
            && known.catalog_version == catalog.version
            && known.parameter_types == parameter_types
            && known.search_path == context.search_path
            && known.statement.text() == statement.text()
        {
            return Ok(known.plan.clone());
        }
        let Body::Statement(ast) = statement.body() else {
            return Err(SqlError::new(SqlState::INTERNAL, "a statement that has no plan"));
        };
        let plan = Arc::new(analyze::plan(
            ast,
            statement.overriding(),
            parameter_types,
            catalog,
            context,
        )?);
        if plan.cacheable && statement.text().len() <= LONGEST_TEXT {
            let known = Known {
                statement: statement.clone(),
                parameter_types: parameter_types.to_vec(),
                search_path: context.search_path.clone(),
                catalog_version: catalog.version,
                plan: plan.clone(),
            };
            self.plans.put(hash, known);
        }
        Ok(plan)
    }
}
