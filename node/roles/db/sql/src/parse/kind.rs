//! Whether a statement reads, writes or changes the schema.

use sqlparser::ast::{self, SetExpr};
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::tokens::is_keyword;
use crate::statement::Kind;
use crate::{SqlError, SqlState};

/// Whether a query changes or locks anything: DML in a WITH, FOR UPDATE, a function
/// that takes values of sequences. Looks at words only, so it may say yes where a
/// column has such a name, which costs a trip to the primary and nothing else.
pub(super) fn writes(tokens: &[TokenWithSpan]) -> bool {
    let is = |index: usize, words: &[&str]| {
        let token = tokens.get(index).map(|token| &token.token);
        token.is_some_and(|token| words.iter().any(|word| is_keyword(token, word)))
    };
    let symbol = |index: Option<usize>, expected: &Token| {
        index.and_then(|i| tokens.get(i)).is_some_and(|token| token.token == *expected)
    };
    (0..tokens.len()).any(|i| {
        let dml = is(i, &["insert", "update", "delete"])
            && (symbol(i.checked_sub(1), &Token::LParen)
                || symbol(i.checked_sub(1), &Token::RParen));
        let locks = is(i, &["for"]) && is(i + 1, &["update", "share", "no", "key"]);
        let sequence = is(i, &["nextval", "setval"]) && symbol(Some(i + 1), &Token::LParen);
        dml || locks || sequence
    })
}

pub(super) fn classify(statement: &ast::Statement, writes: bool) -> Result<Kind, SqlError> {
    use ast::Statement as S;
    Ok(match statement {
        S::Query(query) if selects_into(&query.body) => Kind::Schema,
        S::Query(_) if writes => Kind::Write,
        S::Query(_) => Kind::Read,
        S::Insert(_) | S::Update(_) | S::Delete(_) => Kind::Write,
        S::CreateTable(_)
        | S::CreateView(_)
        | S::CreateIndex(_)
        | S::CreateSequence { .. }
        | S::CreateSchema { .. }
        | S::CreateType { .. }
        | S::CreateDomain(_)
        | S::CreateExtension(_)
        | S::DropExtension(_)
        | S::DropDomain(_)
        | S::AlterTable(_)
        | S::AlterIndex { .. }
        | S::AlterView { .. }
        | S::AlterType(_)
        | S::AlterSchema(_)
        | S::Drop { .. }
        | S::Truncate(_)
        | S::Comment { .. }
        | S::Grant(_)
        | S::Revoke(_) => Kind::Schema,
        other => return Err(refused(other)),
    })
}

fn selects_into(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select.into.is_some(),
        SetExpr::Query(query) => selects_into(&query.body),
        SetExpr::SetOperation { left, .. } => selects_into(left),
        _ => false,
    }
}

/// What the parser knows from other databases is a syntax error, as in PostgreSQL;
/// what PostgreSQL has and this database has not is not supported.
fn refused(statement: &ast::Statement) -> SqlError {
    use ast::Statement as S;
    let (what, hint) = match statement {
        S::CreateFunction(_) | S::DropFunction(_) | S::CreateProcedure { .. } | S::Call(_) => {
            ("user-defined functions", "Compute the value in the application.")
        }
        S::CreateTrigger(_) | S::DropTrigger(_) => {
            ("triggers", "Do it in the application's transaction.")
        }
        S::Merge(_) => ("MERGE", "Use INSERT ... ON CONFLICT."),
        S::CreatePolicy(_) | S::DropPolicy(_) | S::AlterPolicy(_) => {
            ("row-level security", "Check in the application.")
        }
        S::CreateRole(_) | S::AlterRole { .. } => {
            ("managing roles by SQL", "Users are managed with ctl.")
        }
        S::CreateDatabase { .. } => ("CREATE DATABASE", "Databases are created with ctl."),
        S::CreateOperator(_) | S::CreateCollation(_) | S::CreateServer(_) => {
            ("this kind of object", "Use what PostgreSQL has built in.")
        }
        other => {
            let word = other.to_string();
            let word = word.split_whitespace().next().unwrap_or_default();
            let message = format!("syntax error at or near \"{word}\"");
            let mut failure = SqlError::new(SqlState::SYNTAX_ERROR, message);
            failure.position = Some(1);
            return failure;
        }
    };
    SqlError::not_supported(what, hint)
}
