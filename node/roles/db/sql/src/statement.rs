//! A parsed statement, and what a session must know of it before it is executed.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use sqlparser::ast;

use crate::schema::SchemaCommand;
use crate::{PgType, SqlError};

/// One statement: its text and what was understood of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Statement(Arc<Parsed>);

#[derive(Debug)]
struct Parsed {
    text: Box<str>,
    form: Arc<Form>,
    /// What the text has at the places that the form leaves open.
    literals: Box<[Literal]>,
}

/// What was understood of a statement, or of all that differ in constants alone.
#[derive(Debug)]
pub(crate) struct Form {
    pub kind: Kind,
    pub body: Body,
    /// INSERT with OVERRIDING SYSTEM VALUE, which sqlparser does not know.
    pub overriding: bool,
    /// Set where literals were taken out.
    pub shape: Option<Shape>,
    /// See [`Statement::number`].
    pub number: OnceLock<u64>,
    /// See [`Statement::scope`].
    pub scope: OnceLock<Scope>,
}

impl Form {
    pub fn new(kind: Kind, body: Body) -> Self {
        Self {
            kind,
            body,
            overriding: false,
            shape: None,
            number: OnceLock::new(),
            scope: OnceLock::new(),
        }
    }
}

/// The text without its literals.
#[derive(Debug)]
pub(crate) struct Shape {
    pub key: Box<[u8]>,
    pub hash: u64,
    /// It cannot be translated without them.
    is_refused: AtomicBool,
}

impl Shape {
    pub fn new(key: Vec<u8>, hash: u64) -> Self {
        Self { key: key.into(), hash, is_refused: AtomicBool::new(false) }
    }

    pub fn refuse(&self) {
        self.is_refused.store(true, Ordering::Relaxed);
    }

    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }
}

/// A literal that was taken out: where its content is in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Literal {
    pub start: usize,
    pub end: usize,
    pub kind: LiteralKind,
}

/// What a literal is before its place gives it a type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LiteralKind {
    /// A string, of type unknown.
    Text,
    Int4,
    Int8,
    Numeric,
}

impl LiteralKind {
    /// What stands for it in a shape; no text that is scanned has such a byte.
    pub fn mark(self) -> u8 {
        1 + self as u8
    }
}

impl Literal {
    /// Its value, with quotes as they are meant.
    pub fn content(self, text: &str) -> Cow<'_, str> {
        let content = text.get(self.start..self.end).unwrap_or_default();
        match self.kind == LiteralKind::Text && content.contains('\'') {
            true => Cow::Owned(content.replace("''", "'")),
            false => Cow::Borrowed(content),
        }
    }
}

/// The part that is executed on a connection.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing to execute: empty, or a command for the session.
    None,
    /// A query, DML or a change of the schema.
    Statement(Box<ast::Statement>),
    Explain(Statement),
    Vacuum(Vacuum),
    /// A change of the schema that sqlparser does not know.
    Schema(Box<SchemaCommand>),
}

/// `VACUUM` and `ANALYZE`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Vacuum {
    /// Rewrites the file (`VACUUM FULL`).
    pub full: bool,
    pub analyze: bool,
    /// All of them, if empty.
    pub tables: Vec<String>,
}

/// What a session does with a statement.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing between two semicolons.
    Empty,
    /// Reads only: any copy of the data can execute it.
    Read,
    /// Changes or locks rows, or takes values of sequences.
    Write,
    /// Changes the schema; also TRUNCATE and ANALYZE.
    Schema,
    /// VACUUM, which cannot run in a transaction block.
    Vacuum,
    /// Begins or ends a transaction or a part of one.
    Control(Control),
    /// About the session, not the data.
    Session(Box<SessionCommand>),
    Copy(Box<CopyCommand>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// Properties of a transaction that a statement may give.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransactionModes {
    pub read_only: Option<bool>,
    pub isolation: Option<Isolation>,
    pub deferrable: Option<bool>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    Begin(TransactionModes),
    Commit { chain: bool },
    Rollback { chain: bool },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
}

