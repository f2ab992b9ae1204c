//! `ALTER TABLE`.

use sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, CastKind, ColumnDef, DropBehavior, Expr,
    Ident, RenameTableNameKind,
};

use super::change::{Change, missing_column, missing_relation};
use super::create_table::check_option;
use super::sequences::Options;
use super::{columns, commands, constraints, drop, indexes, names, rename, translate};
use crate::parse::parse_expression;
use crate::{ConstraintKind, Relation, RelationKind, SqlError, SqlState, TypeUse, analyze};

pub(super) fn alter(change: &mut Change<'_>, statement: &AlterTable) -> Result<(), SqlError> {
    let name = names::object(&statement.name)?;
    let kind = match change.after.relations.get(&name) {
        Some(relation) => relation.kind,
        None if statement.if_exists => return Ok(()),
        // PostgreSQL renames sequences and indexes by ALTER TABLE too.
        None => return alter_other(change, &name, &statement.operations),
    };
    for operation in &statement.operations {
        let renames = matches!(
            operation,
            AlterTableOperation::RenameTable { .. } | AlterTableOperation::OwnerTo { .. }
        );
        if kind == RelationKind::View && !renames {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("ALTER action cannot be performed on relation \"{name}\""),
            )
            .detail("This operation is not supported for views."));
        }
        operate(change, &name, operation)?;
    }
    Ok(())
}

fn alter_other(
    change: &mut Change<'_>,
    name: &str,
    operations: &[AlterTableOperation],
) -> Result<(), SqlError> {
    for operation in operations {
        match operation {
            AlterTableOperation::OwnerTo { .. }
                if names::taken(&change.after, name) == Some(name) => {}
            AlterTableOperation::RenameTable { table_name }
                if change.after.sequences.contains_key(name) =>
            {
                rename::sequence(change, name, &new_name(table_name)?)?;
            }
            AlterTableOperation::RenameTable { table_name }
                if change.after.relation_of_index(name).is_some() =>
            {
                indexes::rename_to(change, name, &new_name(table_name)?)?;
            }
            _ => return Err(missing_relation(name)),
        }
    }
    Ok(())
}

fn new_name(kind: &RenameTableNameKind) -> Result<String, SqlError> {
    match kind {
        RenameTableNameKind::To(name) | RenameTableNameKind::As(name) => names::object(name),
    }
}

fn operate(
    change: &mut Change<'_>,
    name: &str,
    operation: &AlterTableOperation,
) -> Result<(), SqlError> {
    let mut table = match change.after.relations.get(name) {
        Some(table) => (**table).clone(),
        None => return Err(missing_relation(name)),
    };
    match operation {
        AlterTableOperation::AddColumn { if_not_exists, column_def, .. } => {
            let exists = table.column(&names::ident(&column_def.name)).is_some();
            if *if_not_exists && exists {
                return Ok(());
            }
            return add_column(change, table, column_def);
        }
        AlterTableOperation::DropColumn { column_names, if_exists, drop_behavior, .. } => {
            for column in column_names {
                let cascade = is_cascade(drop_behavior.as_ref());
                drop_column(change, name, &names::ident(column), *if_exists, cascade)?;
            }
            return Ok(());
        }
        AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
            let (old, new) = (names::ident(old_column_name), names::ident(new_column_name));
            return rename::column(change, table, &old, &new);
        }
        AlterTableOperation::RenameTable { table_name } => {
            return rename::relation(change, name, &new_name(table_name)?);
        }
        AlterTableOperation::RenameConstraint { old_name, new_name } => {
            rename_constraint(change, &mut table, old_name, new_name)?;
        }
        AlterTableOperation::AddConstraint { constraint, not_valid } => {
            if *not_valid {
                return Err(SqlError::not_supported(
                    "NOT VALID",
                    "Correct the rows first, then add the constraint without it.",
                ));
            }
            constraints::add(change, &mut table, constraint)?;
        }
        AlterTableOperation::DropConstraint { if_exists, name: constraint, drop_behavior } => {
            let constraint = names::ident(constraint);
            let cascade = is_cascade(drop_behavior.as_ref());
            return drop_constraint(change, table, &constraint, *if_exists, cascade);
        }
        AlterTableOperation::AlterColumn { column_name, op } => {
            let column = names::ident(column_name);
            alter_column(change, &mut table, &column, op)?;
        }
        // Every constraint has been checked when it was added.
        AlterTableOperation::ValidateConstraint { name: constraint } => {
            let constraint = names::ident(constraint);
            table.constraint(&constraint).ok_or_else(|| missing_constraint(&constraint, name))?;
        }
        AlterTableOperation::OwnerTo { .. }
        | AlterTableOperation::SetLogged
        | AlterTableOperation::ReplicaIdentity { .. } => {}
        AlterTableOperation::SetOptionsParens { options } => {
            options.iter().try_for_each(check_option)?;
        }
        other => {
            return Err(SqlError::not_supported(
                format!("ALTER TABLE ... {other}"),
                "Make a new table and copy the rows with INSERT ... SELECT.",
            ));
        }
    }
    change.put(table);
    Ok(())
}

