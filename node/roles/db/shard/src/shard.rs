//! One copy of one shard, as its users see it.

use std::any::Any;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rung_consensus::{Consensus, Group, OpenError, Position};
use rung_pages::{MAX_PART_BYTES, Options, PageStore};
use rung_proto::NodeId;
use rung_sql::Executor;
use tokio::sync::{oneshot, watch};

use crate::cancel::Cancel;
use crate::claims::{HELD, until_ended};
use crate::config::{First, ShardConfig};
use crate::core::Core;
use crate::draft::Draft;
use crate::error::{HandOverError, ShardError};
use crate::fresh::Fresh;
use crate::interactive::{Handle, WriteTransaction};
use crate::job::{self, Boxed, Job, JobKind, Verdict, Write, Written};
use crate::machine::Machine;
use crate::read::{ReadLevel, ReadTransaction, read_once};
use crate::status::{CopyState, ShardStatus, Stop};
use crate::steps::{Claim, Steps};
use crate::token::Token;
use crate::turn::{Length, Turn};
use crate::writer::Writer;
use crate::{hand_over, payload, propose, take_over, writer};

/// One copy of one shard on this node. Clones are the same copy.
#[derive(Clone)]
pub struct Shard(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    group: Group,
    consensus: Consensus,
    fresh: Fresh,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard({})", self.0.core.config.group.name)
    }
}

/// How long reads, which are interrupted, are waited for when a copy is closed.
const READERS: Duration = Duration::from_secs(2);
/// How long writes wait for a copy that was elected.
const TAKING: Duration = Duration::from_secs(1);

