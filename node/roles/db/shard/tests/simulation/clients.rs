//! Clients that write, in one statement and in transactions, and read at all levels.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rung_shard::WriteTransaction;
use rung_shard::{Cancel, Length, Part, ReadLevel, Shard, ShardError, Token, Trial, Turn, Verdict};
use rung_sql::{Executor, SqlError, SqlState};
use rusqlite::Connection;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::history::{Id, Kind, Level, Operation, Outcome, Place, Seen, check_snapshot};
use crate::node::Life;

const REGISTERS: i64 = 3;

pub const TABLES: &str = "CREATE TABLE place(place INTEGER PRIMARY KEY, id); \
     CREATE TABLE list(register, version, id, note, PRIMARY KEY (register, version)); \
     CREATE TABLE last(register INTEGER PRIMARY KEY, id); \
     CREATE TABLE count(register INTEGER PRIMARY KEY, n)";

/// What all clients share.
pub struct World {
    pub cluster: Arc<Cluster>,
    pub over: AtomicBool,
    ids: AtomicI64,
    /// What each transaction appends to.
    registers: Mutex<BTreeMap<Id, Vec<i64>>>,
    operations: Mutex<Vec<Operation>>,
}

impl World {
    pub fn new(cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            over: AtomicBool::new(false),
            ids: AtomicI64::new(1),
            registers: Mutex::default(),
            operations: Mutex::default(),
        })
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.operations.lock().unwrap().clone()
    }

    /// Looks at a snapshot by itself.
    pub fn check(&self, who: &str, seen: &Seen) {
        let checked = check_snapshot(seen, &self.registers.lock().unwrap());
        if let Err(what) = checked {
            self.cluster.wrong(format!("{who}: {what}"));
        }
    }

    /// A new transaction that will append to these registers.
    pub fn transaction(&self, registers: Vec<i64>) -> Id {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.registers.lock().unwrap().insert(id, registers);
        id
    }
}

/// Takes the next place for a transaction.
pub fn take_place(connection: &Connection, id: Id) -> rusqlite::Result<Place> {
    let sql = "INSERT INTO place SELECT coalesce(max(place), 0) + 1, ?1 FROM place RETURNING place";
    connection.prepare_cached(sql)?.query_row([id], |row| row.get(0))
}

/// Counts a transaction that appends to a register, and appends it.
pub fn append(connection: &Connection, register: i64, id: Id) -> rusqlite::Result<()> {
    count(connection, register)?;
    append_counted(connection, register, id)
}

/// Counts a transaction that appends to a register.
fn count(connection: &Connection, register: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO count VALUES (?1, 1) ON CONFLICT (register) DO UPDATE SET n = n + 1";
    connection.prepare_cached(sql)?.execute([register]).map(drop)
}

/// How many transactions were counted.
fn counted(connection: &Connection, register: i64) -> rusqlite::Result<i64> {
    let sql = "SELECT n FROM count WHERE register = ?1";
    connection.prepare_cached(sql)?.query_row([register], |row| row.get(0))
}

fn append_counted(connection: &Connection, register: i64, id: Id) -> rusqlite::Result<()> {
    // The notes make pages fill, split and be freed.
    let sql = "INSERT INTO list SELECT ?1, coalesce(max(version), 0) + 1, ?2, \
               hex(randomblob(abs(random()) % 120)) FROM list WHERE register = ?1";
    connection.prepare_cached(sql)?.execute([register, id])?;
    let sql = "INSERT INTO last VALUES (?1, ?2) ON CONFLICT (register) DO UPDATE SET id = ?2";
    connection.prepare_cached(sql)?.execute([register, id]).map(drop)
}

/// All that there is, in one snapshot.
pub fn look(connection: &Connection) -> rusqlite::Result<Seen> {
    let mut places = connection.prepare_cached("SELECT place, id FROM place ORDER BY place")?;
    let places = places.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut seen = Seen { places: places.collect::<Result<_, _>>()?, ..Seen::default() };
    let sql = "SELECT register, version, id FROM list ORDER BY register, version";
    let mut lists = connection.prepare_cached(sql)?;
    let mut rows = lists.query([])?;
    while let Some(row) = rows.next()? {
        seen.lists.entry(row.get(0)?).or_default().push((row.get(1)?, row.get(2)?));
    }
    let mut last = connection.prepare_cached("SELECT register, id FROM last")?;
    let last = last.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    seen.last = last.collect::<Result<_, _>>()?;
    Ok(seen)
}