#[derive(Clone, Debug)]
pub enum SessionCommand {
    /// No value means the default. Several values are joined by `, ` as PostgreSQL
    /// does for lists.
    Set {
        name: String,
        value: Option<String>,
        local: bool,
    },
    /// `SET TRANSACTION`; for the session: `SET SESSION CHARACTERISTICS AS TRANSACTION`.
    SetTransaction {
        modes: TransactionModes,
        session: bool,
    },
    /// `SET CONSTRAINTS`: none named means ALL.
    SetConstraints {
        names: Vec<String>,
        deferred: bool,
    },
    /// No name means ALL.
    Reset {
        name: Option<String>,
    },
    /// No name means ALL.
    Show {
        name: Option<String>,
    },
    Discard(Discard),
    Prepare {
        name: String,
        types: Vec<PgType>,
        statement: Statement,
    },
    /// The arguments are a query of one row, to be given on in text format.
    Execute {
        name: String,
        arguments: Option<Statement>,
    },
    /// No name means ALL.
    Deallocate {
        name: Option<String>,
    },
    Declare {
        name: String,
        binary: bool,
        scroll: Option<bool>,
        hold: bool,
        query: Statement,
    },
    Fetch {
        name: String,
        direction: FetchDirection,
        is_move: bool,
    },
    /// No name means ALL.
    Close {
        name: Option<String>,
    },
    LockTable {
        tables: Vec<String>,
        nowait: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Discard {
    All,
    Plans,
    Sequences,
    Temporary,
}

/// Which rows of a cursor. Counts below zero go backward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchDirection {
    Forward(i64),
    Backward(i64),
    ForwardAll,
    BackwardAll,
    Absolute(i64),
    Relative(i64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyFormat {
    Text,
    Csv,
    Binary,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyDirection {
    /// `COPY ... FROM STDIN`
    In,
    /// `COPY ... TO STDOUT`
    Out,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyHeader {
    None,
    /// Written, or skipped when read.
    Present,
    /// The names must be those of the columns.
    Match,
}

#[derive(Clone, Debug)]
pub enum CopySource {
    /// No columns means all.
    Table { schema: Option<String>, table: String, columns: Vec<String> },
    /// Only outward.
    Query(Statement),
}

/// `COPY` from or to the client.
#[derive(Clone, Debug)]
pub struct CopyCommand {
    pub source: CopySource,
    pub direction: CopyDirection,
    pub format: CopyFormat,
    pub delimiter: u8,
    pub null: String,
    pub header: CopyHeader,
    pub quote: u8,
    pub escape: u8,
    /// Columns whose values are always quoted (csv, outward); `*` as the only one
    /// means all.
    pub force_quote: Vec<String>,
    /// Columns in which the null string is an ordinary value (csv, inward).
    pub force_not_null: Vec<String>,
    /// Columns in which the quoted null string is null (csv, inward).
    pub force_null: Vec<String>,
}

impl Statement {
    pub(crate) fn new(text: &str, kind: Kind, body: Body) -> Self {
        Self::whole(text, Form::new(kind, body))
    }

    pub(crate) fn with_overriding(text: &str, kind: Kind, body: Body) -> Self {
        Self::whole(text, Form { overriding: true, ..Form::new(kind, body) })
    }

    fn whole(text: &str, form: Form) -> Self {
        Self::of_shape(text, Arc::new(form), Vec::new())
    }

    /// A statement of a known form with its own literals.
    pub(crate) fn of_shape(text: &str, form: Arc<Form>, literals: Vec<Literal>) -> Self {
        Self(Arc::new(Parsed { text: text.into(), form, literals: literals.into() }))
    }

    /// The statement parsed with its literals.
    pub(crate) fn with_literals(&self) -> Result<Statement, SqlError> {
        match self.0.form.shape {
            None => Ok(self.clone()),
            Some(_) => crate::parse::parse_whole(self.text()),
        }
    }

    pub(crate) fn shape(&self) -> Option<&Shape> {
        self.0.form.shape.as_ref()
    }

    pub(crate) fn literals(&self) -> &[Literal] {
        &self.0.literals
    }

    pub(crate) fn overriding(&self) -> bool {
        self.0.form.overriding
    }

    /// The statement alone, without the semicolon.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// What `of` makes of the text, which must not depend on its constants: it is asked
    /// once for all statements that differ in these alone.
    pub fn number(&self, of: impl FnOnce(&str) -> u64) -> u64 {
        *self.0.form.number.get_or_init(|| of(self.text()))
    }

    /// Whether what it answers seldom depends on what others write at the same time, so
    /// that it may be executed on a snapshot first and once more when its transaction
    /// ends: it locks nothing, and of the rows that it changes it tells no more than their
    /// number, but of those that it inserts.
    pub fn may_be_drafted(&self) -> bool {
        let Body::Statement(statement) = self.body() else { return false };
        match &**statement {
            ast::Statement::Query(query) => query.locks.is_empty(),
            ast::Statement::Insert(insert) => insert.returning.is_none() || insert.on.is_none(),
            ast::Statement::Update(update) => update.returning.is_none(),
            ast::Statement::Delete(delete) => delete.returning.is_none(),
            _ => false,
        }
    }

    /// What its effect depends on, if it writes.
    pub fn scope(&self) -> Scope {
        *self.0.form.scope.get_or_init(|| match self.body() {
            Body::Statement(statement) => scope_of(statement),
            _ => Scope::Wide,
        })
    }

    pub fn kind(&self) -> &Kind {
        &self.0.form.kind
    }

    pub(crate) fn body(&self) -> &Body {
        &self.0.form.body
    }

    /// What was understood of it, if nobody else has it.
    pub(crate) fn into_form(self) -> Option<Form> {
        Arc::into_inner(Arc::into_inner(self.0)?.form)
    }
}

/// What the effect of INSERT, UPDATE or DELETE depends on, besides its parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// On the rows that it writes, each by itself, which it finds by one of their columns.
    Keyed,
    /// The same, but which of them it writes depends on what else is in them.
    Conditional,
    /// On other rows too, or on what is not plain.
    Wide,
}

fn scope_of(statement: &ast::Statement) -> Scope {
    let is_keyed = match statement {
        ast::Statement::Insert(insert) => !matches!(
            &insert.on,
            Some(ast::OnInsert::OnConflict(ast::OnConflict {
                action: ast::OnConflictAction::DoNothing,
                ..
            }))
        ),
        ast::Statement::Update(update) => is_one_key(update.selection.as_ref()),
        ast::Statement::Delete(delete) => is_one_key(delete.selection.as_ref()),
        // With what it may have taken from a sequence.
        ast::Statement::Query(_) if tables(statement) == 0 => return Scope::Keyed,
        _ => return Scope::Wide,
    };
    match (tables(statement) == 1, is_keyed) {
        (false, _) => Scope::Wide,
        (true, false) => Scope::Conditional,
        (true, true) => Scope::Keyed,
    }
}

/// Whether a condition compares one column with constants.
fn is_one_key(condition: Option<&ast::Expr>) -> bool {
    match condition {
        Some(ast::Expr::BinaryOp { left, op: ast::BinaryOperator::Eq, right }) => {
            is_column(left) && is_constant(right)
        }
        Some(ast::Expr::Nested(inner)) => is_one_key(Some(inner)),
        Some(ast::Expr::InList { expr, list, negated: false }) => {
            is_column(expr) && list.iter().all(is_constant)
        }
        _ => false,
    }
}

fn is_column(expression: &ast::Expr) -> bool {
    matches!(expression, ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_))
}

fn is_constant(expression: &ast::Expr) -> bool {
    match expression {
        ast::Expr::Value(_) => true,
        ast::Expr::Cast { expr, .. }
        | ast::Expr::UnaryOp { expr, .. }
        | ast::Expr::Nested(expr) => is_constant(expr),
        _ => false,
    }
}

/// How often a table is named, up to twice.
fn tables(statement: &ast::Statement) -> usize {
    let mut tables = 0;
    // It ends where it has seen enough.
    let _ = ast::visit_relations(statement, |_| {
        tables += 1;
        if tables > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    tables
}

#[cfg(test)]
mod tests {
    use super::Scope;

    #[test]
    fn what_a_write_depends_on_is_seen_in_its_form() {
        for (scope, text) in [
            (Scope::Keyed, "UPDATE t SET a = a + $1, b = lower(b) WHERE id = $2"),
            (Scope::Keyed, "UPDATE t AS u SET a = 1 WHERE u.id = (-$1)::int"),
            (Scope::Keyed, "DELETE FROM t WHERE id IN (1, 2)"),
            (Scope::Keyed, "INSERT INTO t VALUES (1, now()), (2, nextval('s')) RETURNING id"),
            (Scope::Keyed, "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = t.a + 1"),
            (Scope::Conditional, "UPDATE t SET n = n - 1 WHERE id = 7 AND n > 0"),
            (Scope::Conditional, "UPDATE t SET n = 1 WHERE id = a"),
            (Scope::Conditional, "DELETE FROM t"),
            (Scope::Conditional, "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING"),
            (Scope::Keyed, "SELECT nextval('s')"),
            (Scope::Keyed, "UPDATE t SET a = 1 WHERE (id = 7)"),
            (Scope::Wide, "SELECT setval('s', max(id)) FROM t"),
            (Scope::Wide, "UPDATE t SET a = (SELECT max(a) FROM u) WHERE id = 1"),
            (Scope::Wide, "UPDATE t SET a = u.a FROM u WHERE u.id = t.id"),
            (Scope::Wide, "UPDATE t SET a = 1 WHERE id = (SELECT min(id) FROM t)"),
            (Scope::Wide, "DELETE FROM t USING u WHERE t.id = u.id"),
            (Scope::Wide, "DELETE FROM t WHERE EXISTS (SELECT FROM u)"),
            (Scope::Wide, "INSERT INTO t SELECT max(a) + 1 FROM t"),
            (Scope::Wide, "INSERT INTO t VALUES ((SELECT count(*) FROM u))"),
            (
                Scope::Wide,
                "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = (SELECT a FROM u)",
            ),
            (Scope::Wide, "WITH n AS (SELECT a FROM u) INSERT INTO t SELECT a FROM n"),
        ] {
            assert_eq!(crate::parse(text).unwrap()[0].scope(), scope, "{text}");
        }
    }
}
