//! Who may log in, and who is.

use std::num::NonZeroU32;

use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, pbkdf2};

use crate::database::{Database, Error};

const ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).expect("not zero");
const MAX_NAME: usize = 50;
const MIN_PASSWORD: usize = 8;
const MAX_PASSWORD: usize = 200;

pub struct Account {
    pub id: String,
    pub name: String,
}

/// What comes of an attempt to sign up or to log in.
pub enum Entry {
    /// The secret that the browser keeps.
    Session(String),
    /// Why not, for the visitor.
    Refused(&'static str),
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system's random source failed");
    bytes
}

/// A random id in the form of a UUID, version 4.
pub fn random_id() -> String {
    let mut bytes = random::<16>();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex(&bytes);
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn token_hash(token: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, token.as_bytes()).as_ref().to_vec()
}

/// Slow on purpose, so not on a thread that serves others.
async fn password_hash(salt: Vec<u8>, password: String) -> Vec<u8> {
    let derive = move || {
        let mut hash = vec![0; 32];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, ROUNDS, &salt, password.as_bytes(), &mut hash);
        hash
    };
    tokio::task::spawn_blocking(derive).await.expect("deriving does not panic")
}

pub async fn sign_up(database: &Database, name: &str, password: &str) -> Result<Entry, Error> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Ok(Entry::Refused("A name has 1 to 50 characters."));
    }
    if !(MIN_PASSWORD..=MAX_PASSWORD).contains(&password.len()) {
        return Ok(Entry::Refused("A password has 8 to 200 characters."));
    }
    let (id, salt) = (random_id(), random::<16>().to_vec());
    let hash = password_hash(salt.clone(), password.to_owned()).await;
    let owner = database
        .run(async |client| {
            // An earlier attempt may have made the row; then the id is ours.
            let insert = "INSERT INTO accounts (id, name, salt, password_hash) \
                          VALUES ($1::text::uuid, $2, $3, $4) ON CONFLICT (name) DO NOTHING";
            client.execute(insert, &[&id, &name, &salt, &hash]).await?;
            let select = "SELECT id::text FROM accounts WHERE name = $1";
            let row = client.query_one(select, &[&name]).await?;
            Ok(row.get::<_, String>(0))
        })
        .await?;
    if owner != id {
        return Ok(Entry::Refused("Somebody has that name already."));
    }
    open_session(database, &id).await.map(Entry::Session)
}

pub async fn log_in(database: &Database, name: &str, password: &str) -> Result<Entry, Error> {
    const REFUSED: Entry = Entry::Refused("Name and password do not fit.");
    let found = database
        .run(async |client| {
            let select = "SELECT id::text, salt, password_hash FROM accounts WHERE name = $1";
            client.query_opt(select, &[&name.trim()]).await
        })
        .await?;
    if password.len() > MAX_PASSWORD {
        return Ok(REFUSED);
    }
    // A name that nobody has takes as long as one that somebody has.
    let (id, salt, expected) = match &found {
        Some(row) => (row.get::<_, String>(0), row.get(1), row.get::<_, Vec<u8>>(2)),
        None => (String::new(), vec![0; 16], Vec::new()),
    };
    let hash = password_hash(salt, password.to_owned()).await;
    // Both are hashes of a secret, so that comparing them tells nothing by its time.
    if found.is_none() || token_hash(&hex(&hash)) != token_hash(&hex(&expected)) {
        return Ok(REFUSED);
    }
    open_session(database, &id).await.map(Entry::Session)
}

async fn open_session(database: &Database, account: &str) -> Result<String, Error> {
    let token = hex(&random::<32>());
    let hash = token_hash(&token);
    database
        .run(async |client| {
            let insert = "INSERT INTO sessions (token_hash, account) VALUES ($1, $2::text::uuid) \
                          ON CONFLICT (token_hash) DO NOTHING";
            client.execute(insert, &[&hash, &account]).await
        })
        .await?;
    Ok(token)
}

/// Whose session it is, if it is one.
pub async fn of_session(database: &Database, token: &str) -> Result<Option<Account>, Error> {
    let hash = token_hash(token);
    let found = database
        .run(async |client| {
            let select = "SELECT accounts.id::text, accounts.name FROM sessions \
                          JOIN accounts ON accounts.id = sessions.account \
                          WHERE sessions.token_hash = $1";
            client.query_opt(select, &[&hash]).await
        })
        .await?;
    Ok(found.map(|row| Account { id: row.get(0), name: row.get(1) }))
}

pub async fn log_out(database: &Database, token: &str) -> Result<(), Error> {
    let hash = token_hash(token);
    let delete = "DELETE FROM sessions WHERE token_hash = $1";
    database.run(async |client| client.execute(delete, &[&hash]).await).await?;
    Ok(())
}
