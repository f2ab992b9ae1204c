//! COPY in both directions.

use crate::session::{Records, Session};
use rung_sql::{CopyDirection, Formats, Kind, Parameters, SqlError, parse};

fn session() -> Session {
    let mut session = Session::new();
    session.answer("CREATE TABLE t (id integer PRIMARY KEY, word text, price numeric(8,2))");
    session
}

/// Gives the data in pieces of every size from one byte up.
fn copy_in(
    session: &mut Session,
    text: &str,
    data: &[u8],
    piece: usize,
) -> Result<String, SqlError> {
    let statement = parse(text)?.remove(0);
    let Kind::Copy(command) = statement.kind() else { panic!("{text} is not COPY") };
    assert_eq!(command.direction, CopyDirection::In);
    let context = session.context.clone();
    let mut copy = session.executor.copy_in(command, &context)?;
    for piece in data.chunks(piece) {
        session.executor.copy_data(&mut copy, piece, &context)?;
    }
    session.executor.copy_end(copy, &context).map(|complete| complete.tag)
}

fn copy_out(session: &mut Session, text: &str) -> Result<Vec<u8>, SqlError> {
    let statement = parse(text)?.remove(0);
    let context = session.context.clone();
    let mut records = Records::default();
    session.executor.execute(
        &statement,
        &[],
        &Parameters::default(),
        &Formats::default(),
        &context,
        &mut records,
    )?;
    Ok(records.0)
}

#[test]
fn text_is_read_in_pieces_of_any_size_and_written_again() {
    let data =
        b"1\ta\\tb\\nc\t1.5\n2\t\\N\t\\N\n3\tback\\\\slash\t10\r\n4\t\\x41\\102\t7\n\\.\nignored\n";
    for piece in [1, 2, 7, 1000] {
        let mut session = session();
        let tag = copy_in(&mut session, "COPY t FROM STDIN", data, piece).unwrap();
        assert_eq!(tag, "COPY 4");
        let out = copy_out(&mut session, "COPY (SELECT * FROM t ORDER BY id) TO STDOUT").unwrap();
        let expected = "1\ta\\tb\\nc\t1.50\n2\t\\N\t\\N\n3\tback\\\\slash\t10.00\n4\tAB\t7.00\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn csv_has_quotes_nulls_and_a_header() {
    let data = b"id,word\n1,\"a \"\"b\"\"\nc\"\n2,\n3,\"\"\n4,plain";
    for piece in [1, 3, 1000] {
        let mut session = session();
        let copy = "COPY t (id, word) FROM STDIN WITH (FORMAT csv, HEADER)";
        assert_eq!(copy_in(&mut session, copy, data, piece).unwrap(), "COPY 4");
        let out = "COPY (SELECT id, word FROM t ORDER BY id) TO STDOUT (FORMAT csv, HEADER)";
        let out = String::from_utf8(copy_out(&mut session, out).unwrap()).unwrap();
        assert_eq!(out, "id,word\n1,\"a \"\"b\"\"\nc\"\n2,\n3,\"\"\n4,plain\n");
    }
}

#[test]
fn binary_that_was_written_is_read_again() {
    let mut session = session();
    session.answer("INSERT INTO t VALUES (1, 'one', 1.25), (2, NULL, NULL)");
    let data = copy_out(&mut session, "COPY t TO STDOUT (FORMAT binary)").unwrap();
    for piece in [1, 5, 1000] {
        session.answer("DELETE FROM t");
        let tag = copy_in(&mut session, "COPY t FROM STDIN (FORMAT binary)", &data, piece).unwrap();
        assert_eq!(tag, "COPY 2");
        let rows = session.answer("SELECT * FROM t ORDER BY id");
        assert_eq!(rows, ["id|word|price", "1|one|1.25", "2|NULL|NULL", "SELECT 2"]);
    }
    let cut = &data[..data.len() - 1];
    let error = copy_in(&mut session, "COPY t FROM STDIN (FORMAT binary)", cut, 9).unwrap_err();
    assert_eq!(error.state.0, "23505");
}

#[test]
fn errors_name_the_line_and_the_column() {
    let cases: &[(&str, &str, &str)] = &[
        ("1\ta\t1\nx\tb\t2\n", "22P02", "COPY t, line 2, column id"),
        ("1\ta\n", "22P04", "COPY t, line 1"),
        ("1\ta\t1\t2\n", "22P04", "COPY t, line 1"),
        ("1\ta\t1\n2\tb\t9999999\n", "22003", "line 2"),
    ];
    for (data, state, place) in cases {
        let error = copy_in(&mut session(), "COPY t FROM STDIN", data.as_bytes(), 100).unwrap_err();
        assert_eq!(error.state.0, *state, "{error:?}");
        assert!(error.detail.as_deref().unwrap_or_default().contains(place), "{error:?}");
    }
}

#[test]
fn files_and_unknown_options_are_refused() {
    for (text, state) in [
        ("COPY t FROM '/etc/passwd'", "42501"),
        ("COPY t TO PROGRAM 'ls'", "42501"),
        ("COPY t FROM STDIN (FORMAT xml)", "22023"),
        ("COPY t FROM STDIN (nothing 1)", "42601"),
        ("COPY t FROM STDIN (QUOTE '#')", "0A000"),
    ] {
        assert_eq!(parse(text).unwrap_err().state.0, state, "{text}");
    }
}
