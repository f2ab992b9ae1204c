//! Operations on this node's copy of a shard.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use rung_proto::NodeId;
use rung_shard::{CopyState, ReadLevel, ReadTransaction, Shard, ShardError, Token, Verdict};
use rung_shard::{Length, Part, Trial, Turn, WriteTransaction};
use rung_sql::{Context, CopyIn, Executor, Kind, Scope, SqlError, SqlState};

use super::{Answer, Bounds, Call, Failure, Level, Open, Operation};
use crate::rows::{Rows, Spool};
use crate::statistics::hash_of_normal_form;

/// The transaction that a session has open.
enum Transaction {
    None,
    Snapshot(ReadTransaction),
    Writer(WriteTransaction),
}

/// A session's hands on the copy of this node.
pub(crate) struct LocalSession {
    shard: Shard,
    spool: Arc<Spool>,
    transaction: Transaction,
    /// What the transaction reads must be so when it ends.
    is_repeatable: bool,
    /// The COPY from the client that is under way.
    copy: Option<(CopyIn, Context)>,
}

/// What one execution gives: an error of the statement is a result too.
type Executed = Result<Answer, SqlError>;

impl LocalSession {
    pub fn new(shard: Shard, spool: Arc<Spool>) -> Self {
        Self { shard, spool, transaction: Transaction::None, is_repeatable: false, copy: None }
    }

    pub fn is_primary(shard: &Shard) -> bool {
        matches!(*shard.state().borrow(), CopyState::Primary { .. })
    }

    /// Who takes writes, as far as the copy knows: `me` also while it makes sure that
    /// nothing older is on its way, which writes wait for.
    pub fn primary_of(shard: &Shard, me: NodeId) -> Option<NodeId> {
        match *shard.state().borrow() {
            CopyState::Primary { .. } | CopyState::Taking { .. } => Some(me),
            CopyState::Follower { primary } => primary,
            CopyState::Stopped(_) => None,
        }
    }

    pub fn has_transaction(&self) -> bool {
        !matches!(self.transaction, Transaction::None)
    }

    /// Does it here.
    pub async fn perform(
        &mut self,
        operation: Operation,
        bounds: &Bounds,
    ) -> Result<Answer, Failure> {
        match operation {
            Operation::Describe { call, level } => {
                let level = self.level(level)?;
                self.describe(call, level, bounds).await
            }
            Operation::Read { call, level } => {
                let level = self.level(level)?;
                self.read(call, level, bounds).await
            }
            Operation::Write(call) => self.write(call, bounds).await,
            Operation::Alone(call) => self.alone(call, bounds).await,
            Operation::Run { call, open } => {
                self.open(open, is_optimistic(&call) && may_be_drafted(&call), bounds).await?;
                self.run(call, bounds).await
            }
            Operation::Savepoint(number) => {
                self.control(format!("SAVEPOINT rung_client_{number}"), bounds).await
            }
            Operation::Release(number) => {
                self.control(format!("RELEASE rung_client_{number}"), bounds).await
            }
            Operation::RollbackTo(number) => {
                self.control(format!("ROLLBACK TO rung_client_{number}"), bounds).await
            }
            Operation::Commit => self.commit(bounds).await,
            Operation::Rollback => {
                self.rollback().await;
                Ok(Answer::empty(&self.spool))
            }
            Operation::CopyIn { call, open } => {
                self.open(open, false, bounds).await?;
                self.copy_in(call, bounds).await
            }
            Operation::CopyData(data) => self.copy_data(data, bounds).await,
            Operation::CopyDone => self.copy_done(bounds).await,
        }
    }

    async fn describe(
        &mut self,
        call: Arc<Call>,
        level: ReadLevel,
        bounds: &Bounds,
    ) -> Result<Answer, Failure> {
        let work = move |executor: &mut Executor| {
            executor.describe(&call.statement, &call.types, &call.context)
        };
        let (left, cancel) = (bounds.left(), &bounds.cancel);
        let described = match &mut self.transaction {
            Transaction::None => {
                let work = move |executor: &mut Executor, _: &Turn| work(executor);
                self.shard.read(level, left, cancel, work).await?.0
            }
            Transaction::Snapshot(snapshot) => {
                let work = move |executor: &mut Executor, _: &Turn| work(executor);
                snapshot.run(left, cancel, work).await?
            }
            Transaction::Writer(writer) => {
                let work = move |executor: &mut Executor, _: &Turn| work(executor);
                writer.try_short(left, cancel, Trial::Forgotten, |_| Length::Short, work).await?
            }
        };
        let mut answer = Answer::empty(&self.spool);
        answer.description = Some(described?);
        Ok(answer)
    }