impl Shard {
    /// Opens the copy, and its group, which from then on takes part in elections.
    ///
    /// # Errors
    /// [`OpenError::Damaged`]: take this node out of the group's voters, call
    /// [`Consensus::remove`], delete `config.dir`, and open it again as a learner.
    pub async fn open(
        mut config: ShardConfig,
        consensus: &Consensus,
        first: First,
    ) -> Result<Shard, OpenError> {
        let least = MAX_PART_BYTES + payload::HEADER;
        config.group.max_payload = config.group.max_payload.max(least);
        let group = config.group.clone();
        let core = tokio::task::spawn_blocking(move || open_core(config)).await;
        let failed = |what: String| OpenError::Failed { group: group.group, what };
        let core = core.map_err(|error| failed(error.to_string()))??;
        let machine = Machine(Arc::clone(&core));
        let opened = match first {
            First::Open => consensus.open(group, machine).await,
            First::Create { voters } => consensus.create(group, machine, &voters).await,
        };
        let group = match opened {
            Ok(group) => group,
            Err(error) => return Err(open_error(&core, error)),
        };
        let for_writer = Arc::clone(&core);
        let writer = std::thread::Builder::new()
            .name("shard-write".to_owned())
            .spawn(move || writer::run(for_writer));
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                consensus.close(group.id()).await;
                return Err(OpenError::Failed { group: group.id(), what: error.to_string() });
            }
        };
        tokio::spawn(propose::propose_all(Arc::clone(&core), group.clone()));
        tokio::spawn(take_over::follow_group(Arc::clone(&core), group.clone()));
        Ok(Shard(Arc::new(Inner {
            core,
            group,
            consensus: consensus.clone(),
            fresh: Fresh::default(),
            writer: Mutex::new(Some(writer)),
        })))
    }

    /// Stops the copy and its group on this node; its files stay. Returns when its
    /// writer has ended.
    pub async fn close(&self) {
        let core = &self.0.core;
        core.stop(Stop::Closed);
        core.desk().closes = true;
        core.meter.evict();
        core.bell.notify_all();
        self.0.consensus.close(self.0.group.id()).await;
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let joined = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::warn!(shard = ?self, "the writer of a shard ended with a panic");
            }
        }
        // Who opens the files again must not meet somebody who still reads them.
        if tokio::time::timeout(READERS, core.readers.closed()).await.is_err() {
            tracing::warn!(shard = ?self, "a read goes on after its copy was closed");
        }
        core.close_store();
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// The shard's group: its members, its leader, its log.
    pub fn group(&self) -> &Group {
        &self.0.group
    }

    /// What the copy does, now and after every change.
    pub fn state(&self) -> watch::Receiver<CopyState> {
        self.0.core.state.subscribe()
    }

    /// What readers see, now and after every change.
    pub fn settled(&self) -> watch::Receiver<Token> {
        self.0.core.settled.subscribe()
    }

    /// What readers see now.
    pub fn position(&self) -> Token {
        self.0.core.token(&self.0.core.gate.position())
    }

    /// How the copy is doing now.
    pub fn status(&self) -> ShardStatus {
        let core = &self.0.core;
        let lag = {
            let status = self.0.group.status();
            let status = status.borrow();
            let index = |position: Option<Position>| position.map_or(0, |it| it.index);
            index(status.committed).saturating_sub(index(status.applied))
        };
        let desk = core.desk();
        ShardStatus {
            state: desk.state.clone(),
            position: self.position(),
            lag,
            queued: desk.queue.len(),
            in_flight: desk.in_flight.len(),
            drafts: core.drafts.load(Ordering::Relaxed),
            conflicts: core.counts.conflicts.load(Ordering::Relaxed),
            in_transaction: desk.transaction.is_some(),
            reading: core.readers.reading(),
            reads: core.counts.reads.load(Ordering::Relaxed),
            writes: core.counts.writes.load(Ordering::Relaxed),
            batches: core.counts.batches.load(Ordering::Relaxed),
            wal_bytes: core.counts.wal_bytes.load(Ordering::Relaxed),
        }
    }

    /// Reads on a snapshot of what is settled, and says which it was.
    ///
    /// The work is begun on the calling thread. If it takes longer than
    /// [`Limits::inline`](crate::Limits::inline), or asks for it, it is interrupted and
    /// begun anew on a thread for long reads; so whatever it gave out before must be
    /// dropped when it is called again. A result of interrupted work is dropped.
    ///
    /// # Errors
    /// [`ShardError::TooFarBehind`] when this copy cannot be as fresh as `level` asks.
    pub async fn read<R: Send + 'static>(
        &self,
        level: ReadLevel,
        deadline: Duration,
        cancel: &Cancel,
        work: impl FnMut(&mut Executor, &Turn) -> R + Send + 'static,
    ) -> Result<(R, Token), ShardError> {
        let until = Instant::now() + deadline;
        self.reads()?;
        self.0.fresh.wait(&self.0.core, &self.0.group, level, until).await?;
        let read = read_once(&self.0.core, until, cancel, work).await;
        self.0.core.counts.reads.fetch_add(1, Ordering::Relaxed);
        read
    }

    /// Begins a transaction that only reads: all of it on one snapshot.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub async fn begin_read(
        &self,
        level: ReadLevel,
        deadline: Duration,
    ) -> Result<ReadTransaction, ShardError> {
        let until = Instant::now() + deadline;
        self.reads()?;
        self.0.fresh.wait(&self.0.core, &self.0.group, level, until).await?;
        ReadTransaction::begin(&self.0.core, until).await
    }

    fn reads(&self) -> Result<(), ShardError> {
        match &*self.0.core.state.borrow() {
            CopyState::Stopped(stop) => Err(ShardError::Stopped(stop.to_string())),
            _ => Ok(()),
        }
    }

    /// Executes a write, together with others that come at the same time, and answers
    /// when it is durable on a quorum.
    ///
    /// The work runs on the writer's thread within a savepoint: it must neither wait
    /// for anybody nor begin or end transactions. It may be called again from its
    /// beginning, when a statement of another write has rolled back everything.
    ///
    /// # Errors
    /// All but [`ShardError::OutcomeUnknown`] say that nothing was changed.
    pub async fn write<R: Send + 'static>(
        &self,
        deadline: Duration,
        cancel: &Cancel,
        work: impl FnMut(&mut Executor) -> Verdict<R> + Send + 'static,
    ) -> Result<(R, Token), ShardError> {
        self.write_short(deadline, cancel, |_| Length::Long, work).await
    }

    /// As [`Shard::write`]; but if `length` says that it is short, and nothing else is
    /// written now, it is executed on the calling thread.
    ///
    /// # Errors
    /// As [`Shard::write`].
    pub async fn write_short<R: Send + 'static>(
        &self,
        deadline: Duration,
        cancel: &Cancel,
        length: impl FnMut(&mut Executor) -> Length,
        work: impl FnMut(&mut Executor) -> Verdict<R> + Send + 'static,
    ) -> Result<(R, Token), ShardError> {
        let until = Instant::now() + deadline;
        self.write_until(until, cancel, None, length, work).await
    }

    async fn write_until<R: Send + 'static>(
        &self,
        until: Instant,
        cancel: &Cancel,
        claim: Option<Arc<Claim>>,
        mut length: impl FnMut(&mut Executor) -> Length,
        mut work: impl FnMut(&mut Executor) -> Verdict<R> + Send + 'static,
    ) -> Result<(R, Token), ShardError> {
        let mut boxed: Write = Box::new(move |executor| match work(executor) {
            Verdict::Keep(result) => Verdict::Keep(Box::new(result) as Boxed),
            Verdict::Undo(result) => Verdict::Undo(Box::new(result) as Boxed),
        });
        self.check_room()?;
        self.taken(until).await;
        let core = &self.0.core;
        let patience = Instant::now() + core.config.limits.transaction_idle;
        loop {
            let (reply, answer) = oneshot::channel();
            let (mut job, stage) = Job::new(until, cancel, JobKind::Write(boxed, reply));
            job.claim.clone_from(&claim);
            job.breaks_claims = Instant::now() >= patience;
            match Writer::take_free(core, |desk| desk.is_settled()) {
                Some((writer, epoch)) => writer.write_here(job, &mut length, epoch),
                None => core.submit(job),
            }
            match job::wait(answer, stage, until, cancel.clone()).await? {
                Written::Done(result, token) => return Ok((unboxed(result), token)),
                Written::Waits(work, ended) => {
                    until_ended(ended, patience.min(until), cancel).await?;
                    boxed = work;
                }
            }
            if Instant::now() >= until {
                return Err(ShardError::TimedOut(HELD));
            }
        }
    }

    /// Executes what was executed on a snapshot, as one write among others.
    pub(crate) async fn commit_draft(
        &self,
        mut steps: Steps,
        until: Instant,
    ) -> Result<Token, ShardError> {
        let is_short = steps.spent <= self.0.core.config.limits.inline;
        let length = move |_: &mut Executor| if is_short { Length::Short } else { Length::Long };
        let claim = Some(Arc::clone(steps.claim()));
        let core = Arc::clone(&self.0.core);
        let work = move |executor: &mut Executor| match steps.again(executor, &core.changes) {
            Ok(()) => Verdict::Keep(Ok(())),
            Err(error) => Verdict::Undo(Err(error)),
        };
        let written = self.write_until(until, &Cancel::new(), claim, length, work).await;
        let (kept, token) = written?;
        kept.map(|()| token)
    }

    /// Begins an interactive transaction, once the writer is free; those who came
    /// before are first.
    ///
    /// # Errors
    /// [`ShardError::TimedOut`] when the writer was not free before the deadline.
    pub async fn begin(
        &self,
        deadline: Duration,
        cancel: &Cancel,
    ) -> Result<WriteTransaction, ShardError> {
        let handle = self.take_writer(Instant::now() + deadline, cancel).await?;
        Ok(WriteTransaction::held(self, handle))
    }

    /// Begins an interactive transaction that is a draft, if there can be one now, and as
    /// [`Shard::begin`] if not. Any number of them run beside each other; each waits for
    /// the writer only when it is committed, and fails then with [`ShardError::Changed`]
    /// if what it was told is not the same any more.
    ///
    /// # Errors
    /// As [`Shard::begin`].
    pub async fn begin_draft(
        &self,
        deadline: Duration,
        cancel: &Cancel,
    ) -> Result<WriteTransaction, ShardError> {
        self.check_room()?;
        let until = Instant::now() + deadline;
        match Draft::begin_after_checkpoint(&self.0.core, until).await {
            Some(draft) => Ok(WriteTransaction::draft(self, draft)),
            None => {
                let handle = self.take_writer(until, cancel).await?;
                Ok(WriteTransaction::held(self, handle))
            }
        }
    }

    /// Begins a draft, if there can be one now: on the primary, when it is not handed over
    /// and makes no checkpoint, and [`Limits::drafts`](crate::Limits::drafts) allows it. One
    /// that only reads sees one snapshot and never waits.
    pub fn draft(&self) -> Option<WriteTransaction> {
        Draft::begin(&self.0.core).map(|draft| WriteTransaction::draft(self, draft))
    }

    /// Waits for the writer.
    pub(crate) async fn take_writer(
        &self,
        until: Instant,
        cancel: &Cancel,
    ) -> Result<Handle, ShardError> {
        self.check_room()?;
        if let Some((writer, epoch)) = Writer::take_free(&self.0.core, |_| true) {
            return writer.open_here(epoch);
        }
        let (reply, answer) = oneshot::channel();
        self.submit(until, cancel, JobKind::Begin(reply), answer).await
    }

    /// Executes what cannot be part of a transaction, such as VACUUM, while nothing
    /// else is written.
    ///
    /// # Errors
    /// As [`Shard::write`]. If it was interrupted, what it had committed by itself stays.
    pub async fn alone<R: Send + 'static>(
        &self,
        deadline: Duration,
        cancel: &Cancel,
        work: impl FnOnce(&mut Executor) -> R + Send + 'static,
    ) -> Result<(R, Token), ShardError> {
        let boxed = move |executor: &mut Executor| Box::new(work(executor)) as Boxed;
        self.check_room()?;
        let (reply, answer) = oneshot::channel();
        let kind = JobKind::Alone(Box::new(boxed), reply);
        let until = Instant::now() + deadline;
        let (result, token) = self.submit(until, cancel, kind, answer).await?;
        Ok((unboxed(result), token))
    }

    /// Has this copy refuse writes with [`ShardError::DiskFull`] while its disk still has
    /// some room, or no longer. For one that no other copy could take over from: with a
    /// disk that is full it could not even be read. Says whether that is news.
    pub fn keep_room(&self, keep: bool) -> bool {
        self.0.core.keeps_room.swap(keep, Ordering::Relaxed) != keep
    }

    /// Whether it refuses writes to keep room.
    pub fn keeps_room(&self) -> bool {
        self.0.core.keeps_room.load(Ordering::Relaxed)
    }

    fn check_room(&self) -> Result<(), ShardError> {
        if self.keeps_room() { Err(ShardError::DiskFull) } else { Ok(()) }
    }

    /// A copy that was elected takes writes in a moment, unless it cannot reach a
    /// majority.
    async fn taken(&self, until: Instant) {
        let taking = |state: &CopyState| matches!(state, CopyState::Taking { .. });
        if taking(&self.0.core.state.borrow()) {
            let until = until.min(Instant::now() + TAKING);
            let mut state = self.state();
            let taken = state.wait_for(|state| !taking(state));
            // Who waited too long is told that there is no primary.
            let _ = tokio::time::timeout_at(until.into(), taken).await;
        }
    }

    async fn submit<T>(
        &self,
        until: Instant,
        cancel: &Cancel,
        kind: JobKind,
        answer: oneshot::Receiver<job::Answer<T>>,
    ) -> Result<T, ShardError> {
        self.taken(until).await;
        let (job, stage) = Job::new(until, cancel, kind);
        self.0.core.submit(job);
        job::wait(answer, stage, until, cancel.clone()).await
    }

    /// Makes another voting copy the primary. New writes wait meanwhile, open
    /// transactions get [`Limits::hand_over_patience`](crate::Limits::hand_over_patience)
    /// to end and are lost then. If it fails, this copy goes on as long as it leads.
    ///
    /// # Errors
    /// See [`HandOverError`].
    pub async fn hand_over(&self, to: NodeId, deadline: Duration) -> Result<(), HandOverError> {
        hand_over::hand_over(&self.0.core, &self.0.group, to, deadline).await
    }
}

