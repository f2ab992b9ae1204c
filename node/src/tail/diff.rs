//! What differs between two states of a database, row by row.

use std::collections::BTreeMap;
use std::io::{self, Write};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::row::{Change, Line, Row, quoted, to_json};

/// A table as far as its rows are concerned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    pub name: String,
    /// Its definition.
    pub sql: String,
    /// Columns that are stored, in their order.
    pub columns: Vec<String>,
    /// What a row is known by: the primary key, or nothing where it is the rowid.
    pub key: Vec<String>,
    /// How the rowid can be named, where the table has one that is not hidden by a
    /// column.
    pub rowid: Option<&'static str>,
}

impl Table {
    /// The columns that a row is found by, as SQLite reads them.
    pub fn finders(&self) -> Vec<String> {
        match (self.key.is_empty(), self.rowid) {
            (true, Some(rowid)) => vec![rowid.to_owned()],
            _ => self.key.iter().map(|name| quoted(name)).collect(),
        }
    }

    fn select(&self) -> String {
        let columns = self.columns.iter().map(|name| quoted(name));
        let all: Vec<String> = self.finders().into_iter().chain(columns).collect();
        format!("SELECT {} FROM main.{}", all.join(", "), quoted(&self.name))
    }

    /// A condition that finds one row by its key.
    pub fn condition(&self) -> String {
        let each = self.finders().into_iter().enumerate();
        each.map(|(at, name)| format!("{name} IS ?{}", at + 1)).collect::<Vec<_>>().join(" AND ")
    }
}

/// The tables of a database, without those that it keeps for itself.
pub fn tables(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Table>> {
    let mut list = connection.prepare(
        "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND sql IS NOT NULL \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_rung\\_%' ESCAPE '\\'",
    )?;
    let names = list.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let names: Vec<(String, String)> = names.collect::<rusqlite::Result<_>>()?;
    let each =
        names.into_iter().map(|(name, sql)| Ok((name.clone(), table(connection, name, sql)?)));
    each.collect()
}

fn table(connection: &Connection, name: String, sql: String) -> rusqlite::Result<Table> {
    let mut info = connection
        .prepare("SELECT name, pk FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid")?;
    let columns = info.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let columns: Vec<(String, i64)> = columns.collect::<rusqlite::Result<_>>()?;
    let mut key: Vec<&(String, i64)> = columns.iter().filter(|(_, place)| *place > 0).collect();
    key.sort_by_key(|(_, place)| *place);
    let key: Vec<String> = key.into_iter().map(|(name, _)| name.clone()).collect();
    let is_free = |rowid: &&str| columns.iter().all(|(name, _)| !name.eq_ignore_ascii_case(rowid));
    let rowid = ["rowid", "_rowid_", "oid"].into_iter().find(is_free);
    let columns = columns.into_iter().map(|(name, _)| name).collect();
    Ok(Table { name, sql, columns, key, rowid })
}

/// Writes a line for each difference and says how many rows differ.
///
/// # Errors
/// When either database cannot be read or the lines not be written.
pub fn write(
    before: &Connection,
    after: &Connection,
    acknowledged: bool,
    out: &mut impl Write,
) -> io::Result<u64> {
    let (old, new) = (sql(tables(before))?, sql(tables(after))?);
    let mut lines = Lines { acknowledged, out, rows: 0 };
    for (name, table) in &new {
        let former = old.get(name);
        if former.is_none_or(|former| former.sql != table.sql) {
            lines.schema(name, former, Some(table))?;
        }
        lines.changed(table, after, former.map(|former| (former, before)))?;
    }
    for (name, table) in &old {
        let later = new.get(name);
        if later.is_none() {
            lines.schema(name, Some(table), None)?;
        }
        lines.deleted(table, before, later.map(|later| (later, after)))?;
    }
    Ok(lines.rows)
}

fn sql<T>(result: rusqlite::Result<T>) -> io::Result<T> {
    result.map_err(io::Error::other)
}

struct Lines<'a, W> {
    acknowledged: bool,
    out: &'a mut W,
    rows: u64,
}

impl<W: Write> Lines<'_, W> {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        self.rows += u64::from(line.change != Change::Schema);
        serde_json::to_writer(&mut *self.out, line)?;
        self.out.write_all(b"\n")
    }

    fn new_line(&self, table: &str, change: Change) -> Line {
        let (acknowledged, table) = (self.acknowledged, table.to_owned());
        Line { acknowledged, table, change, key: Row::new(), before: None, after: None }
    }

    fn schema(
        &mut self,
        name: &str,
        before: Option<&Table>,
        after: Option<&Table>,
    ) -> io::Result<()> {
        let sql = |table: &Table| Row::from_iter([("sql".to_owned(), table.sql.clone().into())]);
        let line = Line {
            before: before.map(sql),
            after: after.map(sql),
            ..self.new_line(name, Change::Schema)
        };
        self.line(&line)
    }

    /// Rows that are new or different.
    fn changed(
        &mut self,
        table: &Table,
        after: &Connection,
        former: Option<(&Table, &Connection)>,
    ) -> io::Result<()> {
        let mut rows = sql(after.prepare(&table.select()))?;
        let mut rows = sql(rows.query([]))?;
        while let Some(row) = sql(rows.next())? {
            let (key, now) = sql(read(table, row))?;
            let was = former.map(|(former, before)| find(former, before, &key)).transpose();
            let was = sql(was)?.flatten();
            if was.as_ref() == Some(&now) {
                continue;
            }
            let change = if was.is_some() { Change::Update } else { Change::Insert };
            let key = named(table, &key);
            let line =
                Line { key, before: was, after: Some(now), ..self.new_line(&table.name, change) };
            self.line(&line)?;
        }
        Ok(())
    }

    /// Rows that are gone.
    fn deleted(
        &mut self,
        table: &Table,
        before: &Connection,
        later: Option<(&Table, &Connection)>,
    ) -> io::Result<()> {
        let mut rows = sql(before.prepare(&table.select()))?;
        let mut rows = sql(rows.query([]))?;
        while let Some(row) = sql(rows.next())? {
            let (key, was) = sql(read(table, row))?;
            let now = later.map(|(later, after)| find(later, after, &key)).transpose();
            if sql(now)?.flatten().is_some() {
                continue;
            }
            let key = named(table, &key);
            let line =
                Line { key, before: Some(was), ..self.new_line(&table.name, Change::Delete) };
            self.line(&line)?;
        }
        Ok(())
    }
}