fn in_short(error: &ShardError) -> &'static str {
    match error {
        ShardError::NotPrimary { .. } => "not primary",
        ShardError::Lost => "lost",
        ShardError::NoQuorum => "no quorum",
        ShardError::Changed => "changed",
        ShardError::Overloaded(what) | ShardError::TimedOut(what) => what,
        ShardError::Canceled => "canceled",
        ShardError::DiskFull => "disk full",
        ShardError::Stopped(_) => "stopped",
        ShardError::Failed(_) => "failed",
        _ => "another reason",
    }
}

/// How a transaction of several statements is executed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Held,
    /// On a snapshot first; its place must be the same when it is committed.
    DraftOfPlace,
    /// On a snapshot first, at whatever place it is committed.
    DraftOfAny,
    /// As that, and what it has read of the rows that it has changed need not be read again.
    DraftOfRows,
}

type Taken = Result<(Place, Vec<(Place, Id)>), Box<SqlError>>;

fn of_place(taken: &Taken) -> Result<u64, Box<SqlError>> {
    taken.as_ref().map(|(place, _)| *place as u64).map_err(Box::clone)
}

fn of_any_place(taken: &Taken) -> Result<u64, Box<SqlError>> {
    of_place(taken).map(|_| 0)
}

fn sql(error: rusqlite::Error) -> Box<SqlError> {
    Box::new(SqlError::new(SqlState::INTERNAL, error.to_string()))
}

/// One client, which is one session.
pub struct Client {
    world: Arc<World>,
    number: u64,
    rng: StdRng,
    session: Option<Token>,
}

