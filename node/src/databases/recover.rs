//! A copy's way from one generation to the next.
//!
//! A copy that hears of a higher generation of its shard, by the control state or by
//! what another node says of its copy, is *sealed*: it takes no part in its group any
//! more, also after a restart, and says what its file and log hold. The node that was
//! chosen makes the group of the new generation from its sealed copy. When the new
//! group is the shard's, what the others have that it lacks is kept as a tail, and
//! they begin anew as its replicas.

use std::path::{Path, PathBuf};

use rung_consensus::{Consensus, Position as LogPosition};
use rung_control_plane::State;
use rung_control_plane::state::{RecoveryRecord, RetiredGroup, ShardRecord};
use rung_pages::Position;
use rung_proto::soft::{CopyPosition, CopyState, LogPlace, NodeSoftState, SealedCopy};
use rung_proto::{Code, Digest, Failure, GroupId, NodeId};
use rung_shard::{First, Former, FormerError};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{CopyRecord, Databases, LocalCopy};
use crate::tail;

/// That a copy has accepted another generation; kept with its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acceptance {
    pub generation: u64,
    /// The last entry that was known to be committed when the copy was stopped.
    pub committed: Option<LogPosition>,
}

/// What a copy has to do about generations.
#[derive(Clone, PartialEq, Debug)]
enum Task {
    /// Another generation has begun.
    Seal(u64),
    /// This node makes it.
    Found(Box<RecoveryRecord>),
    /// It has begun elsewhere: keep what only this copy has, and begin anew.
    GiveUp(Option<Box<RetiredGroup>>),
}

/// Looks at every copy here, and begins what is to be done, each in a task of its own.
pub(super) fn look(databases: &Databases, state: &State, others: &[NodeSoftState]) {
    for copy in databases.copies() {
        let Some(task) = task(databases.node, &copy, state, others) else { continue };
        if matches!(&task, Task::Found(recovery) if databases.copy(recovery.group).is_some()) {
            continue;
        }
        if !databases.begin_work(copy.record.group) {
            continue;
        }
        let databases = databases.clone();
        tokio::spawn(async move {
            let group = copy.record.group;
            if let Err(failure) = databases.carry_out(copy, task).await {
                tracing::error!(%group, %failure, "a copy did not get to its new generation");
                tokio::time::sleep(super::OPEN_AGAIN).await;
            }
            databases.end_work(group);
        });
    }
}

/// Pure: what is to be done with a copy.
fn task(me: NodeId, copy: &LocalCopy, state: &State, others: &[NodeSoftState]) -> Option<Task> {
    let record = &copy.record;
    let shard = state.databases.get(&record.database)?.shards.get(&record.shard)?;
    let newest = newest_generation(record, shard, others)?;
    let accepted = record.accepted.map_or(0, |accepted| accepted.generation);
    if accepted < newest || copy.sealed.is_none() && !is_broken(copy) {
        return Some(Task::Seal(newest.max(accepted)));
    }
    let chosen = |recovery: &&RecoveryRecord| {
        shard.group == record.group && matches!(recovery.chosen, Some((node, _)) if node == me)
    };
    if let Some(recovery) = shard.recovery.as_ref().filter(chosen) {
        return Some(Task::Found(Box::new(recovery.clone())));
    }
    // What this node knows of the control state may be older than the copy.
    if shard.generation <= record.generation {
        return None;
    }
    let retired = shard.retired.iter().find(|retired| retired.group == record.group);
    let was_never_used = shard.retired.iter().any(|retired| retired.generation < record.generation);
    match retired {
        Some(retired) => Some(Task::GiveUp(Some(Box::new(retired.clone())))),
        None if was_never_used => Some(Task::GiveUp(None)),
        // It is from so long ago that nobody knows where its generation ended.
        None => None,
    }
}

fn is_broken(copy: &LocalCopy) -> bool {
    matches!(copy.problem, Some((CopyState::Broken, _)))
}

/// Whether another generation than that of a copy has begun.
pub(super) fn is_over(record: &CopyRecord, state: &State, others: &[NodeSoftState]) -> bool {
    let database = state.databases.get(&record.database);
    let shard = database.and_then(|database| database.shards.get(&record.shard));
    let newer = shard.and_then(|shard| newest_generation(record, shard, others));
    record.accepted.is_some() || newer.is_some()
}

