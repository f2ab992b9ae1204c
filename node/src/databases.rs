//! The copies of databases on this node: which there are, how they are, and what
//! is said of them.
//!
//! A copy lives in `db/GROUP/`: its SQLite files, and `copy`, which says what it
//! is a copy of. The file is written when the copy takes part in its group, so that
//! a start without anybody else knows what to open.

mod directory;
mod group;
mod reconcile;
pub mod recover;
mod room;
mod suspicion;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rung_consensus::{Consensus, GroupConfig, OpenError};
use rung_control_plane::State;
use rung_proto::soft::{
    ArchiveStatus, CopyKind, CopyState, CopyStatus, LogPlace, NodeSoftState, SealedCopy,
    first_generation,
};
use rung_proto::{Code, Failure, Generation, GroupId, NodeId, encoding};
use rung_shard::{CopyState as ShardState, First, Shard, ShardConfig, Stop};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::data_dir::DataDir;
use crate::database_scrub::Scrubs;
use crate::timing::Timing;

pub use reconcile::run;
pub use suspicion::run as watch_primaries;

const COPY_FILE: &str = "copy";
/// A copy that stopped because of its disk is opened again so long after.
const OPEN_AGAIN: Duration = Duration::from_secs(3);
/// Positions are told to the others this often; what matters for routing at once.
const TELL: Duration = Duration::from_millis(250);
/// A primary that has not heard of a majority for so long does not serve writes.
const ALONE: Duration = Duration::from_secs(2);

/// What a local copy is a copy of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyRecord {
    pub database: String,
    pub shard: u32,
    pub group: GroupId,
    #[serde(default = "first_generation")]
    pub generation: u64,
    /// Once another generation has begun: the copy takes no part in its group.
    #[serde(default)]
    pub accepted: Option<recover::Acceptance>,
}

/// A copy on this node.
#[derive(Clone)]
pub struct LocalCopy {
    pub record: CopyRecord,
    /// Nothing when it could not be opened; `problem` says why.
    pub shard: Option<Shard>,
    pub problem: Option<(CopyState, String)>,
    /// When it is tried again to open it.
    again: Option<Instant>,
    /// What it has, once it takes no part in its group any more.
    pub sealed: Option<SealedCopy>,
}

/// The copies of this node. Clones are the same.
#[derive(Clone)]
pub struct Databases {
    node: NodeId,
    data: Arc<DataDir>,
    consensus: Consensus,
    timing: Timing,
    copies: Arc<Mutex<BTreeMap<GroupId, LocalCopy>>>,
    /// Whether what earlier starts left was opened.
    opened: Arc<AtomicBool>,
    /// Those that are on their way to another generation.
    at_work: Arc<Mutex<BTreeSet<GroupId>>>,
    /// Rung when a copy becomes something else.
    changed: Arc<Notify>,
    directory: watch::Sender<Arc<rung_db::Directory>>,
    /// The archives that this node writes.
    archives: Arc<Mutex<BTreeMap<GroupId, ArchiveStatus>>>,
    scrubs: Arc<Mutex<Scrubs>>,
}

impl Databases {
    pub fn new(node: NodeId, data: Arc<DataDir>, consensus: Consensus, timing: Timing) -> Self {
        Self {
            node,
            data,
            consensus,
            timing,
            copies: Arc::default(),
            opened: Arc::default(),
            at_work: Arc::default(),
            changed: Arc::default(),
            directory: watch::Sender::default(),
            archives: Arc::default(),
            scrubs: Arc::default(),
        }
    }

    /// Where the databases are, for those who route statements.
    pub fn directory(&self) -> watch::Receiver<Arc<rung_db::Directory>> {
        self.directory.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, LocalCopy>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_work(&self) -> MutexGuard<'_, BTreeSet<GroupId>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, copy: LocalCopy) {
        self.lock().insert(copy.record.group, copy);
        self.changed.notify_one();
    }

