//! What a server needs of an executor: descriptions, parameters in both formats,
//! errors that undo a statement, deferred violations.

use crate::session::{Rows, Session};
use bytes::Bytes;
use rung_sql::{Complete, Formats, Kind, Parameters, PgType, SqlError, parse};

fn execute(
    session: &mut Session,
    text: &str,
    values: &[Option<&[u8]>],
    format: i16,
) -> Result<(Complete, Vec<String>), SqlError> {
    let statement = parse(text)?.remove(0);
    let parameters = Parameters {
        values: values.iter().map(|value| value.map(Bytes::copy_from_slice)).collect(),
        formats: Formats(vec![format]),
    };
    let mut rows = Rows::default();
    let context = session.context.clone();
    let formats = Formats::default();
    let complete =
        session.executor.execute(&statement, &[], &parameters, &formats, &context, &mut rows)?;
    Ok((complete, rows.lines))
}

fn parameter_types(session: &mut Session, text: &str) -> Result<Vec<PgType>, SqlError> {
    let statement = parse(text)?.remove(0);
    let context = session.context.clone();
    session.executor.describe(&statement, &[], &context).map(|described| described.parameters)
}

fn with_table() -> Session {
    let mut session = Session::new();
    session.answer("CREATE TABLE t (id integer PRIMARY KEY, n numeric, s varchar(3), b boolean)");
    session
}

#[test]
fn parameters_get_their_types_from_where_they_stand() {
    use PgType as T;
    let mut session = with_table();
    let cases: &[(&str, &[T])] = &[
        ("SELECT $1", &[T::Text]),
        ("SELECT * FROM t WHERE id = $1", &[T::Int4]),
        ("SELECT * FROM t WHERE $1 < n AND s LIKE $2", &[T::Numeric, T::Text]),
        ("SELECT * FROM t LIMIT $1 OFFSET $2", &[T::Int8, T::Int8]),
        ("INSERT INTO t VALUES ($1, $2, $3, $4)", &[T::Int4, T::Numeric, T::Varchar, T::Bool]),
        ("UPDATE t SET n = $1, s = $2 WHERE id = $3", &[T::Numeric, T::Varchar, T::Int4]),
        ("SELECT $1::int8 + 1, $2::text", &[T::Int8, T::Text]),
        ("SELECT * FROM t WHERE id IN ($1, $2)", &[T::Int4, T::Int4]),
        ("SELECT * FROM t WHERE b = $1 AND id BETWEEN $2 AND $3", &[T::Bool, T::Int4, T::Int4]),
    ];
    for (text, expected) in cases {
        assert_eq!(parameter_types(&mut session, text).unwrap(), *expected, "{text}");
    }
    let array = T::Array(Box::new(T::Int4));
    let found = parameter_types(&mut session, "SELECT * FROM t WHERE id = ANY ($1)").unwrap();
    assert_eq!(found, [array]);
    let skipped = parameter_types(&mut session, "SELECT $2::int").unwrap_err();
    assert_eq!(skipped.state.0, "42P18");
}

#[test]
fn columns_say_where_they_come_from() {
    let mut session = with_table();
    let statement = parse("SELECT id, n + 1 AS more, s FROM t").unwrap().remove(0);
    let context = session.context.clone();
    let columns = session.executor.describe(&statement, &[], &context).unwrap().columns;
    let places: Vec<(&str, i16)> =
        columns.iter().map(|column| (column.name.as_str(), column.column_number)).collect();
    assert_eq!(places, [("id", 1), ("more", 0), ("s", 3)]);
    assert!(columns[0].table_oid >= 16_384);
    assert_eq!(columns[1].table_oid, 0);
    assert_eq!(columns[2].data_type.modifier, 7);
}