fn named(table: &Table, key: &[Value]) -> Row {
    let names = match table.key.is_empty() {
        true => vec!["rowid".to_owned()],
        false => table.key.clone(),
    };
    names.into_iter().zip(key.iter().map(|value| to_json(value.into()))).collect()
}

/// The key and the columns of a row.
fn read(table: &Table, row: &rusqlite::Row<'_>) -> rusqlite::Result<(Vec<Value>, Row)> {
    let keys = table.finders().len();
    let key = (0..keys).map(|at| row.get(at)).collect::<rusqlite::Result<_>>()?;
    let columns = table.columns.iter().enumerate();
    let columns = columns.map(|(at, name)| Ok((name.clone(), to_json(row.get_ref(keys + at)?))));
    Ok((key, columns.collect::<rusqlite::Result<Row>>()?))
}

/// The row of a key, if there is one.
pub fn find(
    table: &Table,
    connection: &Connection,
    key: &[Value],
) -> rusqlite::Result<Option<Row>> {
    if table.finders().len() != key.len() {
        return Ok(None);
    }
    let text = format!("{} WHERE {}", table.select(), table.condition());
    let mut found = connection.prepare_cached(&text)?;
    found.query_row(params_from_iter(key), |row| Ok(read(table, row)?.1)).optional()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(text: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(text).unwrap();
        connection
    }

    fn lines(before: &str, after: &str) -> Vec<Line> {
        let mut out = Vec::new();
        write(&database(before), &database(after), true, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn short(line: &Line) -> String {
        let row = |row: &Option<Row>| row.as_ref().map_or("-".to_owned(), |row| format!("{row:?}"));
        format!("{:?} {:?} {} {}", line.change, line.key, row(&line.before), row(&line.after))
    }

    #[test]
    fn rows_are_told_by_their_primary_key_whatever_their_rowid() {
        let table = "CREATE TABLE t (k TEXT PRIMARY KEY, v INTEGER);";
        let found = lines(
            &format!("{table} INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3);"),
            &format!("{table} INSERT INTO t VALUES ('c', 3), ('b', 20), ('d', 4);"),
        );
        let mut found: Vec<String> = found.iter().map(short).collect();
        found.sort();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with(r#"Delete {"k": String("a")}"#), "{found:?}");
        assert!(found[1].starts_with(r#"Insert {"k": String("d")} - "#), "{found:?}");
        assert!(found[2].contains("Number(2)") && found[2].contains("Number(20)"), "{found:?}");
    }

    #[test]
    fn tables_without_a_rowid_or_without_a_key_are_compared_as_well() {
        let found = lines(
            "CREATE TABLE k (a, b, v, PRIMARY KEY (b, a)) WITHOUT ROWID; \
             INSERT INTO k VALUES (1, 2, 3); CREATE TABLE n (rowid TEXT); \
             INSERT INTO n VALUES ('x');",
            "CREATE TABLE k (a, b, v, PRIMARY KEY (b, a)) WITHOUT ROWID; \
             INSERT INTO k VALUES (1, 2, 4); CREATE TABLE n (rowid TEXT); \
             INSERT INTO n VALUES ('x'), ('y');",
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].change, Change::Update);
        assert_eq!((found[1].change, found[1].key["rowid"].as_i64()), (Change::Insert, Some(2)));
    }

    #[test]
    fn a_table_that_is_new_or_gone_or_different_is_said_to_be_so() {
        let found = lines(
            "CREATE TABLE a (x INTEGER PRIMARY KEY); INSERT INTO a VALUES (1); CREATE TABLE b (x);",
            "CREATE TABLE c (x INTEGER PRIMARY KEY); INSERT INTO c VALUES (7); \
             CREATE TABLE b (x, y);",
        );
        let told: Vec<(&str, Change)> =
            found.iter().map(|line| (line.table.as_str(), line.change)).collect();
        let expected = [
            ("b", Change::Schema),
            ("c", Change::Schema),
            ("c", Change::Insert),
            ("a", Change::Schema),
            ("a", Change::Delete),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_the_database_keeps_for_itself_is_left_out() {
        let found = lines("CREATE TABLE _rung_meta (x);", "CREATE TABLE _rung_other (x);");
        assert_eq!(found, []);
    }
}
