//! Autocommit writes: many in one transaction of SQLite, a savepoint each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use rung_sql::Executor;
use rusqlite::ErrorCode;

use crate::desk::Waiting;
use crate::error::ShardError;
use crate::job::{Boxed, Job, JobKind, Verdict, Written};
use crate::turn::{Length, Stopped};
use crate::writer::Writer;

const SAVEPOINT: &str = "SAVEPOINT rung_member";
const RELEASE: &str = "RELEASE rung_member";
const ROLLBACK_TO: &str = "ROLLBACK TO rung_member";

/// A write that was executed in the batch.
struct Done {
    job: Job,
    result: Result<Boxed, ShardError>,
    kept: bool,
}

/// What became of one write.
enum Member {
    Done(Done),
    /// It was answered: nobody learns anything by that.
    Answered,
    /// The whole transaction was rolled back with it.
    RolledBack,
    /// The batch must not go on.
    Evicted(Job),
}

impl Writer {
    /// Executes a write here, if it is short; if not, it waits for the writer's thread.
    pub fn write_here(
        mut self: Box<Self>,
        job: Job,
        mut length: impl FnMut(&mut Executor) -> Length,
        epoch: u64,
    ) {
        let executor = &mut self.connected().executor;
        let length = catch_unwind(AssertUnwindSafe(|| length(executor))).unwrap_or(Length::Long);
        if length == Length::Short {
            if let Some(job) = job.take() {
                self.batch_of(job, true, epoch);
            }
            self.hand_on();
        } else {
            let core = self.core.clone();
            self.rest();
            core.submit(job);
        }
    }

    /// Executes a write and those that wait behind it, and commits what they changed.
    pub fn batch(&mut self, first: Job, epoch: u64) {
        let alone = first.apart;
        self.batch_of(first, alone, epoch);
    }

    /// Executes a write, and those that wait behind it if it is not `alone`.
    pub fn batch_of(&mut self, first: Job, alone: bool, epoch: u64) {
        let core = self.core.clone();
        let limits = &core.config.limits;
        let began = Instant::now();
        let mut again = vec![first];
        let mut done: Vec<Done> = Vec::new();
        if let Err(error) = self.begin() {
            return self.fail_all(again, done, &error);
        }
        loop {
            let full = done.len() >= limits.batch_jobs || began.elapsed() >= limits.batch_time;
            let job = match again.pop() {
                Some(job) => job,
                None if full || alone => break,
                None => match core.next_write(epoch) {
                    Some(job) => job,
                    None => break,
                },
            };
            match self.member(job) {
                Member::Done(one) => done.push(one),
                Member::Answered => {}
                Member::Evicted(job) => {
                    again.push(job);
                    self.abandon(again, done, epoch);
                    return;
                }
                Member::RolledBack => {
                    // The others begin anew: they have not been answered.
                    again.extend(done.drain(..).rev().map(|one| one.job));
                    if let Err(error) = self.begin() {
                        return self.fail_all(again, done, &error);
                    }
                }
            }
        }
        self.end_batch(done, epoch);
    }

    fn end_batch(&mut self, done: Vec<Done>, epoch: u64) {
        if done.iter().any(|one| one.kept) {
            self.commit(epoch, waiting(done));
        } else {
            self.roll_back();
            self.core.answer_after_last(waiting(done));
        }
    }

    fn control(&mut self, text: &str) -> rusqlite::Result<()> {
        let connection = self.connected().executor.connection();
        connection.prepare_cached(text)?.execute([]).map(drop)
    }

    fn member(&mut self, job: Job) -> Member {
        let Some(mut job) = still_wanted(job) else { return Member::Answered };
        if let Err(error) = self.control(SAVEPOINT) {
            job.refuse(sqlite_error(&error));
            return Member::Answered;
        }
        let core = self.core.clone();
        let JobKind::Write(work, _) = &mut job.kind else {
            unreachable!("only writes join a batch")
        };
        core.meter.begin(None, Some(job.until), job.cancel.clone());
        let executor = &mut self.connected().executor;
        let verdict = catch_unwind(AssertUnwindSafe(|| work(executor)));
        let stopped = core.meter.end();
        let executor = &self.connected().executor;
        if executor.connection().is_autocommit() {
            return self.rolled_back(job, verdict.ok(), stopped);
        }
        match (verdict, stopped) {
            (_, Some(Stopped::Evicted)) => Member::Evicted(job),
            (_, Some(stopped)) => self.end_member(job, Err(stopped.error()), false),
            (Err(_), _) => self.end_member(job, Err(panicked()), false),
            (Ok(Verdict::Undo(result)), _) => self.end_member(job, Ok(result), false),
            (Ok(Verdict::Keep(result)), None) => match executor.deferred_violation() {
                Some(violation) => {
                    self.end_member(job, Err(ShardError::Refused(Box::new(violation))), false)
                }
                None => self.end_member(job, Ok(result), true),
            },
        }
    }

