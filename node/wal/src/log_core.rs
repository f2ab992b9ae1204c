//! The state of a log in memory, and what is to be done next. No I/O happens
//! here: [`LogCore::next_step`] says what to write, somebody does it, and
//! `finish_*` says how it went.

mod batches;
mod queueing;
mod space;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rung_proto::GroupId;
use tokio::sync::oneshot;

pub(crate) use self::batches::segment_bytes_for;
use self::queueing::image_bytes;
use crate::config::WalConfig;
use crate::disk::DiskFile;
use crate::error::WalError;
use crate::group::{self, GroupState, Image, LogEntry, Write};
use crate::record::{Position, Run, Seed};
use crate::segment::Segment;
use crate::stats::WalStats;

/// How many batches may be written and not yet synced.
const MAX_IN_FLIGHT: usize = 2;
/// Where a batch ends if more is waiting, in bytes.
const BATCH_TARGET_BYTES: usize = 4 << 20;
/// How much one batch copies out of sparse segments, in bytes.
const COPY_BYTES: u64 = 256 << 10;
/// A segment is emptied by copying if it is filled by less than one part in
/// this many. So copying costs at most a third of what is appended, and the
/// files take at most this many times the bytes that are alive, plus two
/// segments.
const SPARSE_FACTOR: u64 = 4;

/// How many files wait to become segments.
const MAX_SPARES: usize = 2;
/// The size of a segment that is made while somebody waits for it.
pub(crate) const SMALL_SEGMENT_BYTES: u64 = 1 << 20;

pub(crate) type Answer = oneshot::Sender<Result<(), WalError>>;

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub segment: u64,
    pub offset: u32,
    pub bytes: u32,
    pub header: u64,
}

/// An entry that is queued and not yet written. The ticket tells it from
/// another one that had its index before.
#[derive(Debug)]
struct Unwritten {
    ticket: u64,
    entry: LogEntry,
}

/// One group. What is queued may be ahead of what is written; readers see what
/// is queued.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub queued: Option<Image>,
    pub written: Option<Image>,
    /// Where the entries of `written` lie, one for each index of its range.
    pub slots: VecDeque<Slot>,
    /// The contents of the last of these.
    cached: VecDeque<Bytes>,
    unwritten: VecDeque<Unwritten>,
}

impl Group {
    /// A group as a start found it.
    pub fn recovered(image: Image, slots: VecDeque<Slot>) -> Self {
        Self { queued: Some(image.clone()), written: Some(image), slots, ..Self::default() }
    }

    fn bounds(&self) -> group::Bounds {
        self.queued.as_ref().map(|image| image.bounds).unwrap_or_default()
    }

    fn written_range(&self) -> Option<(u64, u64)> {
        self.written.as_ref().and_then(|image| image.bounds.range)
    }

    fn slot(&self, index: u64) -> Option<(usize, Slot)> {
        let (first, _) = self.written_range()?;
        let place = usize::try_from(index.checked_sub(first)?).ok()?;
        self.slots.get(place).map(|slot| (place, *slot))
    }

    pub fn runs(&self) -> Vec<Run> {
        let Some((first, _)) = self.written_range() else { return Vec::new() };
        let mut runs: Vec<Run> = Vec::new();
        for (slot, index) in self.slots.iter().zip(first..) {
            match runs.last_mut() {
                Some(run) if run.segment == slot.segment => run.last = index,
                _ => runs.push(Run { segment: slot.segment, first: index, last: index }),
            }
        }
        runs
    }
}

/// One call of `write`, waiting.
#[derive(Debug)]
pub(crate) struct Item {
    pub group: GroupId,
    pub writes: Vec<Write>,
    bytes: usize,
    /// The ticket of its first entry.
    ticket: u64,
    appends: bool,
    answer: Option<Answer>,
    /// The repair of everything was reported: see [`LogCore::queue_cleared`].
    pub clears_damage: bool,
}

/// An entry to be copied forward, and where it is read from.
#[derive(Clone, Debug)]
pub(crate) struct CopyPlan {
    pub group: GroupId,
    pub index: u64,
    pub slot: Slot,
    pub file: Arc<dyn DiskFile>,
    pub path: PathBuf,
    pub seed: Seed,
}