    /// What a copy has to know, for what the session asks.
    fn level(&self, level: Level) -> Result<ReadLevel, Failure> {
        Ok(match level {
            Level::Any | Level::Session(None) => ReadLevel::Any,
            Level::Bounded(age) => ReadLevel::Bounded(age),
            Level::Session(Some(token)) => ReadLevel::Session(token),
            Level::Linearizable => ReadLevel::Linearizable,
            Level::Primary if Self::is_primary(&self.shard) => ReadLevel::Any,
            Level::Primary => {
                return Err(Failure::not_done("this node is not the primary", None));
            }
        })
    }

    async fn read(
        &mut self,
        call: Arc<Call>,
        level: ReadLevel,
        bounds: &Bounds,
    ) -> Result<Answer, Failure> {
        let work = reading(call, self.spool.clone());
        let read = self.shard.read(level, bounds.left(), &bounds.cancel, work);
        let (answer, token) = read.await?;
        with_token(answer, token)
    }

    async fn write(&mut self, call: Arc<Call>, bounds: &Bounds) -> Result<Answer, Failure> {
        let spool = self.spool.clone();
        let length = length_of(&call);
        let work = move |executor: &mut Executor| match execute(executor, &call, Rows::new(&spool))
        {
            Ok(answer) => Verdict::Keep(Ok(answer)),
            Err(error) => Verdict::Undo(Err(error)),
        };
        let written = self.shard.write_short(bounds.left(), &bounds.cancel, length, work).await;
        let (answer, token) = written.map_err(|error| match error {
            // Nothing of it is left, and it was the whole transaction.
            ShardError::Lost => Failure::not_done(error.to_string(), None),
            error => error.into(),
        })?;
        with_token(answer, token)
    }

    async fn alone(&mut self, call: Arc<Call>, bounds: &Bounds) -> Result<Answer, Failure> {
        let spool = self.spool.clone();
        let work = move |executor: &mut Executor| execute(executor, &call, Rows::new(&spool));
        let (answer, token) = self.shard.alone(bounds.left(), &bounds.cancel, work).await?;
        with_token(answer, token)
    }

    /// Opens what the next statement needs: a draft, if it is `drafted`.
    async fn open(&mut self, open: Open, drafted: bool, bounds: &Bounds) -> Result<(), Failure> {
        let (left, cancel) = (bounds.left(), &bounds.cancel);
        match open {
            Open::Nothing if self.has_transaction() => Ok(()),
            Open::Nothing => Err(not_open()),
            // Whoever reads at the primary may write later.
            Open::Snapshot(Level::Primary) if drafted && let Some(draft) = self.shard.draft() => {
                (self.transaction, self.is_repeatable) = (Transaction::Writer(draft), true);
                Ok(())
            }
            Open::Snapshot(level) => {
                let level = self.level(level)?;
                let snapshot = self.shard.begin_read(level, left).await?;
                self.transaction = Transaction::Snapshot(snapshot);
                Ok(())
            }
            Open::Writer { savepoints, repeatable } => {
                let writer = match std::mem::replace(&mut self.transaction, Transaction::None) {
                    Transaction::Snapshot(snapshot) => {
                        self.writer_at(snapshot.token(), bounds).await?
                    }
                    // It has read so far.
                    Transaction::Writer(draft) => draft,
                    Transaction::None if drafted => self.shard.begin_draft(left, cancel).await?,
                    Transaction::None => self.shard.begin(left, cancel).await?,
                };
                (self.transaction, self.is_repeatable) = (Transaction::Writer(writer), repeatable);
                for number in 0..savepoints {
                    self.control(format!("SAVEPOINT rung_client_{number}"), bounds).await?;
                }
                Ok(())
            }
        }
    }

    /// The writer, if nothing was committed since a snapshot was taken.
    async fn writer_at(&self, seen: Token, bounds: &Bounds) -> Result<WriteTransaction, Failure> {
        let (left, cancel) = (bounds.left(), &bounds.cancel);
        let mut writer = self.shard.begin(left, cancel).await?;
        // Its answer comes when all that it sees is settled, and nobody else has written
        // since.
        writer.run_short(left, cancel, |_| Length::Short, |_, _| ()).await?;
        if !is_same_place(seen, self.shard.position()) {
            writer.rollback().await;
            return Err(ShardError::Changed.into());
        }
        Ok(writer)
    }