#[test]
fn values_come_as_text_and_as_binary() {
    let mut session = with_table();
    let insert = "INSERT INTO t (id, s) VALUES ($1, $2)";
    execute(&mut session, insert, &[Some(b"1"), Some(b"abc")], 0).unwrap();
    execute(&mut session, insert, &[Some(&2i32.to_be_bytes()), None], 1).unwrap();
    let (_, rows) =
        execute(&mut session, "SELECT id, s FROM t WHERE id >= $1 ORDER BY id", &[Some(b"1")], 0)
            .unwrap();
    assert_eq!(rows, ["id|s", "1|abc", "2|NULL"]);
    let error = execute(&mut session, insert, &[Some(b"x"), None], 0).unwrap_err();
    assert_eq!(error.state.0, "22P02");
    let error = execute(&mut session, insert, &[None, None], 0).unwrap_err();
    assert_eq!(error.state.0, "23502");
    let error = execute(&mut session, insert, &[Some(b"3"), Some(b"long")], 0).unwrap_err();
    assert_eq!(error.state.0, "22001");
    let error = execute(&mut session, insert, &[Some(b"3")], 0).unwrap_err();
    assert_eq!(error.state.0, "08P01");
    let error = execute(&mut session, insert, &[Some(b"1"), None], 0).unwrap_err();
    assert_eq!(error.detail.as_deref(), Some("Key (id)=(1) already exists."));
}

/// As drivers ask for the columns of a key: with parameters whose types they give.
#[test]
fn fields_of_records_go_with_parameters() {
    let mut session = Session::new();
    session.answer("CREATE TABLE k (a integer, b text, PRIMARY KEY (b, a))");
    let text = "SELECT listed.attname, (listed.part).n, listed.part FROM \
                (SELECT t.relname, a.attname, a.attnum, \
                 information_schema._pg_expandarray(i.indkey) AS part \
                 FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid \
                 JOIN pg_attribute a ON a.attrelid = t.oid) AS listed \
                WHERE (listed.part).x = listed.attnum AND listed.relname = $1 ORDER BY 2";
    let statement = parse(text).unwrap().remove(0);
    let types = [Some(PgType::Varchar)];
    let context = session.context.clone();
    let columns = session.executor.describe(&statement, &types, &context).unwrap().columns;
    let oids: Vec<u32> = columns.iter().map(|column| column.data_type.oid()).collect();
    assert_eq!(oids, [19, 23, 2249]);
    let values = vec![Some(Bytes::from_static(b"k"))];
    let parameters = Parameters { values, formats: Formats(vec![0]) };
    let mut rows = Rows::default();
    let formats = Formats::default();
    session
        .executor
        .execute(&statement, &types, &parameters, &formats, &context, &mut rows)
        .unwrap();
    assert_eq!(rows.lines, ["attname|n|part", "b|1|(2,1)", "a|2|(1,2)"]);
}

#[test]
fn a_statement_that_fails_leaves_nothing_behind() {
    let mut session = with_table();
    session.answer("INSERT INTO t (id, n) SELECT g, 3 - g FROM generate_series(1, 5) g");
    session.answer("BEGIN");
    for failing in [
        "UPDATE t SET n = 1 / n",
        "INSERT INTO t (id, n) SELECT g + 10, 1 / (2 - g) FROM generate_series(1, 3) g",
        "DELETE FROM t WHERE 1 / n > -5",
        "UPDATE t SET id = id + 1",
        "INSERT INTO t (id) VALUES (20), (21), (1)",
    ] {
        let error = execute(&mut session, failing, &[], 0).unwrap_err();
        assert!(["22012", "23505"].contains(&error.state.0), "{failing}: {error}");
        let (_, rows) =
            execute(&mut session, "SELECT count(*), sum(n), sum(id) FROM t", &[], 0).unwrap();
        assert_eq!(rows[1], "5|0|15", "{failing}");
    }
}

#[test]
fn a_deferred_violation_is_known_before_the_commit() {
    let mut session = Session::new();
    session.answer("CREATE TABLE p (id integer PRIMARY KEY)");
    session.answer(
        "CREATE TABLE c (id integer PRIMARY KEY, p integer REFERENCES p (id) \
         DEFERRABLE INITIALLY DEFERRED)",
    );
    session.answer("BEGIN");
    assert_eq!(session.answer("INSERT INTO c VALUES (1, 7)"), ["INSERT 0 1"]);
    let violation = session.executor.deferred_violation().expect("a violation");
    assert_eq!(violation.state.0, "23503");
    session.answer("INSERT INTO p VALUES (7)");
    assert_eq!(session.executor.deferred_violation(), None);
    session.answer("COMMIT");
}