/// A batch to be written at `base` of `file`.
#[derive(Debug)]
pub(crate) struct Batch {
    pub number: u64,
    pub base: u64,
    pub synced: u64,
    pub segment: u64,
    pub seed: Seed,
    pub file: Arc<dyn DiskFile>,
    pub path: PathBuf,
    pub items: Vec<Item>,
    pub copies: Vec<CopyPlan>,
    pub frees: Vec<u64>,
}

/// What a batch became on the disk.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub bytes: u64,
    /// The place of each appended entry, in the order of the items.
    pub entries: Vec<Slot>,
    /// The place of each copied entry; none for one that could not be read.
    pub copies: Vec<Option<Slot>>,
}

/// A segment to be made.
#[derive(Debug)]
pub(crate) struct Rotation {
    pub id: u64,
    pub bytes: u64,
    pub head: Vec<u8>,
    pub spare: Option<Spare>,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Step {
    Idle,
    Batch(Batch),
    Rotate(Rotation),
}

/// How an attempt to write ended if not well.
#[derive(Clone, Debug)]
pub(crate) enum Failed {
    /// No space, and nothing is left behind that a reader would take as valid.
    Full,
    Fatal(String),
}

#[derive(Debug)]
struct Flight {
    number: u64,
    end: u64,
    answers: Vec<Answer>,
    frees: Vec<u64>,
    synced: bool,
}

/// A file that can become a segment without being allocated first: one made in
/// advance, or one that was a segment and is not needed any more. What such a
/// one still holds does not pass in the segment that it becomes.
#[derive(Debug)]
pub(crate) struct Spare {
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
}

/// Whether segments are made in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Nobody does, or there was no space: they are made when they are needed.
    Off,
    /// One is made as soon as there is none.
    Ready,
    Busy,
}

/// What becomes of the file of a segment that is not needed any more.
#[derive(Debug)]
pub(crate) enum Disposal {
    Delete,
    /// It is damaged and kept for people.
    KeepAside,
    Reuse(Arc<dyn DiskFile>),
}

/// An entry as a reader finds it.
#[derive(Debug)]
pub(crate) enum Found {
    Here(LogEntry),
    OnDisk { index: u64, slot: Slot, file: Arc<dyn DiskFile>, path: PathBuf, seed: Seed },
}

#[derive(Debug)]
pub(crate) struct LogCore {
    config: WalConfig,
    log_id: u64,
    pub groups: BTreeMap<GroupId, Group>,
    queue: VecDeque<Item>,
    queued_bytes: usize,
    next_ticket: u64,
    /// What the images of all groups take in a head, roughly.
    image_bytes: u64,
    segments: BTreeMap<u64, Segment>,
    current: u64,
    /// Everything before this offset of the current segment is on the disk.
    synced: u64,
    next_batch: u64,
    writing: bool,
    /// What is being written is a segment.
    rotating: bool,
    flights: VecDeque<Flight>,
    /// The last batch says that everything before it is synced.
    sealed: bool,
    damage: Option<Position>,
    /// Entries still to be copied out of a sparse segment.
    copying: VecDeque<(GroupId, u64)>,
    copying_from: u64,
    look_for_sparse: bool,
    cache_order: VecDeque<(GroupId, u64)>,
    cached_entries: usize,
    dead: Option<String>,
    pub closed: bool,
    /// Somebody makes segments in advance.
    has_maker: bool,
    maker: Maker,
    spares: Vec<Spare>,
    /// How many more are on their way from [`LogCore::unneeded`].
    coming_spares: usize,
    pub stats: WalStats,
    /// Results to be given to those who wait, when the lock is released.
    pub answers: Vec<(Answer, Result<(), WalError>)>,
    /// Segments whose files are not needed any more.
    pub unneeded: Vec<(u64, Disposal)>,
}

/// What a start found or made.
pub(crate) struct Opened {
    pub log_id: u64,
    pub groups: BTreeMap<GroupId, Group>,
    pub segments: BTreeMap<u64, Segment>,
    pub current: u64,
    pub damage: Option<Position>,
}