fn is_cascade(behavior: Option<&DropBehavior>) -> bool {
    matches!(behavior, Some(DropBehavior::Cascade))
}

pub(super) fn missing_constraint(constraint: &str, table: &str) -> SqlError {
    SqlError::new(
        SqlState::UNDEFINED_OBJECT,
        format!("constraint \"{constraint}\" of relation \"{table}\" does not exist"),
    )
}

pub(super) fn column_index(table: &Relation, name: &str) -> Result<usize, SqlError> {
    table
        .columns
        .iter()
        .position(|column| column.name == name)
        .ok_or_else(|| missing_column(name, &table.name))
}

/// Refuses a name that another column has, in whatever case.
pub(super) fn check_new_column(
    table: &Relation,
    name: &str,
    except: Option<usize>,
) -> Result<(), SqlError> {
    let lower = name.to_lowercase();
    let is_taken = table
        .columns
        .iter()
        .enumerate()
        .any(|(index, other)| Some(index) != except && other.name.to_lowercase() == lower);
    match is_taken || table.column(name).is_some() {
        false => Ok(()),
        true => Err(SqlError::new(
            SqlState::DUPLICATE_COLUMN,
            format!("column \"{name}\" of relation \"{}\" already exists", table.name),
        )),
    }
}

/// A view keeps the names and types that its columns had when it was made.
pub(super) fn refuse_if_view_uses(
    change: &Change<'_>,
    table: &Relation,
    column: &str,
    what: &str,
) -> Result<(), SqlError> {
    match views_of_column(change, table, column)?.first() {
        None => Ok(()),
        Some(view) => Err(SqlError::new(
            SqlState::NOT_SUPPORTED,
            format!("cannot {what} that is used by a view"),
        )
        .detail(format!("view {view} depends on column \"{column}\"."))
        .hint("Drop the view, change the table, and create the view again.")),
    }
}

/// The views that mention a column of a table. A name that may be meant is counted.
fn views_of_column(
    change: &Change<'_>,
    table: &Relation,
    column: &str,
) -> Result<Vec<String>, SqlError> {
    let mut views = Vec::new();
    for view in change.after.relations.values().filter(|r| r.kind == RelationKind::View) {
        let mentions = translate::mentions_of_view(view)?;
        let may_mean = mentions.columns.contains(column) || mentions.has_wildcard;
        if mentions.relations.contains(&table.name) && may_mean {
            views.push(view.name.clone());
        }
    }
    Ok(views)
}

fn add_column(
    change: &mut Change<'_>,
    mut table: Relation,
    definition: &ColumnDef,
) -> Result<(), SqlError> {
    let declared = columns::add(change, &mut table, definition)?;
    for constraint in &declared {
        constraints::add(change, &mut table, constraint)?;
    }
    if let Some(column) = table.columns.last().cloned()
        && !column.generated
    {
        let default = match (&column.default, &column.sequence) {
            (Some(default), _) => Some(default.clone()),
            (None, Some(sequence)) => Some(super::sequences::nextval_text(sequence)),
            (None, None) => None,
        };
        if let Some(default) = default {
            let value = change.default_value(&parse_expression(&default)?, &column.data_type)?;
            change.values.insert((table.oid, column.number), value);
        }
    }
    change.put(table);
    Ok(())
}

