//! Plans of statements that came before.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::analyze::{self, Plan};
use crate::statement::{Body, Shape, Statement};
use crate::{Catalog, Context, PgType, SqlError, SqlState};

/// Plans that one connection keeps.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Statements longer than this are not kept: they are bulk loads, sent once.
const LONGEST_TEXT: usize = 16 << 10;

pub(super) struct Plans {
    plans: LruCache<u64, Known>,
}

struct Known {
    of: Of,
    search_path: Arc<str>,
    catalog_version: u64,
    plan: Arc<Plan>,
}

/// What a plan was made of.
enum Of {
    Statement {
        statement: Statement,
        parameter_types: Vec<Option<PgType>>,
    },
    /// All statements of a shape.
    Shape(Box<[u8]>),
}

impl Plans {
    pub fn new() -> Self {
        Self { plans: LruCache::new(CAPACITY) }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// The plan of a query or DML for this catalog and context.
    pub fn get(
        &mut self,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        catalog: &Arc<Catalog>,
        context: &Context,
    ) -> Result<Arc<Plan>, SqlError> {
        let hash = hash_of(statement, parameter_types);
        if let Some(plan) = self.of_text(hash, statement, parameter_types, catalog, context) {
            return Ok(plan);
        }
        let plan = translated(statement, parameter_types, catalog, context)?;
        if plan.cacheable && statement.text().len() <= LONGEST_TEXT {
            let parameter_types = parameter_types.to_vec();
            let of = Of::Statement { statement: statement.clone(), parameter_types };
            self.keep(hash, of, &plan, catalog, context);
        }
        Ok(plan)
    }

    /// The plan that a statement would be executed with, if there is one already.
    pub fn known(
        &mut self,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        catalog: &Arc<Catalog>,
        context: &Context,
    ) -> Option<Arc<Plan>> {
        match statement.shape() {
            Some(shape) => self.of_shape(shape, catalog, context),
            None => {
                let hash = hash_of(statement, parameter_types);
                self.of_text(hash, statement, parameter_types, catalog, context)
            }
        }
    }

    fn of_text(
        &mut self,
        hash: u64,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        catalog: &Arc<Catalog>,
        context: &Context,
    ) -> Option<Arc<Plan>> {
        let is_same = |of: &Of| match of {
            Of::Statement { statement: known, parameter_types: types } => {
                types == parameter_types && known.text() == statement.text()
            }
            Of::Shape(_) => false,
        };
        self.find(hash, catalog, context, is_same)
    }

    /// The plan of a statement without its literals, if there is one already.
    pub fn of_shape(
        &mut self,
        shape: &Shape,
        catalog: &Arc<Catalog>,
        context: &Context,
    ) -> Option<Arc<Plan>> {
        let is_same = |of: &Of| matches!(of, Of::Shape(key) if *key == shape.key);
        self.find(shape.hash, catalog, context, is_same)
    }

    /// Keeps what a statement was translated to without its literals.
    pub fn keep_of_shape(
        &mut self,
        shape: &Shape,
        plan: &Arc<Plan>,
        catalog: &Arc<Catalog>,
        context: &Context,
    ) {
        if plan.cacheable {
            self.keep(shape.hash, Of::Shape(shape.key.clone()), plan, catalog, context);
        }
    }

    fn find(
        &mut self,
        hash: u64,
        catalog: &Arc<Catalog>,
        context: &Context,
        is_same: impl FnOnce(&Of) -> bool,
    ) -> Option<Arc<Plan>> {
        let known = self.plans.get(&hash)?;
        let fits = known.catalog_version == catalog.version
            && known.search_path == context.search_path
            && is_same(&known.of);
        fits.then(|| known.plan.clone())
    }

    fn keep(
        &mut self,
        hash: u64,
        of: Of,
        plan: &Arc<Plan>,
        catalog: &Arc<Catalog>,
        context: &Context,
    ) {
        let known = Known {
            of,
            search_path: context.search_path.clone(),
            catalog_version: catalog.version,
            plan: plan.clone(),
        };
        self.plans.put(hash, known);
    }
}

fn hash_of(statement: &Statement, parameter_types: &[Option<PgType>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    statement.text().hash(&mut hasher);
    parameter_types.hash(&mut hasher);
    hasher.finish()
}

/// Translates a query or DML.
pub(super) fn translated(
    statement: &Statement,
    parameter_types: &[Option<PgType>],
    catalog: &Arc<Catalog>,
    context: &Context,
) -> Result<Arc<Plan>, SqlError> {
    let Body::Statement(ast) = statement.body() else {
        return Err(SqlError::new(SqlState::INTERNAL, "a statement that has no plan"));
    };
    analyze::plan(ast, statement.overriding(), parameter_types, catalog, context).map(Arc::new)
}
