//! People: documents outside, tables inside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::database::{Database, Error};

const SHOWN: i64 = 200;
const MAX_PHONE_NUMBERS: usize = 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Person {
    pub id: i32,
    pub first_name: String,
    pub last_name: String,
    pub address: Address,
    pub phone_numbers: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Address {
    pub street_address: String,
    pub city: String,
    pub state: String,
    pub postal_code: i32,
}

impl Person {
    /// Why it is not taken, if so.
    pub fn problem(&self) -> Option<&'static str> {
        let address = &self.address;
        let texts = [&self.first_name, &self.last_name, &address.street_address];
        let texts = texts.into_iter().chain([&address.city, &address.state]);
        if self.phone_numbers.len() > MAX_PHONE_NUMBERS {
            return Some("a person has at most 20 phone numbers");
        }
        let mut all = texts.chain(&self.phone_numbers);
        all.any(|text| text.len() > 200 || text.contains('\0')).then_some("a text is too long")
    }
}

/// Puts a person in the place of the one with the same id.
pub async fn put(database: &Database, person: &Person) -> Result<(), Error> {
    let Person { id, first_name, last_name, address, phone_numbers } = person;
    database
        .run(async |client| {
            let transaction = client.transaction().await?;
            let upsert = "INSERT INTO people \
                (id, first_name, last_name, street_address, city, state, postal_code) \
                VALUES ($1, $2, $3, $4, $5, $6, $7) \
                ON CONFLICT (id) DO UPDATE SET first_name = excluded.first_name, \
                last_name = excluded.last_name, street_address = excluded.street_address, \
                city = excluded.city, state = excluded.state, postal_code = excluded.postal_code";
            let Address { street_address, city, state, postal_code } = address;
            transaction
                .execute(
                    upsert,
                    &[id, first_name, last_name, street_address, city, state, postal_code],
                )
                .await?;
            transaction.execute("DELETE FROM phone_numbers WHERE person = $1", &[id]).await?;
            for (place, number) in (1i32..).zip(phone_numbers) {
                let insert =
                    "INSERT INTO phone_numbers (person, place, number) VALUES ($1, $2, $3)";
                transaction.execute(insert, &[id, &place, number]).await?;
            }
            transaction.commit().await
        })
        .await
}

/// All, or the one with that id.
pub async fn find(database: &Database, id: Option<i32>) -> Result<Vec<Person>, Error> {
    let rows = database
        .read(async |client| {
            let select = "SELECT people.id, first_name, last_name, street_address, city, state, \
                          postal_code, number \
                          FROM people LEFT JOIN phone_numbers ON phone_numbers.person = people.id \
                          WHERE ($1::integer IS NULL OR people.id = $1) \
                          ORDER BY people.id, place LIMIT $2";
            client.query(select, &[&id, &SHOWN]).await
        })
        .await?;
    let mut people = BTreeMap::new();
    for row in &rows {
        let person = people.entry(row.get::<_, i32>(0)).or_insert_with(|| of_row(row));
        person.phone_numbers.extend(row.get::<_, Option<String>>(7));
    }
    Ok(people.into_values().collect())
}

fn of_row(row: &Row) -> Person {
    Person {
        id: row.get(0),
        first_name: row.get(1),
        last_name: row.get(2),
        address: Address {
            street_address: row.get(3),
            city: row.get(4),
            state: row.get(5),
            postal_code: row.get(6),
        },
        phone_numbers: Vec::new(),
    }
}
