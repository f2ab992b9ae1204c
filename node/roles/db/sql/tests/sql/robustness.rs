//! Whatever the text, there is an answer or an error.

use std::cell::RefCell;

use proptest::prelude::*;

use crate::case::Case;
use crate::session::{Rows, Session};
use rung_sql::{Formats, Parameters, parse};

/// Parses, describes and executes; what comes out does not matter.
fn try_all(session: &RefCell<Session>, text: &str) {
    let mut session = session.borrow_mut();
    let session = &mut *session;
    let Ok(statements) = parse(text) else { return };
    for statement in statements {
        let _ = session.executor.describe(&statement, &[], &session.context);
        let _ = session.executor.execute(
            &statement,
            &[],
            &Parameters::default(),
            &Formats::default(),
            &session.context,
            &mut Rows::default(),
        );
    }
}

fn statements() -> Vec<String> {
    let files = Case::files().into_iter();
    files.flat_map(|name| Case::read(&name).steps).map(|step| step.statement).collect()
}

/// Words and signs that change what a statement means.
const PIECES: &[&str] = &[
    " ",
    "(",
    ")",
    "'",
    "\"",
    ",",
    ";",
    "$1",
    "$70000",
    "::",
    "[1]",
    "*",
    "NULL",
    "SELECT",
    "FROM t",
    "WHERE",
    "GROUP BY 1",
    "ORDER BY 2",
    "LIMIT -1",
    "OVER ()",
    "DISTINCT",
    "ARRAY[",
    "CASE WHEN",
    "END",
    "UNION ALL",
    "--",
    "/*",
    "\u{e9}",
    "1e400",
    "0x",
    "E'\\",
    "IN ()",
    "ANY",
    "LATERAL",
    "WITH x AS (",
    "RETURNING *",
    "DEFAULT",
    "INTERVAL '",
    "AT TIME ZONE",
];

#[test]
fn changed_statements_never_panic() {
    let all = statements();
    let session = RefCell::new(Session::new());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) };
    proptest!(config, |(
        index in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        removed in 0usize..12,
        piece in prop::sample::select(PIECES),
    )| {
        let original = index.get(&all);
        let characters: Vec<char> = original.chars().collect();
        let start = place.index(characters.len() + 1);
        let end = (start + removed).min(characters.len());
        let mut text: String = characters[..start].iter().collect();
        text.push_str(piece);
        text.extend(&characters[end..]);
        try_all(&session, &text);
    });
}

#[test]
fn nesting_without_end_is_an_error() {
    let deep = [
        format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000)),
        format!("SELECT {}", vec!["1"; 20_000].join("+")),
        format!("SELECT {}1", "-".to_owned() + &"- ".repeat(5_000)),
        format!("SELECT {}1", "NOT ".repeat(5_000)),
        format!("SELECT 1{}", "::int".repeat(20_000)),
        format!("SELECT 1{}", " IS NULL".repeat(20_000)),
        vec!["SELECT 1"; 5_000].join(" UNION ALL "),
        format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(1_000), ") x".repeat(1_000)),
    ];
    let mut session = Session::new();
    for text in deep {
        let answer = session.answer(&text);
        assert!(answer[0].starts_with("ERROR"), "{}", &answer[0]);
    }
}

#[test]
fn long_chains_of_conditions_are_executed() {
    let terms: Vec<String> = (0..1_200).map(|n| format!("n = {n}")).collect();
    let text =
        format!("SELECT count(*) FROM (VALUES (5), (7), (9999)) v(n) WHERE {}", terms.join(" OR "));
    assert_eq!(Session::new().answer(&text), ["count", "2", "SELECT 1"]);
}

#[test]
fn arrays_have_more_items_than_functions_have_arguments() {
    let items: Vec<String> = (0..2_500).map(|n| n.to_string()).collect();
    let array = format!("ARRAY[{}]", items.join(", "));
    let text = format!("SELECT cardinality({array}), ({array})[2400], 2499 = ANY ({array})");
    let answer = ["cardinality|array|?column?", "2500|2399|t", "SELECT 1"];
    assert_eq!(Session::new().answer(&text), answer);
    let rows = format!("SELECT cardinality(ARRAY[{}])", vec!["[1, 2]"; 1_500].join(", "));
    assert_eq!(Session::new().answer(&rows), ["cardinality", "3000", "SELECT 1"]);
}