/// The generation that ends this copy's, if one does.
fn newest_generation(
    record: &CopyRecord,
    shard: &ShardRecord,
    others: &[NodeSoftState],
) -> Option<u64> {
    let begun = shard.recovery.as_ref().filter(|recovery| recovery.group != record.group);
    let begun = begun.map(|recovery| recovery.generation);
    let current = (shard.group != record.group).then_some(shard.generation);
    let told = others.iter().flat_map(|other| &other.databases).filter_map(|copy| {
        let is_same = copy.database == record.database && copy.shard == record.shard;
        (is_same && copy.group != record.group).then_some(copy.generation)
    });
    let accepted = record.accepted.map(|accepted| accepted.generation);
    let all = told.chain(begun).chain(current).chain(accepted);
    all.filter(|generation| *generation > record.generation).max()
}

fn failed(error: &FormerError) -> Failure {
    Failure::new(Code::DataCorrupt, "a copy of a former generation cannot be read").because(error)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce(Handle) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let runtime = Handle::current();
    let done = tokio::task::spawn_blocking(move || work(runtime)).await;
    done.unwrap_or_else(|error| {
        Err(Failure::new(Code::Internal, "the work on a copy ended early").because(error))
    })
}

impl Databases {
    fn begin_work(&self, group: GroupId) -> bool {
        self.at_work().insert(group)
    }

    fn end_work(&self, group: GroupId) {
        self.at_work().remove(&group);
        self.changed.notify_one();
    }

    async fn carry_out(&self, copy: LocalCopy, task: Task) -> Result<(), Failure> {
        match task {
            Task::Seal(generation) => self.seal(copy, generation).await,
            Task::Found(recovery) => self.found_generation(&copy, &recovery).await,
            Task::GiveUp(retired) => {
                match (retired, copy.sealed) {
                    (Some(retired), Some(sealed)) => {
                        self.keep_tail(&copy.record, sealed, *retired).await?;
                    }
                    (Some(_), None) => self.put_aside(&copy.record)?,
                    (None, _) => {}
                }
                self.leave(copy.record.group).await
            }
        }
    }

    /// Stops a copy, remembers that, and sees what it has.
    async fn seal(&self, copy: LocalCopy, generation: u64) -> Result<(), Failure> {
        let LocalCopy { mut record, shard, .. } = copy;
        let known = self.consensus.group(record.group);
        let committed = known.and_then(|group| group.status().borrow().committed);
        let before = record.accepted.and_then(|accepted| accepted.committed);
        record.accepted = Some(Acceptance { generation, committed: committed.max(before) });
        let why = format!("generation {generation} of the database has begun");
        tracing::warn!(database = record.database, generation, "a copy is stopped: {why}");
        // From here on nothing opens it again.
        let closed = |sealed| LocalCopy {
            record: record.clone(),
            shard: None,
            problem: Some((CopyState::Stopped, why.clone())),
            again: None,
            sealed,
        };
        self.put(closed(None));
        if let Some(shard) = shard {
            shard.close().await;
        }
        self.keep_record(&record)?;
        let (files, consensus, sealing) =
            (self.files(record.group), self.consensus.clone(), record.clone());
        let sealed = blocking(move |runtime| sealed_copy(&files, &consensus, &sealing, runtime));
        match sealed.await {
            Ok(sealed) => self.put(closed(Some(sealed))),
            Err(failure) => {
                let problem = Some((CopyState::Broken, failure.to_string()));
                self.put(LocalCopy { problem, ..closed(None) });
            }
        }
        Ok(())
    }

    /// Makes the group of a new generation from the sealed copy of the old one.
    async fn found_generation(
        &self,
        copy: &LocalCopy,
        recovery: &RecoveryRecord,
    ) -> Result<(), Failure> {
        let Some((_, fork)) = recovery.chosen else { return Ok(()) };
        let record = CopyRecord {
            group: recovery.group,
            generation: recovery.generation,
            accepted: None,
            ..copy.record.clone()
        };
        self.empty(record.group).await?;
        let old = copy.record.group;
        let files = self.files(old);
        let (target, consensus) = (self.files(record.group), self.consensus.clone());
        let copied = blocking(move |runtime| {
            let mut former =
                Former::open(&files, &consensus, old, runtime).map_err(|error| failed(&error))?;
            while former.advance().map_err(|error| failed(&error))?.is_some() {}
            if position(former.position()) != fork.end {
                return Err(Failure::new(Code::DataCorrupt, "the copy is not what it was")
                    .because(format!("it is at {}, not at {}", former.position(), fork.end)));
            }
            former.copy_to(&target).map_err(|error| failed(&error))
        });
        let base = copied.await?;
        let (term, voters) = (fork.last.term, [self.node].into());
        let begun = self.consensus.begin_at(record.group, base, term, &voters).await;
        begun.map_err(|error| {
            Failure::new(Code::DiskFailed, "the group of the new generation was not made")
                .because(error)
        })?;
        self.keep_record(&record)?;
        tracing::warn!(
            database = record.database,
            generation = record.generation,
            position = %fork.end,
            "made a new generation from the copy here"
        );
        self.open(record, First::Open).await;
        Ok(())
    }