fn drop_column(
    change: &mut Change<'_>,
    table_name: &str,
    name: &str,
    if_exists: bool,
    cascade: bool,
) -> Result<(), SqlError> {
    let mut table = match change.after.relations.get(table_name) {
        Some(table) => (**table).clone(),
        None => return Err(missing_relation(table_name)),
    };
    if if_exists && table.column(name).is_none() {
        return Ok(());
    }
    let index = column_index(&table, name)?;
    let what = format!("column {name} of table {table_name}");
    let views = views_of_column(change, &table, name)?;
    let mut details: Vec<String> =
        views.iter().map(|view| format!("view {view} depends on {what}")).collect();
    let generated: Vec<String> = table
        .columns
        .iter()
        .filter(|column| column.generated && column.name != name)
        .filter_map(|column| Some((column, column.default.as_deref()?)))
        .filter(|(_, text)| translate::columns_of_text(text).is_ok_and(|all| all.contains(name)))
        .map(|(column, _)| column.name.clone())
        .collect();
    details.extend(
        generated
            .iter()
            .map(|other| format!("column {other} of table {table_name} depends on {what}")),
    );
    if !cascade && !details.is_empty() {
        return Err(drop::dependents(&what, &details));
    }
    let removed = table.columns.remove(index);
    table.next_column = table.next_column.max(removed.number + 1);
    let (gone, kept) = std::mem::take(&mut table.constraints)
        .into_iter()
        .partition(|constraint| constraint.columns.iter().any(|column| column == name));
    table.constraints = kept;
    let mut own_indexes = Vec::new();
    for index in std::mem::take(&mut table.indexes) {
        if !indexes::mentioned(&index)?.iter().any(|column| column == name) {
            own_indexes.push(index);
        }
    }
    table.indexes = own_indexes;
    change.put(table);
    let gone: Vec<crate::Constraint> = gone;
    for constraint in gone.iter().filter(|constraint| constraint.index_oid.is_some()) {
        drop::release_key(change, table_name, &constraint.columns, cascade, &what)?;
    }
    if let Some(sequence) = removed.sequence {
        change.after.sequences.remove(&sequence);
    }
    if !views.is_empty() {
        let going = drop::Going { relations: views.into_iter().collect(), ..Default::default() };
        drop::remove(change, going, true, &what)?;
    }
    for other in generated {
        drop_column(change, table_name, &other, true, cascade)?;
    }
    Ok(())
}

fn rename_constraint(
    change: &Change<'_>,
    table: &mut Relation,
    old: &Ident,
    new: &Ident,
) -> Result<(), SqlError> {
    let (old, new) = (names::ident(old), names::ident(new));
    let is_key = table.constraint(&old).is_some_and(|constraint| constraint.index_oid.is_some());
    if is_key {
        names::check_new(&change.after, &new)?;
    }
    if table.constraint(&new).is_some() {
        return Err(SqlError::new(
            SqlState::DUPLICATE_OBJECT,
            format!("constraint \"{new}\" for relation \"{}\" already exists", table.name),
        ));
    }
    let name = table.name.clone();
    let found = table.constraints.iter_mut().find(|constraint| constraint.name == old);
    found.ok_or_else(|| missing_constraint(&old, &name))?.name = new;
    Ok(())
}

fn drop_constraint(
    change: &mut Change<'_>,
    mut table: Relation,
    name: &str,
    if_exists: bool,
    cascade: bool,
) -> Result<(), SqlError> {
    let Some(index) = table.constraints.iter().position(|constraint| constraint.name == name)
    else {
        return if if_exists { Ok(()) } else { Err(missing_constraint(name, &table.name)) };
    };
    let removed = table.constraints.remove(index);
    let table_name = table.name.clone();
    change.put(table);
    match removed.kind {
        ConstraintKind::PrimaryKey | ConstraintKind::Unique => {
            let what = format!("constraint {name} on table {table_name}");
            drop::release_key(change, &table_name, &removed.columns, cascade, &what)
        }
        ConstraintKind::Check { .. } | ConstraintKind::ForeignKey { .. } => Ok(()),
    }
}

fn alter_column(
    change: &mut Change<'_>,
    table: &mut Relation,
    name: &str,
    operation: &AlterColumnOperation,
) -> Result<(), SqlError> {
    let index = column_index(table, name)?;
    match operation {
        AlterColumnOperation::SetNotNull => table.columns[index].not_null = true,
        AlterColumnOperation::DropNotNull => {
            let in_key =
                table.primary_key().is_some_and(|key| key.columns.contains(&name.to_owned()));
            if in_key || table.columns[index].identity.is_some() {
                let what = if in_key { "is in a primary key" } else { "is an identity column" };
                return Err(SqlError::new(
                    SqlState::INVALID_TABLE_DEFINITION,
                    format!("column \"{name}\" {what}"),
                ));
            }
            table.columns[index].not_null = false;
        }
        AlterColumnOperation::SetDefault { value } => {
            let mut column = table.columns[index].clone();
            refuse_computed(table, index)?;
            column.default = None;
            column.sequence = None;
            columns::set_default(change, &mut column, value, table)?;
            column.sequence = owned_sequence(change, table, name);
            table.columns[index] = column;
        }
        AlterColumnOperation::DropDefault => {
            refuse_computed(table, index)?;
            table.columns[index].default = None;
        }
        AlterColumnOperation::SetDataType { data_type, using, .. } => {
            let data_type = analyze::type_use(data_type)?;
            set_type(change, table, index, data_type, using.as_ref())?;
        }
        AlterColumnOperation::AddGenerated { generated_as, sequence_options } => {
            let options = Options::from_ast(sequence_options.as_deref().unwrap_or_default())?;
            let generated_as = generated_as.unwrap_or(sqlparser::ast::GeneratedAs::ByDefault);
            commands::add_identity(change, table, index, &generated_as, &options)?;
        }
    }
    Ok(())
}

