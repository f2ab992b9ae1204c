//! Changes of the schema that sqlparser does not know, or knows in one order of
//! clauses only: sequences, owners, names of indexes and views, identity columns.

use sqlparser::tokenizer::Token;

use super::tokens::Tokens;
use crate::analyze;
use crate::schema::{ColumnChange, Renamed, SchemaCommand, SequenceOptions};
use crate::{Identity, SqlError, SqlState};

/// None if it is something else; then nothing was taken.
pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<Option<SchemaCommand>, SqlError> {
    let start = tokens.place();
    let command = if tokens.words(&["create", "sequence"]) {
        let if_not_exists = tokens.words(&["if", "not", "exists"]);
        let name = public_name(tokens)?;
        let options = sequence_options(tokens)?;
        Some(SchemaCommand::CreateSequence { name, if_not_exists, options })
    } else if tokens.word("alter") {
        alter(tokens)?
    } else {
        None
    };
    match &command {
        Some(_) => tokens.expect_end()?,
        None => tokens.back_to(start),
    }
    Ok(command)
}

fn alter(tokens: &mut Tokens<'_>) -> Result<Option<SchemaCommand>, SqlError> {
    let kinds = ["sequence", "index", "view", "table"];
    let Some(kind) = tokens.one_of(&kinds) else { return Ok(None) };
    let if_exists = tokens.words(&["if", "exists"]);
    if kind == "table" {
        tokens.word("only");
    }
    let name = match public_name(tokens) {
        Ok(name) => name,
        Err(_) if kind == "table" => return Ok(None),
        Err(error) => return Err(error),
    };
    if tokens.words(&["owner", "to"]) {
        tokens.name()?;
        return Ok(Some(SchemaCommand::Owner { name, if_exists }));
    }
    let renamed = match kind {
        "table" => return alter_column(tokens, name, if_exists),
        "index" => Renamed::Index,
        "sequence" => Renamed::Sequence,
        _ => Renamed::View,
    };
    if tokens.words(&["rename", "to"]) {
        let new_name = tokens.name()?;
        return Ok(Some(SchemaCommand::Rename { what: renamed, name, if_exists, new_name }));
    }
    if renamed != Renamed::Sequence {
        return Err(tokens.unexpected());
    }
    let options = sequence_options(tokens)?;
    Ok(Some(SchemaCommand::AlterSequence { name, if_exists, options }))
}

/// What ALTER TABLE may do with one column and sqlparser does not know.
fn alter_column(
    tokens: &mut Tokens<'_>,
    table: String,
    if_exists: bool,
) -> Result<Option<SchemaCommand>, SqlError> {
    if !tokens.word("alter") {
        return Ok(None);
    }
    tokens.word("column");
    let column = tokens.name()?;
    let change = if tokens.words(&["drop", "identity"]) {
        ColumnChange::DropIdentity { if_exists: tokens.words(&["if", "exists"]) }
    } else if tokens.words(&["drop", "expression"]) {
        ColumnChange::DropExpression { if_exists: tokens.words(&["if", "exists"]) }
    } else if tokens.words(&["set", "generated", "always"]) {
        ColumnChange::SetIdentity(Identity::Always)
    } else if tokens.words(&["set", "generated", "by", "default"]) {
        ColumnChange::SetIdentity(Identity::ByDefault)
    } else if tokens.word("restart") {
        tokens.word("with");
        ColumnChange::RestartIdentity(tokens.integer())
    } else {
        return Ok(None);
    };
    Ok(Some(SchemaCommand::AlterColumn { table, if_exists, column, change }))
}

fn public_name(tokens: &mut Tokens<'_>) -> Result<String, SqlError> {
    match tokens.qualified_name()? {
        (None, name) => Ok(name),
        (Some(schema), name) if schema == "public" => Ok(name),
        (Some(schema), _) => Err(SqlError::new(
            SqlState::INVALID_SCHEMA_NAME,
            format!("schema \"{schema}\" does not exist"),
        )
        .hint("A database has one schema, public.")),
    }
}

/// Options of sequences in any order, up to the end.
fn sequence_options(tokens: &mut Tokens<'_>) -> Result<SequenceOptions, SqlError> {
    let mut options = SequenceOptions::default();
    while !tokens.at_end() {
        if tokens.word("as") {
            let name = tokens.name()?;
            let data_type = super::parse_type(&name)?;
            options.data_type = Some(analyze::type_use(&data_type)?.base);
        } else if tokens.word("increment") {
            tokens.word("by");
            options.increment = Some(integer(tokens)?);
        } else if tokens.word("minvalue") {
            options.minimum = Some(Some(integer(tokens)?));
        } else if tokens.words(&["no", "minvalue"]) {
            options.minimum = Some(None);
        } else if tokens.word("maxvalue") {
            options.maximum = Some(Some(integer(tokens)?));
        } else if tokens.words(&["no", "maxvalue"]) {
            options.maximum = Some(None);
        } else if tokens.word("start") {
            tokens.word("with");
            options.start = Some(integer(tokens)?);
        } else if tokens.word("restart") {
            tokens.word("with");
            options.restart = Some(tokens.integer());
        } else if tokens.word("cache") {
            // Each value is taken for itself, which any number allows.
            integer(tokens)?;
        } else if tokens.words(&["no", "cycle"]) {
            options.cycle = Some(false);
        } else if tokens.word("cycle") {
            options.cycle = Some(true);
        } else if tokens.words(&["owned", "by"]) {
            options.owned_by = Some(owner(tokens)?);
        } else {
            return Err(tokens.unexpected());
        }
    }
    Ok(options)
}

fn integer(tokens: &mut Tokens<'_>) -> Result<i64, SqlError> {
    tokens.integer().ok_or_else(|| tokens.unexpected())
}

/// `table.column` or `NONE`.
fn owner(tokens: &mut Tokens<'_>) -> Result<Option<(String, String)>, SqlError> {
    let (first, second) = match tokens.qualified_name()? {
        (None, none) if none == "none" => return Ok(None),
        (None, _) => return Err(tokens.unexpected()),
        (Some(first), second) => (first, second),
    };
    match tokens.symbol(&Token::Period) {
        true if first == "public" => Ok(Some((second, tokens.name()?))),
        true => Err(tokens.unexpected()),
        false => Ok(Some((first, second))),
    }
}
