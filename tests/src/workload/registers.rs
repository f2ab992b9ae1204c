//! Registers: reads, writes, and writes that insist on what was there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand::RngExt;

use super::{Mix, Nanos, Shared};
use crate::check::registers::{Keyed, Register};
use crate::check::{Outcome, Timed};
use crate::sql::{Door, SqlClient};

const REGISTERS: u64 = 2000;
/// So many are in use at a time, and after so many operations the next ones are:
/// long histories of one register take long to check.
const AT_A_TIME: u64 = 3;
const OPERATIONS: u64 = 600;
/// Reads by the last check are this client's.
pub(super) const LAST_READER: u32 = u32::MAX;

pub fn tables(mix: &Mix) -> String {
    if mix.registers == 0 {
        return String::new();
    }
    let rows: Vec<String> = (0..REGISTERS).map(|key| format!("({key}, 0)")).collect();
    format!(
        "CREATE TABLE registers (key int PRIMARY KEY, value bigint NOT NULL);\
         INSERT INTO registers (key, value) VALUES {}",
        rows.join(", ")
    )
}

/// The settings of a connection whose reads are to be linearizable.
pub(super) fn linearizable(door: &Door, mix: &Mix) -> Door {
    if mix.is_rung { door.with_settings("SET rung.read = 'linearizable'") } else { door.clone() }
}

pub async fn run(shared: Arc<Shared>, door: Door) {
    let id = shared.client();
    let mut client = SqlClient::new(linearizable(&door, &shared.mix));
    // What this client believes is there, for its swaps.
    let mut believed = (0, 0);
    while shared.goes_on() {
        let block = shared.registers_used.fetch_add(1, Ordering::Relaxed) / OPERATIONS;
        let key = block * AT_A_TIME + rand::rng().random_range(0..AT_A_TIME);
        if key >= REGISTERS {
            return;
        }
        let key = u32::try_from(key).expect("few registers");
        let intent = match rand::rng().random_range(0..10) {
            0..4 => Register::Read(0),
            4..7 => Register::Write(shared.value()),
            _ if believed.0 == key => Register::Swap { from: believed.1, to: shared.value() },
            _ => Register::Read(0),
        };
        let invoked = shared.now();
        let result = ask(&mut client, key, intent).await;
        let completed = shared.now();
        let outcome = result.clone().err().unwrap_or(Outcome::Acknowledged);
        // A read without an answer, and a swap that did not fit, say nothing.
        let register = match (intent, result) {
            (Register::Read(_), Err(_)) | (_, Ok(None)) => None,
            (intent, Err(_)) => Some(intent),
            (_, Ok(Some(done))) => Some(done),
        };
        if let Some(register) = register {
            let value = match register {
                Register::Read(value) | Register::Write(value) => value,
                Register::Swap { to, .. } => to,
            };
            believed = (key, value);
            let (client, what) = (id, Keyed { key, register });
            let timed = Timed { client, invoked, completed, outcome: outcome.clone(), what };
            shared.record(|records| records.registers.push(timed));
        }
        shared.pause(&outcome).await;
    }
}

/// What was done, if it was.
async fn ask(
    client: &mut SqlClient,
    key: u32,
    intent: Register,
) -> Result<Option<Register>, Outcome> {
    let key = i32::try_from(key).expect("few registers");
    let changed = match intent {
        Register::Read(_) => {
            let query = "SELECT value FROM registers WHERE key = $1";
            let row = client.run(async |client| client.query_one(query, &[&key]).await).await?;
            return Ok(Some(Register::Read(row.get(0))));
        }
        Register::Write(value) => {
            let update = "UPDATE registers SET value = $2 WHERE key = $1";
            client.run(async |client| client.execute(update, &[&key, &value]).await).await?
        }
        Register::Swap { from, to } => {
            let update = "UPDATE registers SET value = $3 WHERE key = $1 AND value = $2";
            client.run(async |client| client.execute(update, &[&key, &from, &to]).await).await?
        }
    };
    Ok((changed == 1).then_some(intent))
}

/// The registers of a history.
pub fn used(history: &[Timed<Keyed>]) -> BTreeSet<u32> {
    history.iter().map(|timed| timed.what.key).collect()
}

/// Reads each once more.
pub async fn read_all(
    client: &mut SqlClient,
    keys: &BTreeSet<u32>,
    at: Nanos,
) -> Result<Vec<Timed<Keyed>>, Outcome> {
    let mut reads = Vec::new();
    for key in keys {
        let Some(register) = ask(client, *key, Register::Read(0)).await? else { continue };
        reads.push(Timed {
            client: LAST_READER,
            invoked: at,
            completed: at + 1,
            outcome: Outcome::Acknowledged,
            what: Keyed { key: *key, register },
        });
    }
    Ok(reads)
}
