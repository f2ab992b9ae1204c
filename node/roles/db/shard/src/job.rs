//! What waits for the writer, and how it is answered.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rung_sql::Executor;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::cancel::Cancel;
use crate::claims::Ended;
use crate::error::ShardError;
use crate::interactive::Handle;
use crate::steps::Claim;
use crate::token::Token;

/// How long after its deadline work that is being executed is waited for: it has
/// been interrupted, and will say that nothing was done.
const GRACE: Duration = Duration::from_secs(2);

/// What a write has decided about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict<R> {
    /// What it did shall be committed.
    Keep(R),
    /// What it did shall be rolled back, because of an error for example.
    Undo(R),
}

/// A result on its way to the caller, who knows its type.
pub(crate) type Boxed = Box<dyn Any + Send>;
pub(crate) type Write = Box<dyn FnMut(&mut Executor) -> Verdict<Boxed> + Send>;
pub(crate) type Once = Box<dyn FnOnce(&mut Executor) -> Boxed + Send>;
pub(crate) type Answer<T> = Result<T, ShardError>;
pub(crate) type Reply<T> = oneshot::Sender<Answer<T>>;

/// Something that waits for the writer.
pub(crate) struct Job {
    pub until: Instant,
    pub cancel: Cancel,
    pub stage: Stage,
    /// It has rolled back a whole batch, and is executed in one of its own.
    pub apart: bool,
    /// It is the end of a draft, which may take place while nothing else begins.
    pub claim: Option<Arc<Claim>>,
    /// It has waited for claims of others for long enough.
    pub breaks_claims: bool,
    pub kind: JobKind,
}

pub(crate) enum JobKind {
    /// Executed with others in one transaction.
    Write(Write, Reply<Written>),
    /// An interactive transaction.
    Begin(Reply<Handle>),
    /// Executed outside of any transaction.
    Alone(Once, Reply<(Boxed, Token)>),
}

/// What became of a write.
pub(crate) enum Written {
    Done(Boxed, Token),
    /// It changes what another has claimed, and shall come again when he has ended.
    Waits(Write, Ended),
}

impl Job {
    /// A job, and how far it is, for the one who waits for it.
    pub fn new(until: Instant, cancel: &Cancel, kind: JobKind) -> (Self, Stage) {
        let stage = Stage::default();
        let job = Self {
            until,
            cancel: cancel.clone(),
            stage: stage.clone(),
            apart: false,
            claim: None,
            breaks_claims: false,
            kind,
        };
        (job, stage)
    }

    pub fn refuse(self, error: ShardError) {
        // Nobody may be waiting any more, which is fine for all of these.
        match self.kind {
            JobKind::Write(_, reply) => drop(reply.send(Err(error))),
            JobKind::Alone(_, reply) => drop(reply.send(Err(error))),
            JobKind::Begin(reply) => drop(reply.send(Err(error))),
        }
    }

    /// It was undone, to be executed again when somebody else has ended.
    pub fn comes_again(self, ended: Ended) {
        if let JobKind::Write(work, reply) = self.kind {
            // Nobody may be waiting any more.
            let _ = reply.send(Ok(Written::Waits(work, ended)));
        }
    }

    /// Takes the job for execution, or answers that it is too late for it.
    pub fn take(self) -> Option<Job> {
        if self.cancel.is_canceled() {
            self.refuse(ShardError::Canceled);
        } else if Instant::now() >= self.until {
            self.refuse(WAITED);
        } else if self.stage.advance(QUEUED, RUNNING) {
            return Some(self);
        }
        None
    }
}

pub(crate) const WAITED: ShardError = ShardError::TimedOut("waited for the writer");

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
/// It was committed here, and waits for a quorum.
const SETTLING: u8 = 2;
const ABANDONED: u8 = 3;

/// How far a job is: decides what its caller may say when he stops waiting.
#[derive(Clone, Default)]
pub(crate) struct Stage(Arc<AtomicU8>);

impl Stage {
    /// Of something that was begun already.
    pub fn running() -> Self {
        Self(Arc::new(AtomicU8::new(RUNNING)))
    }

    fn advance(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub fn settles(&self) {
        self.0.store(SETTLING, Ordering::Release);
    }

    pub fn is_abandoned(&self) -> bool {
        self.0.load(Ordering::Acquire) == ABANDONED
    }

    fn is_running(&self) -> bool {
        self.0.load(Ordering::Acquire) == RUNNING
    }
}

/// Waits for the answer to a job. After the deadline, or when it is canceled, it is
/// taken back if it was not begun.
pub(crate) async fn wait<T>(
    reply: oneshot::Receiver<Answer<T>>,
    stage: Stage,
    until: Instant,
    cancel: Cancel,
) -> Answer<T> {
    let ended = |answer: Result<Answer<T>, oneshot::error::RecvError>| {
        answer.unwrap_or_else(|_| Err(ShardError::Stopped("it was closed".to_owned())))
    };
    let mut reply = reply;
    tokio::select! {
        biased;
        answer = timeout_at(until.into(), &mut reply) => {
            if let Ok(answer) = answer {
                return ended(answer);
            }
            if stage.advance(QUEUED, ABANDONED) {
                return Err(WAITED);
            }
        }
        () = cancel.canceled() => {
            if stage.advance(QUEUED, ABANDONED) {
                return Err(ShardError::Canceled);
            }
        }
    }
    // It was begun. What is executed ends soon; what waits for a quorum may not.
    let patience = if stage.is_running() { until.max(Instant::now()) + GRACE } else { until };
    match timeout_at(patience.into(), &mut reply).await {
        Ok(answer) => ended(answer),
        Err(_) => Err(ShardError::OutcomeUnknown),
    }
}