    /// The copies as they are now.
    pub fn copies(&self) -> Vec<LocalCopy> {
        self.lock().values().cloned().collect()
    }

    /// Whether there is a copy of the same shard in another group.
    fn has_other_copy(&self, record: &CopyRecord) -> bool {
        self.lock().values().map(|copy| &copy.record).any(|other| {
            (&other.database, other.shard) == (&record.database, record.shard)
                && other.group != record.group
        })
    }

    pub fn copy(&self, group: GroupId) -> Option<LocalCopy> {
        self.lock().get(&group).cloned()
    }

    /// The archives that this node writes.
    pub fn archives(&self) -> MutexGuard<'_, BTreeMap<GroupId, ArchiveStatus>> {
        self.archives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scrubs that this node runs.
    pub fn scrubs(&self) -> MutexGuard<'_, Scrubs> {
        self.scrubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self, group: GroupId) -> PathBuf {
        self.data.join(&format!("db/{}", group.0))
    }

    /// Whether what earlier starts left was opened.
    pub(super) fn is_opened(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }

    /// Whether earlier starts left anything.
    pub(super) fn has_copies(&self) -> bool {
        let left = std::fs::read_dir(self.data.join("db"));
        left.is_ok_and(|mut left| left.next().is_some())
    }

    /// Opens what earlier starts left, but for copies whose generation is over. A copy
    /// that cannot be opened is kept as it is and reported.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(super) async fn open_all(
        &self,
        state: &State,
        others: &[NodeSoftState],
    ) -> Result<(), Failure> {
        self.data.make_private_dir("db")?;
        let unreadable = |error: std::io::Error| {
            Failure::new(Code::DiskFailed, "the directory of the databases cannot be read")
                .because(error)
        };
        for entry in std::fs::read_dir(self.data.join("db")).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let Ok(bytes) = std::fs::read(path.join(COPY_FILE)) else {
                // Begun and never part of its group: what begins it again empties it.
                continue;
            };
            match encoding::decode::<CopyRecord>(&bytes) {
                Ok(record) if recover::is_over(&record, state, others) => self.put_over(record),
                Ok(record) => self.open(record, First::Open).await,
                Err(error) => {
                    let path = path.display();
                    tracing::error!(%path, %error, "what a copy is a copy of cannot be read");
                }
            }
        }
        self.opened.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the group of a new shard, with this node as its only member.
    pub(super) async fn found(&self, record: CopyRecord) -> Result<(), Failure> {
        self.empty(record.group).await?;
        let voters = [self.node].into();
        self.open(record.clone(), First::Create { voters }).await;
        let kept = self.keep_record(&record);
        if kept.is_err() {
            // The next start would not know that this is the only copy.
            self.leave(record.group).await?;
        }
        kept
    }

    /// Takes part in a group, which must then add this node.
    pub(super) async fn join(&self, record: CopyRecord) {
        let prepared = match self.empty(record.group).await {
            Ok(()) => self.keep_record(&record),
            Err(failure) => Err(failure),
        };
        match prepared {
            Ok(()) => self.open(record, First::Open).await,
            Err(failure) => self.put_closed(record, CopyState::Stopped, failure.to_string()),
        }
    }

    /// Closes copies that have stopped, so that their groups can go on without them,
    /// and opens those again whose disk may be well by now. A damaged one stays
    /// closed until its group does not count on it.
    pub(super) async fn mend(&self) {
        for copy in self.copies() {
            if copy.record.accepted.is_some() {
                continue;
            }
            match (&copy.shard, copy.again) {
                (Some(shard), _) => {
                    let state = shard.state().borrow().clone();
                    let ShardState::Stopped(why) = state else { continue };
                    shard.close().await;
                    self.put_closed(copy.record, stopped_as(&why), why.to_string());
                }
                (None, Some(at)) if at <= Instant::now() => {
                    let is_known = self.dir(copy.record.group).join(COPY_FILE).exists();
                    match is_known {
                        true => self.open(copy.record, First::Open).await,
                        false => self.join(copy.record).await,
                    }
                }
                _ => {}
            }
        }
    }

    /// Keeps a copy as one that is not open, and says why.
    fn put_closed(&self, record: CopyRecord, state: CopyState, why: String) {
        let group = record.group;
        let again = (state == CopyState::Stopped).then(|| Instant::now() + OPEN_AGAIN);
        let problem = Some((state, why));
        let copy = LocalCopy { record, shard: None, problem, again, sealed: None };
        let former = self.lock().insert(group, copy.clone()).and_then(|former| former.problem);
        if former != copy.problem {
            let (database, why) = (copy.record.database, copy.problem.map(|(_, why)| why));
            tracing::error!(role = "db", database, %group, why, "a copy does not serve");
        }
        self.changed.notify_one();
    }

    /// Keeps a copy as one that takes no part in its group any more.
    fn put_over(&self, record: CopyRecord) {
        let why = "another generation of the database has begun".to_owned();
        let problem = Some((CopyState::Stopped, why));
        self.put(LocalCopy { record, shard: None, problem, again: None, sealed: None });
    }

    fn keep_record(&self, record: &CopyRecord) -> Result<(), Failure> {
        let name = format!("db/{}/{COPY_FILE}", record.group.0);
        self.data.write_private(&name, &encoding::encode(record))
    }

    /// Removes what is left of a copy here.
    async fn empty(&self, group: GroupId) -> Result<(), Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(Code::DiskFailed, "a copy of a database cannot be removed").because(why)
        };
        if self.consensus.has_replica(group) {
            self.consensus.remove(group).await.map_err(|error| failed(&error))?;
        }
        let dir = self.dir(group);
        // First what says that there is a copy.
        for path in [dir.join(COPY_FILE), dir.clone()] {
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed(&error));
                }
                _ => {}
            }
        }
        self.data.make_private_dir(&format!("db/{}", group.0)).map(drop)
    }

    /// Closes a copy that the group does not count on any more, and removes it.
    pub(super) async fn leave(&self, group: GroupId) -> Result<(), Failure> {
        let copy = self.lock().remove(&group);
        if let Some(shard) = copy.and_then(|copy| copy.shard) {
            shard.close().await;
        }
        self.empty(group).await?;
        let _ = std::fs::remove_dir(self.dir(group));
        self.changed.notify_one();
        Ok(())
    }

    async fn open(&self, record: CopyRecord, first: First) {
        let opened = Shard::open(self.config(&record), &self.consensus, first).await;
        match opened {
            Ok(shard) => {
                tokio::spawn(tell_changes(shard.clone(), Arc::clone(&self.changed)));
                self.put(LocalCopy {
                    record,
                    shard: Some(shard),
                    problem: None,
                    again: None,
                    sealed: None,
                });
            }
            Err(error) => {
                let state = match &error {
                    OpenError::Damaged { .. } => CopyState::Broken,
                    _ => CopyState::Stopped,
                };
                self.put_closed(record, state, error.to_string());
            }
        }
    }

    fn config(&self, record: &CopyRecord) -> ShardConfig {
        let name = format!("db/{}/{}", record.database, record.shard);
        let mut group = GroupConfig::new(record.group, name);
        (group.heartbeat, group.election) = (self.timing.heartbeat(), self.timing.election());
        group.max_payload = rung_consensus::MAX_PAYLOAD;
        let dir = self.dir(record.group).join("files");
        let mut config = ShardConfig::new(dir, group, self.node);
        config.generation = Generation(record.generation);
        config.number = u16::try_from(record.shard).unwrap_or(u16::MAX);
        config
    }

    /// Closes all copies, so that what is executed is in the log.
    pub async fn close(&self) {
        for copy in self.copies() {
            if let Some(shard) = copy.shard {
                shard.close().await;
            }
        }
    }
}

