//! Brings rows of a tail back, where nothing else has happened to them since.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rung_proto::api::{Tail, TailReplayed};
use rung_proto::{Code, Failure};
use rung_shard::{Cancel, Shard, ShardError};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::diff::{Table, find, tables};
use super::row::{Change, Line, Row, from_json, quoted};
use super::{header, path_of, replayed};
use crate::clock::now_ms;
use crate::node::Node;

const PATIENCE: Duration = Duration::from_secs(3600);
/// Conflicts that are told one by one.
const MOST_CONFLICTS: usize = 1_000;

/// What became of one change.
enum Done {
    Applied,
    /// The row is what it would be.
    Already,
    Conflict(String),
}

fn failed(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Precondition, what).because(why)
}

/// Applies every change of a tail whose row is what it was before, in one
/// transaction of the primary, and says which were not.
///
/// # Errors
/// When this node has not the primary, the tail was replayed already, or nothing was
/// changed for another reason.
pub async fn replay(
    node: &Node,
    shard: Shard,
    database: &str,
    name: &str,
) -> Result<TailReplayed, Failure> {
    let dir = node.data.make_private_dir(super::DIRECTORY)?;
    let path =
        if Path::new(name).is_absolute() { PathBuf::from(name) } else { path_of(&dir, name)? };
    let tail = check(&path, database)?;
    let cancel = Cancel::new();
    let from = path.clone();
    let work =
        shard.alone(PATIENCE, &cancel, move |executor| apply(executor.connection_mut(), &from));
    let done = match work.await {
        Ok((done, token)) => done.map(|done| TailReplayed { position: token.to_string(), ..done }),
        Err(ShardError::NotPrimary { primary }) => {
            let state = node.control.state();
            let primary = primary.map_or("nobody".to_owned(), |primary| state.node_name(primary));
            Err(failed("a replay begins at the primary", format!("the primary is {primary}"))
                .next(format!("`ctl promote {}`, then try again", node.name())))
        }
        Err(ShardError::OutcomeUnknown) => {
            Err(Failure::new(Code::OutcomeUnknown, "it is not known whether the tail was replayed")
                .next("look at the data; replaying it again does no harm to tables with a key"))
        }
        Err(error) => Err(failed("the tail was not replayed", error).next("see `ctl db show`")),
    }?;
    tracing::warn!(database, tail.file, done.applied, done.conflicts, "replayed a tail");
    // Without it a table without a key would get its rows twice.
    fs::write(replayed(&path), now_ms().to_string())
        .map_err(|error| failed("the tail was replayed, which could not be noted", error))?;
    Ok(done)
}

fn check(path: &Path, database: &str) -> Result<Tail, Failure> {
    let shown = path.display();
    let read = File::open(path).and_then(|file| header(&mut BufReader::new(file)));
    let tail = read.map_err(|error| {
        Failure::new(Code::NotFound, format!("{shown} is no tail that can be read here"))
            .because(error)
            .next("`ctl db tail ls` says on which node it is; ask that one, or copy the file")
    })?;
    if tail.database != database {
        return Err(failed("the tail is of another database", tail.database));
    }
    if let Some(whole) = &tail.whole {
        return Err(failed(
            "the tail has no rows to replay",
            format!("where the histories part was not known any more, so {whole} beside it is the whole copy"),
        )
        .next("compare it with the database by hand, for example with sqlite3"));
    }
    if replayed(path).exists() {
        return Err(Failure::new(Code::AlreadyExists, format!("{shown} was replayed already"))
            .next("remove the file of that name with .replayed at its end to do it again"));
    }
    Ok(tail)
}

fn apply(connection: &mut Connection, path: &Path) -> Result<TailReplayed, Failure> {
    let not_done = |error: &dyn std::fmt::Display| failed("the tail was not replayed", error);
    let transaction = connection.transaction().map_err(|error| not_done(&error))?;
    let deferred = transaction.execute_batch("PRAGMA defer_foreign_keys = ON");
    deferred.map_err(|error| not_done(&error))?;
    let done = apply_lines(&transaction, path).map_err(|error| not_done(&error))?;
    transaction.commit().map_err(|error| {
        not_done(&error).next("rows that refer to others may be missing; add those first")
    })?;
    Ok(done)
}

fn apply_lines(connection: &Connection, path: &Path) -> io::Result<TailReplayed> {
    let tables = tables(connection).map_err(io::Error::other)?;
    let mut file = BufReader::new(File::open(path)?);
    header(&mut file)?;
    let mut done = TailReplayed::default();
    for text in file.lines() {
        let line: Line = serde_json::from_str(&text?)?;
        let became = match tables.get(&line.table) {
            _ if line.change == Change::Schema => schema(&line, tables.get(&line.table)),
            None => Ok(Done::Conflict("there is no such table".to_owned())),
            Some(table) => change(connection, table, &line),
        };
        match became {
            Ok(Done::Applied) => done.applied += 1,
            Ok(Done::Already) => done.already += 1,
            Ok(Done::Conflict(why)) => note(&mut done, &line, &why),
            Err(error) => note(&mut done, &line, &error.to_string()),
        }
    }
    Ok(done)
}

fn note(done: &mut TailReplayed, line: &Line, why: &str) {
    done.conflicts += 1;
    if done.told.len() < MOST_CONFLICTS {
        let key = serde_json::Value::Object(line.key.clone());
        done.told.push(format!("{:?} of {} {key}: {why}", line.change, line.table));
    }
}

