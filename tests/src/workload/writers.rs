//! Writers of numbered rows: half of them by single statements, half by
//! transactions of two.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Shared, on_door};
use crate::check::rows::{Numbered, Row};
use crate::check::{Outcome, Timed};
use crate::sql::{Door, SqlClient};

/// Nothing is unique, so that what is done twice shows.
pub const TABLES: &str = "CREATE TABLE numbered \
    (writer int NOT NULL, number bigint NOT NULL, part int NOT NULL)";

pub async fn run(shared: Arc<Shared>, door: Door, index: u32) {
    let writer = shared.client();
    let mut client = SqlClient::new(door);
    let mut number = 0;
    while shared.goes_on() {
        number += 1;
        let parts = if index % 2 == 1 { 2 } else { 1 };
        let what = Numbered { writer, number, parts };
        let invoked = shared.now();
        let result = if parts == 1 {
            client.run(async |client| client.simple_query(&insert(what, 0)).await).await.map(drop)
        } else {
            let both = async |client: &tokio_postgres::Client| {
                client.batch_execute(&insert(what, 0)).await?;
                client.batch_execute(&insert(what, 1)).await
            };
            client.transaction("BEGIN", both).await
        };
        let outcome = result.err().unwrap_or(Outcome::Acknowledged);
        let completed = shared.now();
        let row = Timed { client: writer, invoked, completed, outcome: outcome.clone(), what };
        shared.record(|records| records.rows.push(row));
        if outcome == Outcome::Acknowledged {
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        shared.pause(&outcome).await;
    }
}

fn insert(what: Numbered, part: u32) -> String {
    let Numbered { writer, number, .. } = what;
    format!("INSERT INTO numbered (writer, number, part) VALUES ({writer}, {number}, {part})")
}

/// All rows that a door shows.
///
/// # Errors
/// What the client was told.
///
/// # Panics
/// When a value is no number.
pub fn read_rows(door: &Door) -> Result<Vec<Row>, Outcome> {
    let rows = on_door(door, async |client| {
        client.rows("SELECT writer, number, part FROM numbered").await
    })?;
    let row = |texts: Vec<String>| {
        let number = |column: usize| texts[column].parse::<u64>().expect("a number");
        let small = |column: usize| u32::try_from(number(column)).expect("a small number");
        Row { writer: small(0), number: number(1), part: small(2) }
    };
    Ok(rows.into_iter().map(row).collect())
}
