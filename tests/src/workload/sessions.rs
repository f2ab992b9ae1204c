//! Sessions: a program on a node that raises a counter through the primary's URL,
//! reads all counters through the other one, and passes tokens on to programs on
//! other nodes.

use std::sync::{Arc, Mutex, PoisonError};

use rand::RngExt;

use super::{Doors, Mix, Shared};
use crate::check::Outcome;
use crate::check::session_reads::SessionRead;
use crate::sql::SqlClient;

/// More than there are doors.
const COUNTERS: u32 = 64;
const TOKENS: usize = 64;

/// What a token stands for.
#[derive(Clone, Debug)]
struct Note {
    token: String,
    owed: Vec<i64>,
}

/// The last notes of everybody.
#[derive(Default, Debug)]
pub struct Tokens {
    notes: Mutex<Vec<Note>>,
}

impl Tokens {
    fn put(&self, note: Note) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() == TOKENS {
            notes.remove(0);
        }
        notes.push(note);
    }

    /// The newest, or one of the past.
    fn take(&self) -> Option<Note> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match rand::rng().random_range(0..3) {
            0 if !notes.is_empty() => rand::rng().random_range(0..notes.len()),
            _ => notes.len().checked_sub(1)?,
        };
        Some(notes[index].clone())
    }
}

pub fn tables(mix: &Mix) -> String {
    if mix.sessions == 0 {
        return String::new();
    }
    let rows: Vec<String> = (0..COUNTERS).map(|writer| format!("({writer}, 0)")).collect();
    format!(
        "CREATE TABLE counters (writer int PRIMARY KEY, value bigint NOT NULL);\
         INSERT INTO counters (writer, value) VALUES {}",
        rows.join(", ")
    )
}

/// One program.
struct Program {
    index: usize,
    writes: SqlClient,
    reads: SqlClient,
    /// Has a position only by the tokens that it is given.
    guest: SqlClient,
}

pub async fn run(shared: Arc<Shared>, doors: Doors) {
    let index = shared.client() as usize;
    assert!(index < COUNTERS as usize, "there are not enough counters");
    let mut program = Program {
        index,
        writes: SqlClient::new(doors.write.clone()),
        reads: SqlClient::new(doors.read.clone()),
        guest: SqlClient::new(doors.read.clone()),
    };
    let mut raised = 0;
    while shared.goes_on() {
        let lives = doors.write.lives();
        let mut outcome = Outcome::Acknowledged;
        match program.raise().await {
            Ok(value) => raised = value,
            Err(failed) => outcome = failed,
        }
        // A node that was killed has forgotten what its programs saw; they died with it.
        let session = format!("{} (life {lives}, program {index})", doors.write.node);
        let mut owed = vec![0; index + 1];
        owed[index] = if lives == doors.write.lives() { raised } else { 0 };
        if outcome == Outcome::Acknowledged {
            let read = program.read(&shared, session.clone(), owed).await;
            outcome = read.err().unwrap_or(outcome);
            if shared.mix.is_rung {
                program.pass_tokens(&shared, &session).await;
            }
        }
        if doors.write.lives() != lives {
            raised = 0;
        }
        shared.pause(&outcome).await;
    }
}

impl Program {
    /// Raises the program's counter, and says to what.
    async fn raise(&mut self) -> Result<i64, Outcome> {
        let update = format!(
            "UPDATE counters SET value = value + 1 WHERE writer = {} RETURNING value",
            self.index
        );
        let rows = self.writes.rows(&update).await?;
        Ok(rows[0][0].parse().expect("a counter"))
    }

    async fn read(
        &mut self,
        shared: &Shared,
        session: String,
        owed: Vec<i64>,
    ) -> Result<(), Outcome> {
        let at = shared.now();
        let lives = self.reads.door().lives();
        match seen(&mut self.reads).await {
            Ok(seen) => {
                // Whether it was killed before or after the read is not known.
                if lives == self.reads.door().lives() {
                    let read = SessionRead { session, at, seen, owed };
                    shared.record(|records| records.sessions.push(read));
                }
                Ok(())
            }
            Err(outcome) => {
                shared.record(|records| records.sessions_unanswered += 1);
                Err(outcome)
            }
        }
    }

    /// Leaves a token of what this program has seen, and reads what another's
    /// promises.
    async fn pass_tokens(&mut self, shared: &Shared, session: &str) {
        let seen_here = seen(&mut self.reads).await;
        let shown = self.reads.rows("SHOW rung.token").await;
        if let (Ok(owed), Ok(shown)) = (seen_here, shown) {
            let token = shown.first().and_then(|row| row.first()).cloned().unwrap_or_default();
            if !token.is_empty() {
                shared.tokens.put(Note { token, owed });
            }
        }
        let Some(Note { token, owed }) = shared.tokens.take() else { return };
        let at = shared.now();
        if self.guest.rows(&format!("SET rung.token = '{token}'")).await.is_err() {
            return;
        }
        if let Ok(seen) = seen(&mut self.guest).await {
            let session = format!("{session} as a guest after {at}");
            let read = SessionRead { session, at, seen, owed };
            shared.record(|records| records.sessions.push(read));
        }
    }
}

async fn seen(client: &mut SqlClient) -> Result<Vec<i64>, Outcome> {
    let rows = client.rows("SELECT value FROM counters ORDER BY writer").await?;
    Ok(rows.iter().map(|row| row[0].parse().expect("a counter")).collect())
}
