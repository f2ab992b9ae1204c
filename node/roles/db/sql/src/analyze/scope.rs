//! Which names a place in a statement can see.

use sqlparser::ast::{Expr, Ident, ObjectName};

use super::expression::Origin;
use crate::{SqlError, SqlState, TypeUse};

/// A column of something in FROM.
#[derive(Clone, Debug)]
pub(crate) struct ScopeColumn {
    pub name: String,
    /// How SQLite refers to it.
    pub sql: String,
    pub data_type: TypeUse,
    pub origin: Option<Origin>,
    pub not_null: bool,
}

/// Something in FROM.
#[derive(Clone, Debug)]
pub(crate) struct ScopeRelation {
    /// By which the statement refers to it.
    pub name: String,
    pub columns: Vec<ScopeColumn>,
    /// Names of the columns of its primary key, if it is a table.
    pub key: Vec<String>,
    /// Why its columns cannot be referred to here.
    pub out_of_reach: Option<&'static str>,
    /// It is a function's, which gives single values.
    pub is_function: bool,
}

/// A column that is found by its name alone, and by `*`.
#[derive(Clone, Debug)]
pub(crate) struct VisibleColumn {
    pub relation: usize,
    pub column: ScopeColumn,
}

/// What FROM provides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relations {
    pub relations: Vec<ScopeRelation>,
    pub visible: Vec<VisibleColumn>,
}

/// Where in a statement an expression stands; PostgreSQL names it in errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    SelectList,
    Where,
    GroupBy,
    Having,
    OrderBy,
    JoinCondition,
    Limit,
    Values,
    Returning,
    Assignment,
    FunctionInFrom,
    Catalog,
}

/// What a query groups by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grouping {
    pub keys: Vec<Expr>,
    /// SQLite's texts of the keys that are columns.
    pub columns: Vec<String>,
    /// Relations whose primary key is among the keys.
    pub relations: Vec<usize>,
}

/// The names that an expression sees, and what it may contain.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s> {
    pub from: &'s Relations,
    pub place: Place,
    pub grouping: Option<&'s Grouping>,
    pub in_aggregate: bool,
    /// Windows that the query has named.
    pub windows: &'s [(String, String)],
    /// The query that this one is part of.
    pub parent: Option<&'s Scope<'s>>,
}

impl<'s> Scope<'s> {
    pub fn new(from: &'s Relations, place: Place, parent: Option<&'s Scope<'s>>) -> Self {
        Self { from, place, grouping: None, in_aggregate: false, windows: &[], parent }
    }

    #[must_use]
    pub fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }
}

/// A column that was found.
pub(crate) struct Found {
    pub column: ScopeColumn,
    /// How many queries outwards.
    pub level: usize,
    pub relation: usize,
    /// By its relation's name and its own.
    pub qualified_name: String,
}

impl Scope<'_> {
    /// Finds a column by its name alone.
    pub fn column(&self, name: &str) -> Result<Option<Found>, SqlError> {
        let mut scope = Some(self);
        let mut level = 0;
        while let Some(here) = scope {
            let mut matches = here.from.visible.iter().filter(|v| v.column.name == name);
            if let Some(first) = matches.next() {
                if matches.next().is_some() {
                    return Err(ambiguous(name));
                }
                return found(here, first.relation, &first.column, level).map(Some);
            }
            scope = here.parent;
            level += 1;
        }
        Ok(None)
    }

    /// Finds a column by its relation's name and its own.
    pub fn qualified(&self, relation: &str, name: &str) -> Result<Found, SqlError> {
        let mut scope = Some(self);
        let mut level = 0;
        while let Some(here) = scope {
            if let Some(index) = here.from.named(relation) {
                let columns = here.from.relations[index].columns.iter();
                let mut matches = columns.filter(|column| column.name == name);
                let Some(column) = matches.next() else {
                    return Err(SqlError::new(
                        SqlState::UNDEFINED_COLUMN,
                        format!("column {relation}.{name} does not exist"),
                    ));
                };
                if matches.next().is_some() {
                    return Err(ambiguous(name));
                }
                return found(here, index, column, level);
            }
            scope = here.parent;
            level += 1;
        }
        Err(missing_relation(relation))
    }
}

fn found(
    scope: &Scope<'_>,
    relation: usize,
    column: &ScopeColumn,
    level: usize,
) -> Result<Found, SqlError> {
    let owner = scope.from.relations.get(relation);
    if let Some(why) = owner.and_then(|owner| owner.out_of_reach) {
        return Err(SqlError::not_supported(
            format!("a reference to \"{}\" here", owner.map_or("", |o| o.name.as_str())),
            why,
        ));
    }
    let qualified_name = match owner {
        Some(owner) => format!("{}.{}", owner.name, column.name),
        None => column.name.clone(),
    };
    Ok(Found { column: column.clone(), level, relation, qualified_name })
}

fn ambiguous(name: &str) -> SqlError {
    SqlError::new(SqlState::AMBIGUOUS_COLUMN, format!("column reference \"{name}\" is ambiguous"))
}

pub(crate) fn missing_relation(name: &str) -> SqlError {
    SqlError::new(
        SqlState::UNDEFINED_TABLE,
        format!("missing FROM-clause entry for table \"{name}\""),
    )
}

impl Relations {
    pub fn named(&self, name: &str) -> Option<usize> {
        self.relations.iter().position(|relation| relation.name == name)
    }

    /// One relation, of which all columns are visible.
    pub fn one(relation: ScopeRelation) -> Self {
        let visible = relation.columns.iter();
        let visible =
            visible.map(|column| VisibleColumn { relation: 0, column: column.clone() }).collect();
        Self { relations: vec![relation], visible }
    }

    /// Puts others beside these; the numbers of the others' relations change.
    pub fn append(&mut self, others: Self) -> Result<(), SqlError> {
        let offset = self.relations.len();
        for relation in others.relations {
            if self.named(&relation.name).is_some() {
                return Err(SqlError::new(
                    SqlState("42712"),
                    format!("table name \"{}\" specified more than once", relation.name),
                ));
            }
            self.relations.push(relation);
        }
        let moved = others.visible.into_iter();
        self.visible.extend(
            moved.map(|v| VisibleColumn { relation: v.relation + offset, column: v.column }),
        );
        Ok(())
    }

    /// After an outer join any of their values may be null.
    pub fn may_be_null(&mut self) {
        for relation in &mut self.relations {
            relation.columns.iter_mut().for_each(|column| column.not_null = false);
        }
        self.visible.iter_mut().for_each(|visible| visible.column.not_null = false);
    }
}

/// An identifier as PostgreSQL has it: lower case unless quoted.
pub(crate) fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// The parts of a name with dots.
pub(crate) fn name_parts(name: &ObjectName) -> Result<Vec<String>, SqlError> {
    name.0.iter().map(|part| part.as_ident().map(folded)).collect::<Option<Vec<_>>>().ok_or_else(
        || SqlError::new(SqlState::SYNTAX_ERROR, format!("improper qualified name: {name}")),
    )
}

/// Schema and name.
pub(crate) fn schema_and_name(name: &ObjectName) -> Result<(Option<String>, String), SqlError> {
    let mut parts = name_parts(name)?;
    let last = parts.pop().unwrap_or_default();
    match parts.len() {
        0 => Ok((None, last)),
        // A database before the schema says nothing new.
        1 | 2 => Ok((parts.pop(), last)),
        _ => Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            format!("improper qualified name (too many dotted names): {name}"),
        )),
    }
}