fn owned_sequence(change: &Change<'_>, table: &Relation, column: &str) -> Option<String> {
    let is_owner = |owner: &(String, String)| owner.0 == table.name && owner.1 == column;
    let mut sequences = change.after.sequences.values();
    sequences.find(|s| s.owned_by.as_ref().is_some_and(is_owner)).map(|s| s.name.clone())
}

fn refuse_computed(table: &Relation, index: usize) -> Result<(), SqlError> {
    let column = &table.columns[index];
    let what = match (column.identity.is_some(), column.generated) {
        (true, _) => "an identity column",
        (_, true) => "a generated column",
        _ => return Ok(()),
    };
    Err(SqlError::new(
        SqlState::SYNTAX_ERROR,
        format!("column \"{}\" of relation \"{}\" is {what}", column.name, table.name),
    ))
}

/// `ALTER COLUMN ... TYPE`: the rows are converted by the expression of USING, or by
/// a cast.
fn set_type(
    change: &mut Change<'_>,
    table: &mut Relation,
    index: usize,
    data_type: TypeUse,
    using: Option<&Expr>,
) -> Result<(), SqlError> {
    let column = table.columns[index].clone();
    columns::check_storable(&column.name, &data_type)?;
    if column.generated {
        return Err(SqlError::not_supported(
            "changing the type of a generated column",
            "Drop the column and add it again.",
        ));
    }
    refuse_if_view_uses(change, table, &column.name, "alter type of a column")?;
    if using.is_some() || !keeps_values(&column.data_type, &data_type) {
        let source = match using {
            Some(expression) => expression.clone(),
            None => Expr::Identifier(Ident::with_quote('"', &column.name)),
        };
        let value = match using {
            Some(_) => translate::assignment(
                &source,
                &data_type,
                Some(table),
                change.before,
                change.context,
            )?,
            None => implicit_conversion(change, table, &column, source, &data_type)?,
        };
        change.values.insert((table.oid, column.number), value);
    }
    if let Some(default) = &column.default {
        let default = convert_default(change, &column, default, &data_type)?;
        table.columns[index].default = Some(default);
    }
    if column.identity.is_some()
        && let Some(sequence) = &column.sequence
    {
        let options = Options { data_type: Some(data_type.base.clone()), ..Options::default() };
        super::sequences::alter(change, sequence, &options)?;
    }
    table.columns[index].data_type = data_type;
    Ok(())
}

/// Whether every stored value of one type is the same value of the other.
fn keeps_values(old: &TypeUse, new: &TypeUse) -> bool {
    use crate::PgType as T;
    let no_shorter = new.modifier == -1 || (old.modifier != -1 && old.modifier <= new.modifier);
    match (&old.base, &new.base) {
        (T::Int2, T::Int4 | T::Int8) | (T::Int4, T::Int8) => true,
        (T::Varchar, T::Varchar) | (T::Numeric, T::Numeric) if old == new => true,
        (T::Varchar | T::Text, T::Varchar | T::Text) => no_shorter,
        (a, b) => a == b && (old.modifier == new.modifier || new.modifier == -1),
    }
}

/// Without USING there must be a cast that assignments may use.
fn implicit_conversion(
    change: &Change<'_>,
    table: &Relation,
    column: &crate::Column,
    source: Expr,
    data_type: &TypeUse,
) -> Result<String, SqlError> {
    translate::assignment(&source, data_type, Some(table), change.before, change.context).map_err(
        |error| match error.state {
            SqlState::DATATYPE_MISMATCH | SqlState("42846") => SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!(
                    "column \"{}\" cannot be cast automatically to type {}",
                    column.name,
                    data_type.base.name()
                ),
            )
            .hint(format!(
                "You might need to specify \"USING {}::{}\".",
                names::quote_if_needed(&column.name),
                data_type.base.name()
            )),
            _ => error,
        },
    )
}

/// The default as one of the new type.
fn convert_default(
    change: &Change<'_>,
    column: &crate::Column,
    default: &str,
    data_type: &TypeUse,
) -> Result<String, SqlError> {
    let expression = parse_expression(default)?;
    // `'x'::character varying` is the literal with the type that it had.
    let bare = match &expression {
        Expr::Cast { kind: CastKind::DoubleColon, expr, .. }
            if matches!(**expr, Expr::Value(_)) =>
        {
            expr.as_ref()
        }
        other => other,
    };
    change.default_value(bare, data_type).map_err(|_| {
        SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!(
                "default for column \"{}\" cannot be cast automatically to type {}",
                column.name,
                data_type.base.name()
            ),
        )
    })?;
    Ok(columns::default_text(bare, data_type))
}