    /// Keeps what a write has done or takes it back, also if it must wait for somebody who
    /// has claimed a row.
    fn end_member(&mut self, job: Job, result: Result<Boxed, ShardError>, kept: bool) -> Member {
        let core = self.core.clone();
        let executor = &self.connected().executor;
        let changed = core.changes.take(executor.connection()).all();
        let by = job.claim.as_ref().map(|claim| claim.number());
        let may_wait = kept && !job.breaks_claims;
        let waits = if may_wait { core.claims.wait(by, &changed) } else { None };
        let keeps = kept && waits.is_none();
        let ended = if keeps { Ok(()) } else { self.control(ROLLBACK_TO) };
        if let Err(error) = ended.and_then(|()| self.control(RELEASE)) {
            job.refuse(sqlite_error(&error));
            // It is unknown what the savepoint holds, so the transaction ends.
            self.roll_back();
            return Member::RolledBack;
        }
        if let Some(ended) = waits {
            job.comes_again(ended);
            return Member::Answered;
        }
        if keeps {
            core.claims.keep(by, changed);
            self.claims.extend(job.claim.clone());
        }
        Member::Done(Done { job, result, kept })
    }

    /// A statement has ended the transaction of all.
    fn rolled_back(
        &mut self,
        mut job: Job,
        verdict: Option<Verdict<Boxed>>,
        stopped: Option<Stopped>,
    ) -> Member {
        if stopped == Some(Stopped::Evicted) {
            return Member::Evicted(job);
        }
        if let Some(stopped) = stopped {
            job.refuse(stopped.error());
        } else if !job.apart {
            // What it saw may have been of those who begin anew.
            job.apart = true;
            self.core.desk().apart.push(job);
        } else {
            let result = match verdict {
                Some(Verdict::Undo(result)) => Ok(result),
                Some(Verdict::Keep(_)) => Err(ShardError::Failed(
                    "a statement rolled back the transaction that it was part of".to_owned(),
                )),
                None => Err(panicked()),
            };
            self.core.answer_after_last(waiting(vec![Done { job, result, kept: false }]));
        }
        Member::RolledBack
    }

    /// The writer must leave the file: those who have not been answered begin anew if
    /// this copy stays the primary.
    fn abandon(&mut self, mut jobs: Vec<Job>, done: Vec<Done>, epoch: u64) {
        self.roll_back();
        jobs.extend(done.into_iter().map(|one| one.job));
        if self.core.desk().may_go_on(epoch) {
            self.core.desk().apart.extend(jobs);
        } else {
            let refusal = self.core.desk().refusal().unwrap_or(ShardError::Lost);
            jobs.into_iter().for_each(|job| job.refuse(refusal.clone()));
        }
    }

    fn fail_all(&mut self, jobs: Vec<Job>, done: Vec<Done>, error: &rusqlite::Error) {
        tracing::warn!(%error, "a batch of writes failed");
        self.roll_back();
        let told = sqlite_error(error);
        let jobs = jobs.into_iter().chain(done.into_iter().map(|one| one.job));
        jobs.for_each(|job| job.refuse(told.clone()));
    }
}

/// Answers a write that is not wanted any more.
fn still_wanted(job: Job) -> Option<Job> {
    if job.cancel.is_canceled() {
        job.refuse(ShardError::Canceled);
        None
    } else if Instant::now() >= job.until {
        job.refuse(crate::job::WAITED);
        None
    } else {
        Some(job)
    }
}

fn waiting(done: Vec<Done>) -> Vec<Waiting> {
    let one = |Done { job, result, kept }: Done| {
        let JobKind::Write(_, reply) = job.kind else { unreachable!("only writes join a batch") };
        job.stage.settles();
        // Whoever asked may have gone.
        let answer = Box::new(move |settled: Result<_, ShardError>| {
            let _ = reply.send(settled.and_then(|token| Ok(Written::Done(result?, token))));
        });
        Waiting { kept, answer }
    };
    done.into_iter().map(one).collect()
}

pub(crate) fn panicked() -> ShardError {
    ShardError::Failed("it panicked; the node's log has the place".to_owned())
}

pub(crate) fn sqlite_error(error: &rusqlite::Error) -> ShardError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ShardError::DiskFull,
        _ => ShardError::Failed(error.to_string()),
    }
}
