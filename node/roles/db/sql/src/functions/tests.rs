//! Functions and operators against what PostgreSQL 15 gives, see `expectations.tsv`:
//! name, arguments with their types, result. A result that begins with `!` is an error
//! with its code and message, `\N` is NULL.

use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

use super::{recognise, register};
use crate::signature::{FunctionKind, Signature, SignatureType, Signatures};
use crate::values::{decode, encode};
use crate::{Context, PgType, SharedContext, TimeZone};

const EXPECTATIONS: &str = include_str!("tests/expectations.tsv");

fn connection() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    register(&connection, &SharedContext::new(Context::new("me", "mine"))).unwrap();
    connection
}

/// Binds generic types, if the signature takes these arguments as they are.
fn bind(signature: &Signature, given: &[PgType]) -> Option<PgType> {
    let wanted = &signature.arguments;
    let count = match signature.variadic {
        true => given.len() + 1 >= wanted.len(),
        false => given.len() == wanted.len(),
    };
    let mut element = None;
    let fits =
        given.iter().enumerate().all(|(index, given)| match wanted.get(index).or(wanted.last()) {
            Some(SignatureType::Is(wanted)) => wanted == given,
            Some(SignatureType::Any) => true,
            Some(SignatureType::AnyArray) => {
                element = given.element().cloned();
                element.is_some()
            }
            Some(SignatureType::AnyNonArray) if given.element().is_some() => false,
            Some(_) => element.get_or_insert_with(|| given.clone()) == given,
            None => false,
        });
    if !(count && fits) {
        return None;
    }
    match &signature.result {
        SignatureType::Is(result) => Some(result.clone()),
        SignatureType::AnyArray => Some(PgType::Array(Box::new(element?))),
        _ => element,
    }
}

fn filled(template: &str, types: &[PgType]) -> String {
    let mut sql = template.to_owned();
    let all: Vec<String> = (1..=types.len()).map(|index| format!("?{index}")).collect();
    let pairs: Vec<String> = all
        .iter()
        .zip(types)
        .map(|(text, base)| format!("{text}, '{}'", base.sql_name()))
        .collect();
    for (index, base) in types.iter().enumerate() {
        sql = sql.replace(&format!("{{{index}}}"), &all[index]);
        sql = sql.replace(&format!("{{t{index}}}"), &format!("'{}'", base.sql_name()));
    }
    sql.replace("{*t}", &pairs.join(", ")).replace("{*}", &all.join(", "))
}

fn evaluate(connection: &Connection, name: &str, arguments: &[&str]) -> Result<String, String> {
    let context = Context::new("me", "mine");
    let mut types = Vec::new();
    let mut values = Vec::new();
    for argument in arguments {
        let (type_name, literal) = argument.split_once(':').expect("type and value");
        let base = PgType::from_name(type_name).expect("a known type");
        values.push(match literal {
            "\\N" => Value::Null,
            literal => decode::parse_text(literal, &base, &context.input())
                .map_err(|error| format!("!{} {}", error.state.0, error.message))?,
        });
        types.push(base);
    }
    let signatures = Signatures::get().named(name).iter();
    let scalar =
        signatures.filter(|one| matches!(one.kind, FunctionKind::Scalar | FunctionKind::Operator));
    let (template, result) = scalar
        .filter_map(|one| Some((one.template, bind(one, &types)?)))
        .next()
        .ok_or_else(|| "no such signature".to_owned())?;
    let sql = format!("SELECT {}", filled(template, &types));
    let value = connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            statement.query_row(rusqlite::params_from_iter(values), |row| row.get::<_, Value>(0))
        })
        .map_err(|error| match recognise(&error) {
            Some(error) => format!("!{} {}", error.state.0, error.message),
            None => format!("{sql}: {error}"),
        })?;
    if value == Value::Null {
        return Ok("\\N".to_owned());
    }
    encode::to_text(ValueRef::from(&value), &result, &TimeZone::utc())
        .map_err(|error| error.to_string())
}