    async fn run(&mut self, call: Arc<Call>, bounds: &Bounds) -> Result<Answer, Failure> {
        let spool = self.spool.clone();
        if let Transaction::Snapshot(snapshot) = &mut self.transaction {
            let done = snapshot.run(bounds.left(), &bounds.cancel, reading(call, spool)).await;
            return self.kept(done).await;
        }
        let Transaction::Writer(writer) = &mut self.transaction else { return Err(not_open()) };
        let (left, cancel) = (bounds.left(), &bounds.cancel);
        let (length, trial) = (length_of(&call), trial_of(&call, self.is_repeatable));
        let done = if matches!(call.statement.kind(), Kind::Read) {
            writer.try_short(left, cancel, trial, length, reading(call, spool)).await
        } else {
            let work = move |executor: &mut Executor, _: &Turn| {
                execute(executor, &call, Rows::new(&spool))
            };
            writer.try_short(left, cancel, trial, length, work).await
        };
        self.kept(done).await
    }

    async fn copy_in(&mut self, call: Arc<Call>, bounds: &Bounds) -> Result<Answer, Failure> {
        let context = call.context.clone();
        let work = move |executor: &mut Executor| match call.statement.kind() {
            Kind::Copy(command) => executor.copy_in(command, &call.context),
            _ => Err(SqlError::new(SqlState::INTERNAL, "COPY was asked for without a COPY")),
        };
        let copy = self.within(bounds, work).await?;
        let mut answer = Answer::empty(&self.spool);
        answer.complete.rows = copy.columns() as u64;
        self.copy = Some((copy, context));
        Ok(answer)
    }

    async fn copy_data(&mut self, data: Bytes, bounds: &Bounds) -> Result<Answer, Failure> {
        let (mut copy, context) = self.copy.take().ok_or_else(no_copy)?;
        let work = move |executor: &mut Executor| {
            executor.copy_data(&mut copy, &data, &context)?;
            Ok((copy, context))
        };
        self.copy = Some(self.within(bounds, work).await?);
        Ok(Answer::empty(&self.spool))
    }

    async fn copy_done(&mut self, bounds: &Bounds) -> Result<Answer, Failure> {
        let (copy, context) = self.copy.take().ok_or_else(no_copy)?;
        let work = move |executor: &mut Executor| executor.copy_end(copy, &context);
        let complete = self.within(bounds, work).await?;
        Ok(Answer { complete, ..Answer::empty(&self.spool) })
    }

    async fn control(&mut self, command: String, bounds: &Bounds) -> Result<Answer, Failure> {
        let spool = self.spool.clone();
        let work = move |executor: &mut Executor, _: &Turn| {
            let done = executor.connection().execute_batch(&command);
            done.map(|()| Answer::empty(&spool)).map_err(|error| {
                SqlError::new(SqlState::INTERNAL, format!("{command} failed: {error}"))
            })
        };
        let Transaction::Writer(writer) = &mut self.transaction else { return Err(not_open()) };
        let (left, cancel) = (bounds.left(), &bounds.cancel);
        // Nobody else can change what it comes to.
        let trial = Trial::Kept { key: 0, outcome, part: Part::RowWrite };
        let done = writer.try_short(left, cancel, trial, |_| Length::Short, work).await;
        self.kept(done).await
    }

    /// Does something in the transaction that has the writer.
    async fn within<R: Send + 'static>(
        &mut self,
        bounds: &Bounds,
        work: impl FnOnce(&mut Executor) -> Result<R, SqlError> + Send + 'static,
    ) -> Result<R, Failure> {
        let Transaction::Writer(writer) = &mut self.transaction else { return Err(not_open()) };
        let done = writer.run(bounds.left(), &bounds.cancel, work).await;
        self.kept(done).await
    }

    /// What a part of the transaction came to. After most errors it is over.
    async fn kept<R>(
        &mut self,
        done: Result<Result<R, SqlError>, ShardError>,
    ) -> Result<R, Failure> {
        match done {
            Ok(executed) => Ok(executed?),
            Err(error) => {
                if !matches!(error, ShardError::Canceled | ShardError::TimedOut(_)) {
                    self.rollback().await;
                }
                Err(error.into())
            }
        }
    }

    async fn commit(&mut self, bounds: &Bounds) -> Result<Answer, Failure> {
        let mut answer = Answer::empty(&self.spool);
        match std::mem::replace(&mut self.transaction, Transaction::None) {
            Transaction::None => return Err(not_open()),
            Transaction::Snapshot(snapshot) => drop(snapshot),
            Transaction::Writer(writer) => {
                answer.token = Some(writer.commit(bounds.left()).await?);
            }
        }
        Ok(answer)
    }

    /// Gives up what is open.
    pub async fn rollback(&mut self) {
        self.copy = None;
        match std::mem::replace(&mut self.transaction, Transaction::None) {
            Transaction::None => {}
            Transaction::Snapshot(snapshot) => drop(snapshot),
            Transaction::Writer(writer) => writer.rollback().await,
        }
    }
}