#[test]
fn an_interrupted_statement_is_canceled() {
    let mut session = Session::new();
    let handle = session.executor.connection().get_interrupt_handle();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let interrupter = std::thread::spawn(move || {
        while stopped.recv_timeout(std::time::Duration::from_millis(5)).is_err() {
            handle.interrupt();
        }
    });
    let endless = "SELECT count(*) FROM generate_series(1, 100000000000)";
    let error = execute(&mut session, endless, &[], 0).unwrap_err();
    stop.send(()).expect("the interrupter waits");
    interrupter.join().expect("the interrupter ends");
    assert_eq!(error.state.0, "57014");
}

#[test]
fn kinds_tell_what_a_statement_does() {
    let kind = |text: &str| parse(text).unwrap()[0].kind().clone();
    for text in
        ["SELECT 1", "VALUES (1)", "WITH a AS (SELECT 1) SELECT * FROM a", "EXPLAIN SELECT 1"]
    {
        assert!(matches!(kind(text), Kind::Read), "{text}");
    }
    for text in [
        "INSERT INTO t VALUES (1)",
        "SELECT * FROM t FOR UPDATE",
        "SELECT nextval('s')",
        "WITH a AS (SELECT 1) DELETE FROM t",
    ] {
        assert!(matches!(kind(text), Kind::Write), "{text}");
    }
    assert!(matches!(kind("CREATE TABLE t (a int)"), Kind::Schema));
    assert!(matches!(kind("TRUNCATE t"), Kind::Schema));
    assert!(matches!(kind("VACUUM"), Kind::Vacuum));
    assert!(matches!(kind("BEGIN"), Kind::Control(_)));
    assert!(matches!(kind("SET a = b"), Kind::Session(_)));
    assert!(matches!(kind("COPY t FROM STDIN"), Kind::Copy(_)));
    assert!(matches!(kind(" ; "), Kind::Empty));
    for text in [
        "PRAGMA journal_mode",
        "ATTACH DATABASE 'x' AS y",
        "INSERT OR ROLLBACK INTO t VALUES (1)",
        "REPLACE INTO t VALUES (1)",
    ] {
        let refused = parse(text).map(|statements| {
            let mut session = with_table();
            let context = session.context.clone();
            session.executor.describe(&statements[0], &[], &context).unwrap_err()
        });
        assert_eq!(refused.unwrap_or_else(|error| error).state.0, "42601", "{text}");
    }
}

#[test]
fn what_touches_a_few_rows_is_brief() {
    let mut session = with_table();
    for text in [
        "CREATE TABLE child (id integer PRIMARY KEY, t integer REFERENCES t, k text UNIQUE)",
        "CREATE TABLE plain (n integer)",
        "CREATE TABLE parent (id integer PRIMARY KEY)",
        "CREATE TABLE cascades (p integer REFERENCES parent ON DELETE CASCADE)",
    ] {
        session.answer(text);
    }
    let cases = [
        ("UPDATE t SET n = n + 1 WHERE id = 7", true),
        ("UPDATE t SET n = n + $1 WHERE id = $2", true),
        ("UPDATE t SET n = 1 WHERE id = 7 RETURNING s", true),
        ("UPDATE child SET t = 1 WHERE k = 'a'", true),
        ("INSERT INTO plain VALUES (1)", true),
        ("INSERT INTO child VALUES (1, 2, 'a') RETURNING id", true),
        ("INSERT INTO child VALUES (1, 2, 'a') ON CONFLICT (id) DO UPDATE SET k = 'b'", true),
        ("DELETE FROM child WHERE id = 1", true),
        ("UPDATE t SET n = n + 1", false),
        // They give rows other keys.
        ("UPDATE t SET id = 8 WHERE id = 7", false),
        ("INSERT INTO child VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET id = 3", false),
        ("UPDATE t SET n = n + 1 WHERE id > 7", false),
        ("UPDATE t SET n = n + 1 WHERE s = 'a'", false),
        ("DELETE FROM plain", false),
        ("DELETE FROM plain WHERE n = 1", false),
        ("DELETE FROM parent WHERE id = 1", false),
        ("INSERT INTO plain SELECT id FROM t", false),
        ("UPDATE t SET n = (SELECT sum(n) FROM t) WHERE id = 1", false),
        ("SELECT 1", false),
    ];
    for (text, expected) in cases {
        let statement = parse(text).unwrap().remove(0);
        let context = session.context.clone();
        assert_eq!(session.executor.is_brief(&statement, &[], &context), expected, "{text}");
    }
}
