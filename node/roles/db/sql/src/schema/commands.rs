//! Changes of the schema that are parsed here, since sqlparser does not know them.

use sqlparser::ast::GeneratedAs;

use super::alter_table;
use super::change::{Change, missing_relation};
use super::sequences::{self, Options};
use super::{columns, indexes, names, rename};
use crate::{Identity, SqlError, SqlState};

/// A name, of an object in the schema `public`.
type Name = String;

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum SchemaCommand {
    CreateSequence {
        name: Name,
        if_not_exists: bool,
        options: Options,
    },
    /// `ALTER SEQUENCE ... options`
    AlterSequence {
        name: Name,
        if_exists: bool,
        options: Options,
    },
    /// `ALTER { INDEX | SEQUENCE | VIEW } ... RENAME TO`
    Rename {
        what: Renamed,
        name: Name,
        if_exists: bool,
        new_name: Name,
    },
    /// `ALTER VIEW ... RENAME COLUMN` and what else is about one column.
    AlterColumn {
        table: Name,
        if_exists: bool,
        column: Name,
        change: ColumnChange,
    },
    /// `ALTER ... OWNER TO`: every object belongs to the database's user.
    Owner {
        name: Name,
        if_exists: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Renamed {
    Index,
    Sequence,
    View,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum ColumnChange {
    DropIdentity { if_exists: bool },
    SetIdentity(Identity),
    RestartIdentity(Option<i64>),
    DropExpression { if_exists: bool },
}

impl SchemaCommand {
    /// PostgreSQL's command tag.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::CreateSequence { .. } => "CREATE SEQUENCE",
            Self::AlterSequence { .. } => "ALTER SEQUENCE",
            Self::Rename { what: Renamed::Index, .. } => "ALTER INDEX",
            Self::Rename { what: Renamed::Sequence, .. } => "ALTER SEQUENCE",
            Self::Rename { what: Renamed::View, .. } => "ALTER VIEW",
            Self::AlterColumn { .. } | Self::Owner { .. } => "ALTER TABLE",
        }
    }
}

pub(super) fn run(change: &mut Change<'_>, command: &SchemaCommand) -> Result<(), SqlError> {
    match command {
        SchemaCommand::CreateSequence { name, if_not_exists, options } => {
            sequences::create(change, name, *if_not_exists, options)
        }
        SchemaCommand::AlterSequence { name, if_exists, options } => {
            if *if_exists && !change.after.sequences.contains_key(name) {
                return Ok(());
            }
            sequences::alter(change, name, options)
        }
        SchemaCommand::Rename { what, name, if_exists, new_name } => {
            if *if_exists && names::taken(&change.after, name) != Some(name.as_str()) {
                return Ok(());
            }
            match what {
                Renamed::Index => indexes::rename_to(change, name, new_name),
                Renamed::Sequence => rename::sequence(change, name, new_name),
                Renamed::View => rename::relation(change, name, new_name),
            }
        }
        SchemaCommand::AlterColumn { table, if_exists, column, change: what } => {
            if *if_exists && !change.after.relations.contains_key(table) {
                return Ok(());
            }
            alter_column(change, table, column, what)
        }
        SchemaCommand::Owner { name, if_exists } => {
            match *if_exists || names::taken(&change.after, name) == Some(name.as_str()) {
                true => Ok(()),
                false => Err(missing_relation(name)),
            }
        }
    }
}

fn alter_column(
    change: &mut Change<'_>,
    table: &str,
    name: &str,
    what: &ColumnChange,
) -> Result<(), SqlError> {
    let relation = change.after.relations.get(table).ok_or_else(|| missing_relation(table))?;
    let mut relation = (**relation).clone();
    let index = alter_table::column_index(&relation, name)?;
    let column = &mut relation.columns[index];
    let not_identity = || {
        SqlError::new(
            SqlState("55000"),
            format!("column \"{name}\" of relation \"{table}\" is not an identity column"),
        )
    };
    match what {
        ColumnChange::DropIdentity { if_exists } => {
            if column.identity.take().is_none() {
                return if *if_exists { Ok(()) } else { Err(not_identity()) };
            }
            if let Some(sequence) = column.sequence.take() {
                change.after.sequences.remove(&sequence);
            }
        }
        ColumnChange::SetIdentity(identity) => match column.identity {
            Some(_) => column.identity = Some(*identity),
            None => return Err(not_identity()),
        },
        ColumnChange::RestartIdentity(value) => {
            let sequence = column.sequence.clone().filter(|_| column.identity.is_some());
            let sequence = sequence.ok_or_else(not_identity)?;
            let options = Options { restart: Some(*value), ..Options::default() };
            return sequences::alter(change, &sequence, &options);
        }
        ColumnChange::DropExpression { if_exists } => {
            if !column.generated {
                return if *if_exists {
                    Ok(())
                } else {
                    Err(SqlError::new(
                        SqlState("55000"),
                        format!(
                            "column \"{name}\" of relation \"{table}\" is not a stored generated column"
                        ),
                    ))
                };
            }
            column.generated = false;
            column.default = None;
        }
    }
    change.put(relation);
    Ok(())
}

/// `ALTER COLUMN ... ADD GENERATED ... AS IDENTITY`
pub(super) fn add_identity(
    change: &mut Change<'_>,
    relation: &mut crate::Relation,
    index: usize,
    generated_as: &GeneratedAs,
    options: &Options,
) -> Result<(), SqlError> {
    let mut column = relation.columns[index].clone();
    if !column.not_null {
        return Err(SqlError::new(
            SqlState("55000"),
            format!(
                "column \"{}\" of relation \"{}\" must be declared NOT NULL before identity can be added",
                column.name, relation.name
            ),
        ));
    }
    columns::set_identity(change, relation, &mut column, generated_as, options)?;
    relation.columns[index] = column;
    Ok(())
}
