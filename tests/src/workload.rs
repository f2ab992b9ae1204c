//! What clients do to a database while it is attacked, and what they record.
//!
//! Each door has a thread, which stays on the node's machine, and several clients.
//! They go on until they are stopped, take what they are told, and repeat nothing.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::check::list_append::Transaction;
use crate::check::registers::Keyed;
use crate::check::rows::Numbered;
use crate::check::session_reads::SessionRead;
use crate::check::{Nanos, Outcome, Timed};
use crate::namespaces;
use crate::sql::{Door, SqlClient};

mod lists;
mod registers;
mod sessions;
mod writers;

pub use writers::read_rows;

/// Between two attempts of a client that was not served.
const AGAIN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// How many clients each door has, and how often each does something.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub writers: u32,
    pub registers: u32,
    pub lists: u32,
    pub sessions: u32,
    /// From one operation of a client to the next.
    pub pause: Duration,
    /// Whether `rung.read` and `rung.token` mean something to the server.
    pub is_rung: bool,
    /// How transactions on lists begin.
    pub begin: &'static str,
}

impl Mix {
    /// Only numbered rows.
    pub const WRITERS: Mix = Mix {
        writers: 3,
        registers: 0,
        lists: 0,
        sessions: 0,
        pause: Duration::from_millis(5),
        ..Mix::ALL
    };
    /// Only histories.
    pub const HISTORIES: Mix = Mix { writers: 1, registers: 3, lists: 3, sessions: 1, ..Mix::ALL };
    pub const ALL: Mix = Mix {
        writers: 3,
        registers: 2,
        lists: 2,
        sessions: 1,
        pause: Duration::from_millis(10),
        is_rung: true,
        begin: "BEGIN ISOLATION LEVEL SERIALIZABLE",
    };
}

/// A node's two doors: the primary, wherever it is, and a copy nearby to read from.
#[derive(Clone, Debug)]
pub struct Doors {
    pub write: Door,
    pub read: Door,
}

/// What clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    begun: Instant,
    stop: AtomicBool,
    mix: Mix,
    next_client: AtomicU32,
    /// Values of registers and elements of lists; never the same twice.
    next_value: AtomicI64,
    /// Operations on registers, and on lists, so far.
    registers_used: AtomicU64,
    lists_used: AtomicU64,
    acknowledged: AtomicU64,
    records: Mutex<Records>,
    tokens: sessions::Tokens,
}

/// What clients saw.
#[derive(Clone, Default, Debug)]
pub struct Records {
    pub rows: Vec<Timed<Numbered>>,
    pub registers: Vec<Timed<Keyed>>,
    pub lists: Vec<Transaction>,
    pub sessions: Vec<SessionRead>,
    /// Reads of a session that were not answered.
    pub sessions_unanswered: u64,
}

