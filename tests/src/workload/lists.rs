//! Lists: appends by single statements, by transactions that write back what they
//! read, and by transactions that read one list and append to another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand::RngExt;
use tokio_postgres::{Client, Error};

use super::registers::{LAST_READER, linearizable};
use super::{Mix, Nanos, Shared};
use crate::check::list_append::{Step, Transaction};
use crate::check::{Outcome, Timed};
use crate::sql::{Door, SqlClient};

const LISTS: u64 = 2000;
/// So many are in use at a time, and after so many transactions the next ones are,
/// so that lists stay short.
const AT_A_TIME: u64 = 3;
const TRANSACTIONS: u64 = 200;

pub fn tables(mix: &Mix) -> String {
    if mix.lists == 0 {
        return String::new();
    }
    let rows: Vec<String> = (0..LISTS).map(|key| format!("({key}, '')")).collect();
    format!(
        "CREATE TABLE lists (key int PRIMARY KEY, elements text NOT NULL);\
         INSERT INTO lists (key, elements) VALUES {}",
        rows.join(", ")
    )
}

/// Elements are kept as text, each with a comma after it.
fn parse(text: &str) -> Vec<i64> {
    text.split_terminator(',').map(|word| word.parse().expect("an element")).collect()
}

pub async fn run(shared: Arc<Shared>, door: Door) {
    let id = shared.client();
    let begin = shared.mix.begin;
    let mut client = SqlClient::new(linearizable(&door, &shared.mix));
    while shared.goes_on() {
        let first = shared.lists_used.fetch_add(1, Ordering::Relaxed) / TRANSACTIONS * AT_A_TIME;
        if first + AT_A_TIME > LISTS {
            return;
        }
        let first = u32::try_from(first).expect("few lists");
        let small = u32::try_from(AT_A_TIME).expect("few lists");
        let one = rand::rng().random_range(0..small);
        let other = (one + rand::rng().random_range(1..small)) % small;
        let (one, other) = (first + one, first + other);
        let kind = rand::rng().random_range(0..10);
        let elements = [shared.value(), shared.value()];
        let invoked = shared.now();
        let result = match kind {
            0..4 => append(&mut client, one, elements[0]).await,
            4..7 => write_back(&mut client, begin, one, elements[0]).await,
            7..9 => read_and_append(&mut client, begin, one, other, elements).await,
            _ => read_both(&mut client, one, other).await,
        };
        let completed = shared.now();
        let outcome = result.clone().err().unwrap_or(Outcome::Acknowledged);
        // What was read by those that failed does not matter.
        let what = result.unwrap_or_else(|_| match kind {
            0..7 => vec![appended(one, elements[0])],
            7..9 => elements.map(|element| appended(other, element)).to_vec(),
            _ => Vec::new(),
        });
        if !what.is_empty() {
            let timed = Timed { client: id, invoked, completed, outcome: outcome.clone(), what };
            shared.record(|records| records.lists.push(timed));
        }
        shared.pause(&outcome).await;
    }
}

fn appended(list: u32, element: i64) -> Step {
    Step::Append { list, element }
}

fn append_statement(list: u32, element: i64) -> String {
    format!("UPDATE lists SET elements = elements || '{element},' WHERE key = {list}")
}

async fn append(client: &mut SqlClient, list: u32, element: i64) -> Result<Vec<Step>, Outcome> {
    client.rows(&append_statement(list, element)).await?;
    Ok(vec![appended(list, element)])
}

async fn read_in(client: &Client, list: u32) -> Result<String, Error> {
    let key = i32::try_from(list).expect("few lists");
    let row = client.query_one("SELECT elements FROM lists WHERE key = $1", &[&key]).await?;
    Ok(row.get(0))
}

/// An append by a program that does it itself, as programs do.
async fn write_back(
    client: &mut SqlClient,
    begin: &str,
    list: u32,
    element: i64,
) -> Result<Vec<Step>, Outcome> {
    let body = async |client: &Client| {
        let read = read_in(client, list).await?;
        let (key, written) = (i32::try_from(list).expect("few lists"), format!("{read}{element},"));
        let update = "UPDATE lists SET elements = $2 WHERE key = $1";
        client.execute(update, &[&key, &written]).await?;
        Ok(parse(&read))
    };
    let elements = client.transaction(begin, body).await?;
    Ok(vec![Step::Read { list, elements }, appended(list, element)])
}

async fn read_and_append(
    client: &mut SqlClient,
    begin: &str,
    read: u32,
    list: u32,
    elements: [i64; 2],
) -> Result<Vec<Step>, Outcome> {
    let body = async |client: &Client| {
        let read = read_in(client, read).await?;
        for element in elements {
            client.batch_execute(&append_statement(list, element)).await?;
        }
        Ok((parse(&read), parse(&read_in(client, list).await?)))
    };
    let (before, after) = client.transaction(begin, body).await?;
    Ok(vec![
        Step::Read { list: read, elements: before },
        appended(list, elements[0]),
        appended(list, elements[1]),
        Step::Read { list, elements: after },
    ])
}

async fn read_both(client: &mut SqlClient, one: u32, other: u32) -> Result<Vec<Step>, Outcome> {
    let query =
        format!("SELECT key, elements FROM lists WHERE key IN ({one}, {other}) ORDER BY key");
    let rows = client.rows(&query).await?;
    let step = |row: &Vec<String>| Step::Read {
        list: row[0].parse().expect("a list"),
        elements: parse(&row[1]),
    };
    Ok(rows.iter().map(step).collect())
}

/// The lists of a history.
pub fn used(history: &[Transaction]) -> BTreeSet<u32> {
    let steps = history.iter().flat_map(|transaction| &transaction.what);
    let list = |step: &Step| match step {
        Step::Append { list, .. } | Step::Read { list, .. } => *list,
    };
    steps.map(list).collect()
}

/// Reads each once more.
pub async fn read_all(
    client: &mut SqlClient,
    lists: &BTreeSet<u32>,
    at: Nanos,
) -> Result<Vec<Transaction>, Outcome> {
    let mut reads = Vec::new();
    for &list in lists {
        let elements = client.run(async |client| read_in(client, list).await).await?;
        reads.push(Timed {
            client: LAST_READER,
            invoked: at,
            completed: at + 1,
            outcome: Outcome::Acknowledged,
            what: vec![Step::Read { list, elements: parse(&elements) }],
        });
    }
    Ok(reads)
}