impl Client {
    pub fn new(world: &Arc<World>, seed: u64, number: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(97).wrapping_add(number));
        Self { world: Arc::clone(world), number, rng, session: None }
    }

    pub async fn work(mut self) {
        while !self.world.over.load(Ordering::Relaxed) {
            sleep(Duration::from_micros(self.rng.random_range(0..12_000))).await;
            let Some(life) = self.choose() else { continue };
            let deadline = Duration::from_millis(self.rng.random_range(20..300));
            match self.rng.random_range(0..10) {
                0..4 => self.write(&life, deadline).await,
                4 | 5 => self.transact(&life, deadline).await,
                6 => self.read_twice(&life, deadline).await,
                _ => self.read(&life, deadline).await,
            }
        }
    }

    fn choose(&mut self) -> Option<Life> {
        if self.rng.random_bool(0.7)
            && let Some((_, life)) = self.world.cluster.primary()
        {
            return Some(life);
        }
        let running = self.world.cluster.running();
        let at = self.rng.random_range(0..running.len().max(1));
        running.into_iter().nth(at).map(|(_, life)| life)
    }

    fn registers(&mut self) -> Vec<i64> {
        let first = self.rng.random_range(0..REGISTERS);
        let second = (first + 1) % REGISTERS;
        if self.rng.random_bool(0.5) { vec![first] } else { vec![first, second] }
    }

    fn saw(&self, kind: Kind, began: Instant) {
        let operation = Operation { client: self.number, kind, began, ended: Instant::now() };
        self.world.operations.lock().unwrap().push(operation);
    }

    /// Notes what a write has come to.
    fn wrote(
        &mut self,
        id: Id,
        written: Result<(Option<Place>, Token), ShardError>,
        began: Instant,
    ) {
        let outcome = match written {
            Ok((Some(place), token)) => {
                self.session = self.session.filter(|seen| seen.sequence > token.sequence);
                self.session = self.session.or(Some(token));
                Outcome::Done { place, sequence: token.sequence }
            }
            Err(ShardError::OutcomeUnknown) => Outcome::Unknown,
            Ok((None, _)) => Outcome::Refused("it changed its mind"),
            Err(error) => Outcome::Refused(in_short(&error)),
        };
        self.saw(Kind::Write { id, outcome }, began);
    }

    async fn write(&mut self, life: &Life, deadline: Duration) {
        let registers = self.registers();
        let id = self.world.transaction(registers.clone());
        let changes_mind = self.rng.random_bool(0.1);
        let work = move |executor: &mut Executor| {
            let connection = executor.connection();
            let written = take_place(connection, id).and_then(|place| {
                registers.iter().try_for_each(|register| append(connection, *register, id))?;
                Ok(place)
            });
            match written {
                Ok(place) if !changes_mind => Verdict::Keep(Some(place)),
                _ => Verdict::Undo(None),
            }
        };
        let began = Instant::now();
        let cancel = Cancel::new();
        let is_short = self.rng.random_bool(0.5);
        let write = async {
            match is_short {
                // On this thread, if the writer is free.
                true => life.shard.write_short(deadline, &cancel, |_| Length::Short, work).await,
                false => life.shard.write(deadline, &cancel, work).await,
            }
        };
        let written = tokio::select! {
            biased;
            () = life.crash() => Err(ShardError::OutcomeUnknown),
            written = write => written,
        };
        self.wrote(id, written, began);
    }

    /// The same in a transaction of several statements, which may be given up.
    async fn transact(&mut self, life: &Life, deadline: Duration) {
        let registers = self.registers();
        let id = self.world.transaction(registers.clone());
        let began = Instant::now();
        let transacted = tokio::select! {
            biased;
            () = life.crash() => Err(ShardError::OutcomeUnknown),
            transacted = self.statements(&life.shard, id, &registers, deadline) => transacted,
        };
        self.wrote(id, transacted, began);
    }

    async fn statements(
        &mut self,
        shard: &Shard,
        id: Id,
        registers: &[i64],
        deadline: Duration,
    ) -> Result<(Option<Place>, Token), ShardError> {
        let (began, cancel) = (Instant::now(), Cancel::new());
        let failed = |error: Box<SqlError>| ShardError::Failed(error.message);
        let way = match self.rng.random_range(0..5) {
            0 => Way::Held,
            1 => Way::DraftOfPlace,
            2 => Way::DraftOfAny,
            _ => Way::DraftOfRows,
        };
        let mut transaction = match way {
            Way::Held => shard.begin(deadline, &cancel).await?,
            _ => shard.begin_draft(deadline, &cancel).await?,
        };
        let counts_first = way == Way::DraftOfRows;
        if counts_first {
            self.count_first(&mut transaction, id, registers, deadline).await?;
        }
        // Executed twice, a draft may come to another place the second time.
        let taken = Arc::new(AtomicI64::new(0));
        let takes = Arc::clone(&taken);
        let first = move |executor: &mut Executor, _: &Turn| {
            let connection = executor.connection();
            let place = take_place(connection, id).map_err(sql)?;
            takes.store(place, Ordering::Relaxed);
            Ok((place, look(connection).map_err(sql)?.places))
        };
        // Each is tried, whatever others have come to.
        let key = id as u64;
        let is_of_any = matches!(way, Way::DraftOfAny | Way::DraftOfRows);
        let outcome = if is_of_any { of_any_place } else { of_place };
        let trial = Trial::Kept { key, outcome, part: Part::Write };
        let place = transaction.try_short(deadline, &cancel, trial, |_| Length::Short, first);
        let (place, places) = place.await?.map_err(failed)?;
        if places.last() != Some(&(place, id)) || places.len() as i64 != place {
            self.world.cluster.wrong(format!("{id} is not the last at its place {place}"));
        }
        let last = places.iter().rev().nth(1).map(|(_, id)| *id);
        self.saw(Kind::Peek { place: place - 1, last }, began);
        for register in registers.iter().copied() {
            sleep(Duration::from_micros(self.rng.random_range(0..6_000))).await;
            let next = move |executor: &mut Executor| {
                let append = if counts_first { append_counted } else { append };
                append(executor.connection(), register, id).map_err(sql)
            };
            let appended = match self.rng.random_bool(0.7) {
                true => {
                    let next = move |executor: &mut Executor, _: &Turn| next(executor);
                    let outcome =
                        |appended: &Result<(), Box<SqlError>>| appended.clone().map(|()| 0);
                    let trial = Trial::Kept { key, outcome, part: Part::Write };
                    transaction.try_short(deadline, &cancel, trial, |_| Length::Short, next).await?
                }
                false => transaction.run(deadline, &cancel, next).await?,
            };
            appended.map_err(failed)?;
        }
        match self.rng.random_range(0..10) {
            0 => transaction.rollback().await,
            1 => drop(transaction),
            _ => {
                let token = transaction.commit(deadline).await?;
                let last = taken.load(Ordering::Relaxed);
                return Ok((Some(if is_of_any { last } else { place }), token));
            }
        }
        Err(ShardError::Canceled)
    }

    /// Counts it at its registers, and reads the counts back.
    async fn count_first(
        &mut self,
        transaction: &mut WriteTransaction,
        id: Id,
        registers: &[i64],
        deadline: Duration,
    ) -> Result<(), ShardError> {
        let (cancel, key) = (Cancel::new(), id as u64);
        let failed = |error: Box<SqlError>| ShardError::Failed(error.message);
        for register in registers.iter().copied() {
            let counts = move |executor: &mut Executor, _: &Turn| {
                count(executor.connection(), register).map_err(sql)
            };
            let outcome = |counted: &Result<(), Box<SqlError>>| counted.clone().map(|()| 0);
            let claims = self.rng.random_bool(0.5);
            let part = if claims { Part::ConditionalWrite } else { Part::RowWrite };
            let trial = Trial::Kept { key, outcome, part };
            let done = transaction.try_short(deadline, &cancel, trial, |_| Length::Short, counts);
            done.await?.map_err(failed)?;
            sleep(Duration::from_micros(self.rng.random_range(0..3_000))).await;
            let began = Instant::now();
            let reads = move |executor: &mut Executor, _: &Turn| {
                counted(executor.connection(), register).map_err(sql)
            };
            let outcome = |read: &Result<i64, Box<SqlError>>| read.clone().map(|n| n as u64);
            let trial = Trial::Kept { key, outcome, part: Part::CommittedRead };
            let read = transaction.try_short(deadline, &cancel, trial, |_| Length::Short, reads);
            let version = read.await?.map_err(failed)?;
            self.saw(Kind::Own { id, register, version }, began);
            sleep(Duration::from_micros(self.rng.random_range(0..3_000))).await;
        }
        Ok(())
    }

    fn level(&mut self) -> (Level, ReadLevel) {
        match (self.rng.random_range(0..5), self.session) {
            (0, _) | (1, None) => (Level::Any, ReadLevel::Any),
            (1, Some(token)) => (Level::Session, ReadLevel::Session(token)),
            (2, _) => {
                let age = Duration::from_millis(self.rng.random_range(0..300));
                (Level::Bounded(age), ReadLevel::Bounded(age))
            }
            _ => (Level::Linearizable, ReadLevel::Linearizable),
        }
    }

    fn read_done(&mut self, level: Level, seen: &Seen, token: Token, began: Instant) {
        let read = format!("a read at {level:?} with {token}");
        self.world.check(&read, seen);
        if level == Level::Session {
            if self.session.is_some_and(|session| session.sequence > token.sequence) {
                self.world.cluster.wrong(format!("{read} comes after {:?}", self.session));
            }
            self.session = Some(token);
        }
        let place = seen.places.len() as Place;
        let last = seen.places.last().map(|(_, id)| *id);
        self.saw(Kind::Read { level, place, last, sequence: token.sequence }, began);
    }

    async fn read(&mut self, life: &Life, deadline: Duration) {
        let (level, read_level) = self.level();
        let began = Instant::now();
        let cancel = Cancel::new();
        let work = |executor: &mut Executor, _: &Turn| look(executor.connection());
        let read = tokio::select! {
            biased;
            () = life.crash() => return,
            read = life.shard.read(read_level, deadline, &cancel, work) => read,
        };
        if let Ok((Ok(seen), token)) = read {
            self.read_done(level, &seen, token, began);
        }
    }

    /// Reads twice in one transaction, which must see the same.
    async fn read_twice(&mut self, life: &Life, deadline: Duration) {
        let (level, read_level) = self.level();
        let pause = Duration::from_micros(self.rng.random_range(0..40_000));
        let began = Instant::now();
        let cancel = Cancel::new();
        let reads = async {
            let work = |executor: &mut Executor, _: &Turn| look(executor.connection());
            let mut transaction = life.shard.begin_read(read_level, deadline).await.ok()?;
            let first = transaction.run(deadline, &cancel, work).await.ok()?.ok()?;
            sleep(pause).await;
            let second = transaction.run(deadline, &cancel, work).await.ok()?.ok()?;
            Some((first, second, transaction.token()))
        };
        let read = tokio::select! {
            biased;
            () = life.crash() => return,
            read = reads => read,
        };
        let Some((first, second, token)) = read else { return };
        if first != second {
            self.world.cluster.wrong(format!("a transaction that reads at {token} saw two states"));
        }
        self.read_done(level, &first, token, began);
    }
}