impl Shared {
    fn now(&self) -> Nanos {
        Nanos::try_from(self.begun.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn client(&self) -> u32 {
        self.next_client.fetch_add(1, Ordering::Relaxed)
    }

    fn value(&self) -> i64 {
        self.next_value.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn record(&self, put: impl FnOnce(&mut Records)) {
        put(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The pause after an operation.
    async fn pause(&self, outcome: &Outcome) {
        let served = *outcome == Outcome::Acknowledged;
        tokio::time::sleep(if served { self.mix.pause } else { AGAIN }).await;
    }
}

/// Clients at work. Dropped, they end after what they are at.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Makes the tables, through the first door that works.
///
/// # Panics
/// When none does within a minute.
#[track_caller]
pub fn make_tables(door: &Door, mix: &Mix) {
    let statements = [
        writers::TABLES.to_owned(),
        registers::tables(mix),
        lists::tables(mix),
        sessions::tables(mix),
    ];
    let made = on_door(door, async |client| {
        for statement in statements.iter().flat_map(|text| text.split_inclusive(';')) {
            client.rows(statement).await?;
        }
        Ok(())
    });
    if let Err(outcome) = made {
        panic!("the tables are not made: {outcome:?}");
    }
}

/// Does something with one client, on a thread on the door's machine.
///
/// # Errors
/// What the client was told.
///
/// # Panics
/// When there is no such thread.
pub fn on_door<T: Send>(
    door: &Door,
    work: impl AsyncFnOnce(&mut SqlClient) -> Result<T, Outcome> + Send,
) -> Result<T, Outcome> {
    let (namespace, door) = (door.namespace.clone(), door.clone());
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let runtime = runtime(namespace.as_deref());
            runtime.block_on(async move { work(&mut SqlClient::new(door)).await })
        });
        thread.join().expect("a client's thread")
    })
}

fn runtime(namespace: Option<&std::path::Path>) -> tokio::runtime::Runtime {
    if let Some(namespace) = namespace {
        namespaces::enter(namespace).expect("the node's machine");
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl Workload {
    /// Starts the clients of every door.
    ///
    /// # Panics
    /// When there are no threads for them.
    pub fn start(doors: &[Doors], mix: Mix) -> Self {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            mix,
            next_client: AtomicU32::new(0),
            next_value: AtomicI64::new(0),
            registers_used: AtomicU64::new(0),
            lists_used: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            records: Mutex::default(),
            tokens: sessions::Tokens::default(),
        });
        let threads = doors.iter().cloned().map(|doors| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || run_door(&shared, &doors))
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    pub fn now(&self) -> Nanos {
        self.shared.now()
    }

    /// Acknowledged writers' transactions so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Until so many more transactions of writers are acknowledged.
    ///
    /// # Panics
    /// When they are not within a minute.
    #[track_caller]
    pub fn go_on_for(&self, transactions: u64) {
        let goal = self.acknowledged() + transactions;
        crate::eventually("more rows are acknowledged", PATIENCE, || self.acknowledged() >= goal);
    }

    /// From an instant to the first answer to a write that was sent after it. Writes
    /// that were under way do not count.
    ///
    /// # Panics
    /// When there is none within a minute.
    #[track_caller]
    pub fn next_acknowledged(&self, since: Nanos) -> Duration {
        crate::until("a write is acknowledged again", PATIENCE, || self.acknowledged_since(since))
    }

    /// The same, if there was one yet.
    pub fn acknowledged_since(&self, since: Nanos) -> Option<Duration> {
        let records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        first_acknowledged(&records.rows, since)
    }

    /// The longest that a writer waited for an answer that it got between two
    /// instants, and how many were not acknowledged.
    pub fn longest_stall(&self, from: Nanos, to: Nanos) -> (Duration, usize) {
        let records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        longest_stall(&records.rows, from, to)
    }

    /// Ends the clients after what they are at.
    ///
    /// # Panics
    /// When a client did.
    pub fn stop(mut self) -> Records {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a door's clients");
        }
        std::mem::take(&mut self.shared.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn first_acknowledged(rows: &[Timed<Numbered>], since: Nanos) -> Option<Duration> {
    let answers = rows.iter().filter(|row| row.invoked >= since && row.is_acknowledged());
    answers.map(|row| Duration::from_nanos(row.completed - since)).min()
}

fn longest_stall(rows: &[Timed<Numbered>], from: Nanos, to: Nanos) -> (Duration, usize) {
    let during = || rows.iter().filter(|row| row.completed >= from && row.invoked <= to);
    let longest = during().map(|row| row.completed - row.invoked).max().unwrap_or(0);
    let failed = during().filter(|row| !row.is_acknowledged()).count();
    (Duration::from_nanos(longest), failed)
}

fn run_door(shared: &Arc<Shared>, doors: &Doors) {
    let runtime = runtime(doors.write.namespace.as_deref());
    let local = LocalSet::new();
    for number in 0..shared.mix.writers {
        local.spawn_local(writers::run(Arc::clone(shared), doors.write.clone(), number));
    }
    for _ in 0..shared.mix.registers {
        local.spawn_local(registers::run(Arc::clone(shared), doors.write.clone()));
    }
    for _ in 0..shared.mix.lists {
        local.spawn_local(lists::run(Arc::clone(shared), doors.write.clone()));
    }
    for _ in 0..shared.mix.sessions {
        local.spawn_local(sessions::run(Arc::clone(shared), doors.clone()));
    }
    // Ends when all of them have ended.
    runtime.block_on(local);
}

/// Reads what the last transactions left, so that what is missing is noticed.
///
/// # Errors
/// What the client was told.
pub fn read_at_the_end(door: &Door, records: &mut Records, at: Nanos) -> Result<(), Outcome> {
    let registers = registers::used(&records.registers);
    let lists = lists::used(&records.lists);
    let (registers, lists) = on_door(door, async |client| {
        let registers = registers::read_all(client, &registers, at).await?;
        Ok((registers, lists::read_all(client, &lists, at).await?))
    })?;
    records.registers.extend(registers);
    records.lists.extend(lists);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(invoked: Nanos, completed: Nanos, outcome: Outcome) -> Timed<Numbered> {
        let what = Numbered { writer: 1, number: invoked, parts: 1 };
        Timed { client: 1, invoked, completed, outcome, what }
    }

    #[test]
    fn only_writes_sent_after_the_fault_end_the_outage() {
        let refused = Outcome::Refused(String::new());
        let rows = [
            row(0, 12, Outcome::Acknowledged),
            row(11, 13, refused),
            row(14, 30, Outcome::Acknowledged),
            row(20, 25, Outcome::Acknowledged),
        ];
        assert_eq!(first_acknowledged(&rows, 10), Some(Duration::from_nanos(15)));
        assert_eq!(first_acknowledged(&rows, 21), None);
    }

    #[test]
    fn a_stall_counts_when_it_overlaps() {
        let refused = Outcome::Refused(String::new());
        let rows = [
            row(0, 9, Outcome::Acknowledged),
            row(5, 15, Outcome::Acknowledged),
            row(18, 40, refused),
            row(21, 90, Outcome::Acknowledged),
        ];
        assert_eq!(longest_stall(&rows, 10, 20), (Duration::from_nanos(22), 1));
        assert_eq!(longest_stall(&rows, 10, 17), (Duration::from_nanos(10), 0));
    }
}