fn schema(line: &Line, table: Option<&Table>) -> rusqlite::Result<Done> {
    let wanted =
        line.after.as_ref().and_then(|after| after.get("sql")).and_then(|sql| sql.as_str());
    Ok(if wanted == table.map(|table| table.sql.as_str()) {
        Done::Already
    } else {
        Done::Conflict("the table has another definition; change it by hand".to_owned())
    })
}

fn change(connection: &Connection, table: &Table, line: &Line) -> rusqlite::Result<Done> {
    let bad = || Ok(Done::Conflict("the line cannot be understood".to_owned()));
    let Some(key) = values(&line.key) else { return bad() };
    if line.change == Change::Insert && table.key.is_empty() {
        return insert(connection, table, line);
    }
    let there = find(table, connection, &key)?;
    if there == line.after {
        return Ok(Done::Already);
    }
    if there != line.before {
        return Ok(Done::Conflict(match there {
            Some(row) => format!("the row is now {}", serde_json::Value::Object(row)),
            None => "the row is gone".to_owned(),
        }));
    }
    match (line.change, &line.after) {
        (Change::Insert, Some(_)) => insert(connection, table, line),
        (Change::Update, Some(after)) => {
            let Some(new) = values(after) else { return bad() };
            let set = after.keys().enumerate();
            let set = set.map(|(at, name)| format!("{} = ?{}", quoted(name), at + key.len() + 1));
            let text = format!(
                "UPDATE main.{} SET {} WHERE {}",
                quoted(&table.name),
                set.collect::<Vec<_>>().join(", "),
                table.condition()
            );
            run(connection, &text, key.into_iter().chain(new))
        }
        (Change::Delete, None) => {
            let (name, condition) = (quoted(&table.name), table.condition());
            run(connection, &format!("DELETE FROM main.{name} WHERE {condition}"), key)
        }
        _ => bad(),
    }
}

fn insert(connection: &Connection, table: &Table, line: &Line) -> rusqlite::Result<Done> {
    let row = line.after.as_ref().and_then(|after| Some((after, values(after)?)));
    let Some((after, values)) = row else {
        return Ok(Done::Conflict("the line cannot be understood".to_owned()));
    };
    let names = after.keys().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let places = (1..=values.len()).map(|at| format!("?{at}")).collect::<Vec<_>>().join(", ");
    let text = format!("INSERT INTO main.{} ({names}) VALUES ({places})", quoted(&table.name));
    run(connection, &text, values)
}

fn run(
    connection: &Connection,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> rusqlite::Result<Done> {
    let changed = connection.prepare_cached(text)?.execute(params_from_iter(values))?;
    Ok(match changed {
        1 => Done::Applied,
        more => Done::Conflict(format!("{more} rows would have been changed")),
    })
}

fn values(row: &Row) -> Option<Vec<Value>> {
    row.values().map(from_json).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::diff;

    const TABLE: &str = "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT);";

    fn database(rows: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&format!("{TABLE}{rows}")).unwrap();
        connection
    }

    fn tail(before: &Connection, after: &Connection) -> tempfile::TempPath {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&mut file, &Tail::default()).unwrap();
        io::Write::write_all(&mut file, b"\n").unwrap();
        diff::write(before, after, true, &mut file).unwrap();
        file.into_temp_path()
    }

    fn rows(connection: &Connection) -> String {
        let text =
            "SELECT coalesce(group_concat(k || v, ' '), '') FROM (SELECT * FROM t ORDER BY k)";
        connection.query_row(text, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn changes_come_back_where_nothing_else_has_happened() {
        let fork = database("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');");
        let lost = database("INSERT INTO t VALUES (1, 'A'), (3, 'c'), (4, 'd');");
        let mut now = database("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (5, 'e');");
        let path = tail(&fork, &lost);
        let done = apply(&mut now, &path).unwrap();
        assert_eq!((done.applied, done.already, done.conflicts), (3, 0, 0), "{:?}", done.told);
        assert_eq!(rows(&now), "1A 3c 4d 5e");
        let again = apply(&mut now, &path).unwrap();
        assert_eq!((again.applied, again.already, again.conflicts), (0, 3, 0));
    }

    #[test]
    fn what_has_changed_since_is_a_conflict_and_stays() {
        let fork = database("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');");
        let lost = database("INSERT INTO t VALUES (1, 'A'), (3, 'c'), (4, 'd'), (6, 'f');");
        let mut now = database("INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'c'), (4, 'z');");
        let done = apply(&mut now, &tail(&fork, &lost)).unwrap();
        assert_eq!((done.applied, done.conflicts), (1, 3), "{:?}", done.told);
        assert_eq!(rows(&now), "1x 2y 3c 4z 6f");
        assert!(done.told.iter().any(|told| told.contains(r#""v":"z""#)), "{:?}", done.told);
    }

    #[test]
    fn a_line_that_is_none_changes_nothing() {
        let mut now = database("INSERT INTO t VALUES (1, 'a');");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&mut file, &Tail::default()).unwrap();
        io::Write::write_all(&mut file, b"\n{\"acknowledged\":1}\n").unwrap();
        assert!(apply(&mut now, file.path()).is_err());
        assert_eq!(rows(&now), "1a");
    }
}