    /// Keeps what a copy of a former generation has beyond where that ended.
    async fn keep_tail(
        &self,
        record: &CopyRecord,
        sealed: SealedCopy,
        retired: RetiredGroup,
    ) -> Result<(), Failure> {
        let is_empty = sealed.end.sequence == 0;
        let is_known = sealed.end == retired.fork.end;
        if is_empty || is_known || is_prefix(sealed.last, retired.fork.last) {
            return Ok(());
        }
        let dir = self.data.make_private_dir(tail::DIRECTORY)?;
        let log = self.consensus.closed_log(record.group).await;
        let noted = log.map_err(|error| failed(&error.into()))?.committed;
        let source = tail::Source {
            files: self.files(record.group),
            dir,
            node: self.node,
            database: record.database.clone(),
            shard: record.shard,
            group: record.group,
            committed: record.accepted.and_then(|accepted| accepted.committed).max(noted),
            retired,
        };
        let consensus = self.consensus.clone();
        let kept = blocking(move |runtime| tail::extract(&source, &consensus, runtime)).await?;
        tracing::warn!(database = record.database, file = kept, "kept the tail of a copy");
        Ok(())
    }

    /// Keeps the files of a copy that cannot be read, for whoever wants to try.
    fn put_aside(&self, record: &CopyRecord) -> Result<(), Failure> {
        let dir = self.data.make_private_dir(tail::DIRECTORY)?;
        let CopyRecord { database, shard, generation, .. } = record;
        let aside = dir.join(format!("{database}-{shard}-g{generation}-unreadable"));
        match std::fs::rename(self.files(record.group), &aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::new(Code::DiskFailed, "a copy could not be put aside").because(error))
            }
            _ => {
                let aside = aside.display();
                tracing::error!(database, %aside, "a copy cannot be read and was put aside");
                Ok(())
            }
        }
    }

    fn files(&self, group: GroupId) -> PathBuf {
        self.dir(group).join("files")
    }
}

/// Whether a log that ends at `last` is a beginning of one that ends at `longer`:
/// a term has one leader, and logs that have an entry of it in common are equal up
/// to it.
fn is_prefix(last: LogPlace, longer: LogPlace) -> bool {
    last.term == longer.term && last.index <= longer.index
}

/// What the file and the log of a closed copy hold.
fn sealed_copy(
    files: &Path,
    consensus: &Consensus,
    record: &CopyRecord,
    runtime: Handle,
) -> Result<SealedCopy, Failure> {
    let accepted = record.accepted.ok_or_else(|| Failure::new(Code::Internal, "not accepted"))?;
    let log = runtime.block_on(consensus.closed_log(record.group));
    let log = log.map_err(|error| failed(&error.into()))?;
    let mut former =
        Former::open(files, consensus, record.group, runtime).map_err(|error| failed(&error))?;
    let until = log.committed.max(accepted.committed).map_or(0, |committed| committed.index);
    let mut committed = former.position();
    while let Some(entry) = former.advance().map_err(|error| failed(&error))? {
        if entry.index <= until {
            committed = former.position();
        }
    }
    let last = log.last.map_or(LogPlace { term: 0, index: 0 }, |last| LogPlace {
        term: last.term,
        index: last.index,
    });
    Ok(SealedCopy {
        generation: accepted.generation,
        last,
        end: position(former.position()),
        committed: position(committed),
    })
}

/// A position as the control state has it.
pub fn position(position: Position) -> CopyPosition {
    let Position { generation, epoch, sequence, hash } = position;
    CopyPosition { generation, epoch, sequence, hash: Digest(hash) }
}

#[cfg(test)]
mod tests;