impl LogCore {
    pub fn new(config: WalConfig, opened: Opened) -> Self {
        let Opened { log_id, groups, segments, current, damage } = opened;
        let synced = segments[&current].end;
        let image_bytes = groups.values().map(|group| image_bytes(group.queued.as_ref())).sum();
        Self {
            config,
            log_id,
            groups,
            queue: VecDeque::new(),
            queued_bytes: 0,
            next_ticket: 0,
            image_bytes,
            segments,
            current,
            synced,
            next_batch: 1,
            writing: false,
            rotating: false,
            flights: VecDeque::new(),
            sealed: true,
            damage,
            copying: VecDeque::new(),
            copying_from: 0,
            look_for_sparse: true,
            cache_order: VecDeque::new(),
            cached_entries: 0,
            dead: None,
            closed: false,
            has_maker: false,
            maker: Maker::Off,
            spares: Vec::new(),
            coming_spares: 0,
            stats: WalStats::default(),
            answers: Vec::new(),
            unneeded: Vec::new(),
        }
    }

    pub fn state(&self, group: GroupId) -> GroupState {
        let Some(group) = self.groups.get(&group) else { return GroupState::default() };
        let Some(image) = &group.queued else { return GroupState::default() };
        let last_header = image.bounds.range.and_then(|(_, last)| match group.unwritten.back() {
            Some(unwritten) => Some(unwritten.entry.header),
            None => group.slot(last).map(|(_, slot)| slot.header),
        });
        GroupState {
            first_index: image.bounds.range.map(|(first, _)| first),
            last_index: image.bounds.range.map(|(_, last)| last),
            last_header,
            purged_index: image.bounds.purged,
            meta: image.meta.clone(),
            corrupt: image.bounds.corrupt,
        }
    }

    pub fn group_ids(&self) -> Vec<GroupId> {
        let exists = |(id, group): (&GroupId, &Group)| group.queued.is_some().then_some(*id);
        self.groups.iter().filter_map(exists).collect()
    }

    /// The entries of `range` that the group has, up to `max_bytes` of payload
    /// and at least one.
    pub fn find(&self, id: GroupId, range: Range<u64>, max_bytes: usize) -> Vec<Found> {
        let mut found = Vec::new();
        let Some(group) = self.groups.get(&id) else { return found };
        let Some((first, last)) = group.bounds().range else { return found };
        let mut left = max_bytes;
        for index in range.start.max(first)..range.end.min(last + 1) {
            let Some((entry, bytes)) = self.find_one(group, index) else { break };
            if !found.is_empty() && bytes > left {
                break;
            }
            left = left.saturating_sub(bytes);
            found.push(entry);
        }
        found
    }

    fn find_one(&self, group: &Group, index: u64) -> Option<(Found, usize)> {
        let unwritten_from = group.unwritten.front().map_or(u64::MAX, |first| first.entry.index);
        if let Some(place) = index.checked_sub(unwritten_from) {
            let entry = group.unwritten.get(usize::try_from(place).ok()?)?.entry.clone();
            let bytes = entry.payload.len();
            return Some((Found::Here(entry), bytes));
        }
        let (place, slot) = group.slot(index)?;
        let uncached = group.slots.len() - group.cached.len();
        if let Some(place) = place.checked_sub(uncached) {
            let payload = group.cached[place].clone();
            let bytes = payload.len();
            let entry = LogEntry { index, header: slot.header, payload };
            return Some((Found::Here(entry), bytes));
        }
        let segment = self.segments.get(&slot.segment)?;
        let found = Found::OnDisk {
            index,
            slot,
            file: segment.file.clone(),
            path: segment.path.clone(),
            seed: segment.seed,
        };
        Some((found, slot.bytes as usize))
    }

    pub fn stats(&self) -> WalStats {
        WalStats {
            segments: self.segments.len() as u64,
            disk_bytes: self.segments.values().map(|segment| segment.bytes).sum::<u64>()
                + self.spares.len() as u64 * self.config.segment_bytes,
            live_bytes: self.segments.values().map(|segment| segment.live_bytes).sum(),
            live_entries: self.segments.values().map(|segment| segment.live).sum(),
            queued_bytes: self.queued_bytes as u64,
            ..self.stats.clone()
        }
    }

    /// Nothing is waiting, being written or being synced.
    pub fn is_quiet(&self) -> bool {
        let idle = self.queue.is_empty() && self.flights.is_empty() && !self.writing;
        idle || self.dead.is_some()
    }

    /// Something waits to be written.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Everything written is noted as synced.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub fn dead(&self) -> Option<&String> {
        self.dead.as_ref()
    }
}