/// A group that cannot be opened. What was wrong with the pages when the log was
/// applied to them, the group knows as a failure only.
fn open_error(core: &Core, error: OpenError) -> OpenError {
    core.close_store();
    let state = core.desk().state.clone();
    match state {
        CopyState::Stopped(Stop::Damaged(what)) => {
            OpenError::Damaged { group: core.config.group.group, what }
        }
        _ => error,
    }
}

fn unboxed<R: 'static>(result: Boxed) -> R {
    let result: Box<dyn Any> = result;
    *result.downcast::<R>().expect("the result is of the work's own type")
}

fn open_core(config: ShardConfig) -> Result<Arc<Core>, OpenError> {
    let options = Options {
        checkpoint_bytes: config.limits.checkpoint_bytes,
        #[cfg(feature = "simulation")]
        disk: config.disk.clone(),
        #[cfg(feature = "simulation")]
        faults: config.faults.pages,
        ..Options::default()
    };
    let store = PageStore::open(&config.dir, options).map_err(|error| {
        let (group, what) = (config.group.group, error.to_string());
        match crate::core::stop_for(&error) {
            Stop::Damaged(_) => OpenError::Damaged { group, what },
            _ => OpenError::Failed { group, what },
        }
    })?;
    Ok(Core::new(config, store))
}