#[test]
fn functions_give_what_postgresql_gives() {
    let connection = connection();
    let mut wrong = Vec::new();
    for line in EXPECTATIONS.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, arguments @ .., expected] = fields.as_slice() else { continue };
        let seen = evaluate(&connection, name, arguments).unwrap_or_else(|error| error);
        if seen != *expected {
            wrong.push(format!("{name} {arguments:?}: {seen} in place of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_signature_names_a_function_of_sqlite() {
    let connection = connection();
    for signature in Signatures::get().all() {
        // Those of the catalog are registered elsewhere.
        if crate::system::FUNCTIONS.iter().any(|(_, template)| *template == signature.template) {
            continue;
        }
        let count = signature.arguments.len();
        let types: Vec<PgType> = signature
            .arguments
            .iter()
            .map(|argument| match argument {
                SignatureType::Is(base) => base.clone(),
                SignatureType::AnyArray => PgType::Array(Box::new(PgType::Int4)),
                _ => PgType::Int4,
            })
            .collect();
        let call = filled(signature.template, &types);
        let sql = match signature.kind {
            FunctionKind::Table => format!("SELECT * FROM {call}"),
            FunctionKind::Window => format!("SELECT {call} OVER ()"),
            _ => format!("SELECT {call}"),
        };
        if let Err(error) = connection.prepare(&sql) {
            panic!("{} with {count} arguments: {sql}: {error}", signature.name);
        }
    }
}

fn column(sql: &str) -> Vec<Value> {
    let connection = connection();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, Value>(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

#[test]
fn aggregates_have_postgresqls_types_and_scales() {
    let one = |sql: &str| column(sql).remove(0);
    let rows = "FROM (VALUES (1), (2), (NULL), (4))";
    assert_eq!(one(&format!("SELECT rung_sum_int(column1) {rows}")), Value::Integer(7));
    assert_eq!(
        one(&format!("SELECT rung_avg_numeric(column1) {rows}")),
        text("2.3333333333333333")
    );
    assert_eq!(one("SELECT rung_sum_numeric(column1) FROM (VALUES ('1.50'), ('2'))"), text("3.50"));
    assert_eq!(one("SELECT rung_sum_int(column1) FROM (VALUES (NULL))"), Value::Null);
    assert_eq!(
        one(&format!("SELECT rung_stddev_samp_numeric(column1) {rows}")),
        text("1.5275252316519467")
    );
    assert_eq!(
        one(
            "SELECT rung_string_agg(column1, '-' ORDER BY column1 DESC) FROM (VALUES ('a'), ('b'))"
        ),
        text("b-a")
    );
    assert_eq!(one(&format!("SELECT rung_array_agg(column1) {rows}")), text("[1,2,null,4]"));
}

#[test]
fn a_moving_window_takes_rows_out_again() {
    let rows = "FROM (VALUES (1), (2), (3), (4))";
    let window = "OVER (ORDER BY column1 ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)";
    assert_eq!(
        column(&format!("SELECT rung_sum_int(column1) {window} {rows}")),
        [1, 3, 5, 7].map(Value::Integer)
    );
    assert_eq!(
        column(&format!("SELECT rung_sum_float(column1 * 0.1) {window} {rows}")),
        [0.1, 0.1 + 0.2, 0.2 + 3.0 * 0.1, 3.0 * 0.1 + 0.4].map(Value::Real)
    );
    assert_eq!(
        column(&format!("SELECT rung_array_agg(column1) {window} {rows}")),
        ["[1]", "[1,2]", "[2,3]", "[3,4]"].map(text)
    );
}

#[test]
fn functions_that_give_rows_stream_them() {
    assert_eq!(column("SELECT value FROM rung_series(1, 3, 1)"), [1, 2, 3].map(Value::Integer));
    assert_eq!(column("SELECT value FROM rung_series(3, 1, -2)"), [3, 1].map(Value::Integer));
    assert_eq!(column("SELECT value FROM rung_series(1, NULL, 1)"), []);
    assert_eq!(
        column("SELECT value FROM rung_series(1, 9223372036854775807, 1) LIMIT 2"),
        [1, 2].map(Value::Integer)
    );
    assert_eq!(
        column("SELECT key || '=' || value FROM rung_json_each('{\"a\": 1, \"b\": \"x\"}', 3)"),
        ["a=1", "b=x"].map(text)
    );
    // The argument is a column of another table.
    assert_eq!(
        column("SELECT u.value FROM (VALUES ('[1,2]'), ('[3]')) AS v, rung_unnest(v.column1) AS u"),
        [1, 2, 3].map(Value::Integer)
    );
    let error = connection()
        .query_row("SELECT value FROM rung_series(1, 2, 0)", [], |_| Ok(()))
        .unwrap_err();
    assert_eq!(recognise(&error).unwrap().message, "step size cannot equal zero");
}
