use rusqlite::Connection;

use crate::catalog_store::{install, load_catalog};
use crate::parse::parse;
use crate::statement::Body;
use crate::system::{SequenceValues, System};
use crate::{Catalog, Context, SharedContext, SqlError, SqlState, functions};

fn database() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("PRAGMA foreign_keys = ON").unwrap();
    let context = SharedContext::new(Context::new("u", "d"));
    functions::register(&connection, &context).unwrap();
    System::register(&connection, &context, SequenceValues::default()).unwrap();
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).unwrap();
    install(&connection).unwrap();
    connection
}

fn change(connection: &Connection, text: &str) -> Result<(), SqlError> {
    for statement in parse(text)? {
        let catalog = load_catalog(connection)?;
        let context = Context::new("u", "d");
        match statement.body() {
            Body::Statement(ast) => {
                super::execute_schema(connection, &catalog, ast, &context)?;
            }
            Body::Schema(command) => {
                super::execute_command(connection, &catalog, command, &context)?;
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

fn must(connection: &Connection, text: &str) -> Catalog {
    change(connection, text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok", "after {text}");
    load_catalog(connection).unwrap()
}

fn number(connection: &Connection, query: &str) -> i64 {
    connection.query_row(query, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_rebuilt_parent_keeps_its_rows_and_those_that_refer_to_it() {
    let db = database();
    must(&db, "CREATE TABLE p (id int, name varchar(5), gone text, UNIQUE (id))");
    must(&db, "CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p (id) ON DELETE CASCADE)");
    db.execute_batch(
        "INSERT INTO p VALUES (1, 'a', 'x'), (2, 'b', 'y'); INSERT INTO c VALUES (7, 1), (8, 2)",
    )
    .unwrap();
    must(&db, "ALTER TABLE p ADD PRIMARY KEY (id)");
    must(&db, "ALTER TABLE p DROP COLUMN gone");
    assert_eq!(number(&db, "SELECT count(*) FROM c"), 2);
    db.execute_batch("DELETE FROM p WHERE id = 1").unwrap();
    assert_eq!(number(&db, "SELECT sum(id) FROM c"), 8);
    let catalog = must(&db, "ALTER TABLE p ADD COLUMN later int");
    let numbers: Vec<i16> =
        catalog.relations["p"].columns.iter().map(|column| column.number).collect();
    assert_eq!(numbers, [1, 2, 4]);
}

#[test]
fn names_change_everywhere() {
    let db = database();
    must(&db, "CREATE TABLE p (id int PRIMARY KEY)");
    must(&db, "CREATE TABLE c (p int REFERENCES p, UNIQUE (p)); CREATE INDEX i ON c (p DESC)");
    let catalog = must(&db, "ALTER TABLE p RENAME TO parent; ALTER TABLE parent RENAME id TO key");
    let text = format!("{:?}", catalog.relations["c"].constraints);
    assert!(text.contains("\"parent\"") && text.contains("\"key\""), "{text}");
    must(&db, "ALTER TABLE c RENAME p TO q; ALTER INDEX i RENAME TO j; DROP INDEX j");
    db.execute_batch("INSERT INTO parent (key) VALUES (1); INSERT INTO c (q) VALUES (1)").unwrap();
    assert!(db.execute_batch("INSERT INTO c (q) VALUES (2)").is_err());
}

#[test]
fn constraints_are_checked_against_rows_that_exist() {
    let db = database();
    must(&db, "CREATE TABLE t (a int, b int); CREATE TABLE p (id int PRIMARY KEY)");
    db.execute_batch("INSERT INTO t VALUES (1, NULL), (1, 5)").unwrap();
    let state = |text: &str| change(&db, text).unwrap_err().state;
    assert_eq!(state("ALTER TABLE t ALTER b SET NOT NULL"), SqlState::NOT_NULL_VIOLATION);
    assert_eq!(state("ALTER TABLE t ADD PRIMARY KEY (a)"), SqlState::UNIQUE_VIOLATION);
    assert_eq!(state("ALTER TABLE t ADD UNIQUE (a)"), SqlState::UNIQUE_VIOLATION);
    assert_eq!(
        state("ALTER TABLE t ADD FOREIGN KEY (b) REFERENCES p"),
        SqlState::FOREIGN_KEY_VIOLATION
    );
    must(&db, "ALTER TABLE t ADD UNIQUE (b)");
    db.execute_batch("INSERT INTO p VALUES (5)").unwrap();
    must(&db, "ALTER TABLE t ADD FOREIGN KEY (b) REFERENCES p DEFERRABLE INITIALLY DEFERRED");
    must(&db, "TRUNCATE t");
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 0);
}

#[test]
fn what_others_depend_on_is_not_dropped_without_cascade() {
    let db = database();
    must(&db, "CREATE TABLE p (id serial PRIMARY KEY); CREATE TABLE c (p int REFERENCES p)");
    let error = change(&db, "DROP TABLE p").unwrap_err();
    assert_eq!(error.state, SqlState::DEPENDENT_OBJECTS);
    assert_eq!(error.detail.as_deref(), Some("constraint c_p_fkey on table c depends on table p"));
    assert_eq!(change(&db, "TRUNCATE p").unwrap_err().state, SqlState::NOT_SUPPORTED);
    assert_eq!(
        change(&db, "DROP SEQUENCE p_id_seq").unwrap_err().state,
        SqlState::DEPENDENT_OBJECTS
    );
    let catalog = must(&db, "DROP TABLE IF EXISTS p, nothing CASCADE");
    assert!(catalog.relations["c"].constraints.is_empty());
    assert!(catalog.sequences.is_empty());
    db.execute_batch("INSERT INTO c VALUES (1)").unwrap();
    must(&db, "DROP TABLE c");
}

#[test]
fn a_change_that_fails_or_is_rolled_back_leaves_nothing() {
    let db = database();
    must(&db, "CREATE TABLE t (a int)");
    let before = load_catalog(&db).unwrap();
    assert!(change(&db, "ALTER TABLE t ADD COLUMN b int, ADD COLUMN a int").is_err());
    assert_eq!(load_catalog(&db).unwrap().version, before.version);
    db.execute_batch("BEGIN").unwrap();
    must(&db, "ALTER TABLE t ADD COLUMN b bigserial UNIQUE; ALTER TABLE t RENAME a TO z");
    db.execute_batch("ROLLBACK").unwrap();
    let after = load_catalog(&db).unwrap();
    assert_eq!(after.relations, before.relations);
    db.execute_batch("INSERT INTO t (a) VALUES (1)").unwrap();
    assert!(db.execute_batch("SELECT b FROM t").is_err());
}

#[test]
fn rows_lie_by_their_key_where_that_pays() {
    let db = database();
    let text = |table: &str| -> String {
        let sql = "SELECT sql FROM sqlite_schema WHERE name = ?1";
        db.query_row(sql, [table], |row| row.get(0)).unwrap()
    };
    must(&db, "CREATE TABLE a (id bigint PRIMARY KEY, t text)");
    must(&db, "CREATE TABLE b (x int, y int, PRIMARY KEY (x, y))");
    must(&db, "CREATE TABLE c (k text PRIMARY KEY, t text)");
    must(&db, "CREATE TABLE none ()");
    assert!(text("a").contains("\"id\" INTEGER PRIMARY KEY NOT NULL"));
    assert!(text("b").ends_with("STRICT, WITHOUT ROWID"));
    assert!(text("c").ends_with("STRICT"));
    assert!(db.execute_batch("INSERT INTO c VALUES ('a', ''), ('a', '')").is_err());
}