/// Rings when a copy becomes primary, follower, or stops; not for each write.
async fn tell_changes(shard: Shard, changed: Arc<Notify>) {
    let mut state = shard.state();
    // The shard keeps the sender; a copy that was closed must not be kept by this.
    drop(shard);
    while state.changed().await.is_ok() {
        changed.notify_one();
    }
}

/// What is said of a copy: `is_witness` as the control state says, `primary` as its
/// primary says of itself.
fn copy_status(
    copy: &LocalCopy,
    consensus: &Consensus,
    is_witness: bool,
    primary: Option<&CopyStatus>,
) -> CopyStatus {
    let record = &copy.record;
    let follower = if is_witness { CopyKind::Witness } else { CopyKind::Replica };
    let mut told = CopyStatus {
        database: record.database.clone(),
        shard: record.shard,
        group: record.group,
        kind: follower,
        state: CopyState::Stopped,
        generation: record.generation,
        epoch: 0,
        sequence: 0,
        lag_ms: None,
        voters: Vec::new(),
        learners: Vec::new(),
        problem: None,
        snapshot_bytes: 0,
        last: consensus
            .last_entry(record.group)
            .map(|last| LogPlace { term: last.term, index: last.index }),
        sealed: copy.sealed,
        archive: None,
        scrub: None,
    };
    if let Some(sealed) = &copy.sealed {
        (told.epoch, told.sequence) = (sealed.committed.epoch, sealed.committed.sequence);
    }
    let mut is_alone = false;
    if let Some(group) = consensus.group(record.group) {
        told.snapshot_bytes = group.snapshot_bytes();
        let status = group.status();
        let status = status.borrow();
        told.epoch = status.term;
        told.voters = status.voters.iter().copied().collect();
        told.learners = status.learners.iter().copied().collect();
        is_alone = status.voters.len() > 1
            && status.quorum_acknowledged.is_none_or(|at| at.elapsed() > ALONE);
    }
    if let Some((state, why)) = &copy.problem {
        (told.state, told.problem) = (*state, Some(why.clone()));
    }
    let Some(shard) = &copy.shard else { return told };
    let status = shard.status();
    told.generation = status.position.generation.0;
    told.sequence = status.position.sequence;
    match status.state {
        ShardState::Primary { epoch } => {
            (told.kind, told.state, told.epoch) = (CopyKind::Primary, CopyState::Serving, epoch);
            told.lag_ms = Some(0);
            if shard.keeps_room() {
                told.problem = Some("its disk has hardly any room left".to_owned());
            }
            if is_alone {
                told.state = CopyState::CatchingUp;
                told.problem = Some("its primary does not reach a majority".to_owned());
            }
        }
        ShardState::Taking { epoch } => {
            (told.kind, told.state, told.epoch) = (CopyKind::Primary, CopyState::CatchingUp, epoch);
        }
        ShardState::Follower { .. } => {
            told.state = if is_complete(&told, primary) {
                CopyState::Serving
            } else {
                CopyState::CatchingUp
            };
        }
        ShardState::Stopped(why) => {
            (told.state, told.problem) = (stopped_as(&why), Some(why.to_string()));
        }
    }
    told
}

fn stopped_as(why: &Stop) -> CopyState {
    match why {
        Stop::Damaged(_) => CopyState::Broken,
        Stop::Closed | Stop::DiskFull(_) | Stop::Failed(_) => CopyState::Stopped,
    }
}

/// Batches that a replica may lack and still be called complete: it has them a
/// moment later.
const NEARLY: u64 = 1_000;

/// Whether a follower has what the primary had when it last told. Without a primary
/// a voter counts as complete: it is what the group will choose from.
fn is_complete(mine: &CopyStatus, primary: Option<&CopyStatus>) -> bool {
    match primary {
        Some(primary) => {
            mine.sequence > 0 && mine.sequence.saturating_add(NEARLY) >= primary.sequence
        }
        None => mine.sequence > 0,
    }
}