impl Answer {
    pub(crate) fn empty(spool: &Arc<Spool>) -> Self {
        Self {
            complete: Default::default(),
            rows: Rows::new(spool),
            description: None,
            token: None,
        }
    }
}

/// Reads. What does not fit into memory is read where there is time for it.
fn reading(
    call: Arc<Call>,
    spool: Arc<Spool>,
) -> impl FnMut(&mut Executor, &Turn) -> Executed + Send + 'static {
    move |executor, turn| {
        let mut rows = Rows::new(&spool);
        rows.in_memory_only = !turn.may_block();
        let done = execute(executor, &call, rows);
        if matches!(&done, Ok(answer) if answer.rows.has_overflowed) {
            turn.move_to_thread();
        }
        done
    }
}

/// Statements with more to say than that are not executed twice.
const MOST_DRAFTED: usize = 16 << 10;

/// Whether a statement may be executed on a snapshot first, before its transaction has
/// the writer.
fn may_be_drafted(call: &Call) -> bool {
    let values = call.parameters.values.iter().flatten().map(Bytes::len);
    let is_large = call.statement.text().len() + values.sum::<usize>() > MOST_DRAFTED;
    let kind = call.statement.kind();
    !is_large
        && (matches!(kind, Kind::Read)
            || matches!(kind, Kind::Write) && call.statement.may_be_drafted())
}

/// Whether the session wants its transactions to hold the writer no earlier than they must.
fn is_optimistic(call: &Call) -> bool {
    // It need not have those that have their default.
    call.context.settings.get("rung.optimistic").is_none_or(|value| value == "on")
}

fn trial_of(call: &Call, is_repeatable: bool) -> Trial<Executed> {
    if !may_be_drafted(call) {
        return Trial::Never;
    }
    let part = match call.statement.kind() {
        Kind::Read if is_repeatable => Part::RepeatableRead,
        Kind::Read => Part::CommittedRead,
        _ => match call.statement.scope() {
            Scope::Keyed => Part::RowWrite,
            Scope::Conditional if !is_repeatable => Part::ConditionalWrite,
            Scope::Conditional | Scope::Wide => Part::Write,
        },
    };
    Trial::Kept { key: call.statement.number(hash_of_normal_form), outcome, part }
}

/// What a statement must come to when it is executed once more: all that its client saw.
fn outcome(executed: &Executed) -> Result<u64, Box<SqlError>> {
    let answer = executed.as_ref().map_err(|error| Box::new(error.clone()))?;
    let mut hasher = DefaultHasher::new();
    answer.complete.tag.hash(&mut hasher);
    answer.rows.hash(&mut hasher).map_err(Box::new)?;
    Ok(hasher.finish())
}

/// How long a statement can take.
fn length_of(call: &Arc<Call>) -> impl FnMut(&mut Executor) -> Length + use<> {
    let call = Arc::clone(call);
    move |executor| match call.statement.kind() {
        Kind::Read => Length::Interruptible,
        _ if executor.is_brief(&call.statement, &call.types, &call.context) => Length::Short,
        _ => Length::Long,
    }
}

fn not_open() -> Failure {
    Failure::not_done("the transaction is not open here", None)
}

fn no_copy() -> Failure {
    Failure::sql(SqlState::PROTOCOL_VIOLATION, "no COPY from the client is under way")
}

fn execute(executor: &mut Executor, call: &Call, mut rows: Rows) -> Executed {
    rows.is_copy = matches!(call.statement.kind(), Kind::Copy(_));
    let complete = executor.execute(
        &call.statement,
        &call.types,
        &call.parameters,
        &call.formats,
        &call.context,
        &mut rows,
    )?;
    rows.check()?;
    Ok(Answer { complete, rows, description: None, token: None })
}

fn with_token(answer: Executed, token: Token) -> Result<Answer, Failure> {
    let mut answer = answer?;
    answer.token = Some(token);
    Ok(answer)
}

/// Whether nothing was committed between two positions. A new epoch alone changes
/// nothing.
fn is_same_place(one: Token, other: Token) -> bool {
    one.generation == other.generation && one.sequence == other.sequence
}
