//! Opening a log: what is there, what is torn, what is damaged.

mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rung_proto::GroupId;

use self::walk::{Head, HeadError, Walk, read_head};
use crate::config::WalConfig;
use crate::disk::{Disk, DiskFile};
use crate::error::{OpenError, is_full};
use crate::group::Image;
use crate::log_core::{Group, Opened, SMALL_SEGMENT_BYTES, Slot, segment_bytes_for};
use crate::record::{self, Decoded, OlderSegment, Position, Record, Run, Seed};
use crate::segment::{self, HeadWriter, PREAMBLE_BYTES, Segment};

const READ_BYTES: usize = 1 << 20;
/// How much is given up as unreadable around a bad place of the disk.
const BAD_BYTES: usize = 4096;

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The groups that have a log.
    pub groups: Vec<GroupId>,
    /// Segment files that were in use.
    pub segments: usize,
    /// Entries found.
    pub entries: u64,
    /// Where the log ended in something half written that was cut off; it was
    /// never acknowledged.
    pub torn: Option<Damage>,
    /// Entries of the unsynced tail that were written anew.
    pub rewritten: u64,
    /// Something that had been acknowledged is gone.
    pub corruption: Option<Corruption>,
}

/// Acknowledged content is damaged. The log can be used for the groups that
/// are not affected. A replica that is must not vote and must not trust its
/// vote: it is dropped ([`crate::Write::DropGroup`]) and fetched from its peers.
/// Until then every start reports it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corruption {
    /// What was found now; empty if an earlier start found it.
    pub damages: Vec<Damage>,
    /// The groups that lost something or may have, and were not dropped since.
    /// Their entries before the first one missing can still be read.
    pub groups: Vec<GroupId>,
    /// There may have been groups that the log does not know any more. When all
    /// of this node's replicas are repaired, call [`crate::Wal::clear_damage`].
    pub unknown_groups: bool,
}

impl Recovery {
    /// True if the group's log may lack something that was acknowledged.
    pub fn is_damaged(&self, group: GroupId) -> bool {
        self.corruption.as_ref().is_some_and(|corruption| {
            let unknown = corruption.unknown_groups && !self.groups.contains(&group);
            unknown || corruption.groups.contains(&group)
        })
    }
}

/// A place where the log is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// In which file. It is kept with the extension `damaged` when nothing in
    /// it is needed any more.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What was seen there.
    pub what: String,
}

/// The content of a segment file.
struct Content {
    bytes: Vec<u8>,
    /// The first place that the disk could not read; it stands as zeros.
    unreadable: Option<u64>,
}

/// An entry that a group must have: where, and the slot once it is found.
#[derive(Clone, Copy, Debug)]
struct Expected {
    segment: u64,
    slot: Option<Slot>,
}

#[derive(Default)]
struct FoundGroup {
    image: Image,
    entries: VecDeque<Expected>,
}

/// What is known while a log is being opened.
struct Recovering<'a> {
    disk: &'a dyn Disk,
    config: &'a WalConfig,
    log_id: u64,
    groups: BTreeMap<GroupId, FoundGroup>,
    older: BTreeMap<u64, u64>,
    damage: Option<Position>,
    /// The damage was found now, so that it concerns all groups.
    damage_is_new: bool,
    damages: Vec<Damage>,
    damaged_segments: BTreeSet<u64>,
    affected: BTreeSet<GroupId>,
    torn: Option<Damage>,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { what, path, source }
}

/// Opens the log in `config.dir`, which the caller has locked.
pub(crate) fn open(disk: &dyn Disk, config: &WalConfig) -> Result<(Opened, Recovery), OpenError> {
    let ids = list_segments(disk, &config.dir)?;
    let mut recovering = Recovering {
        disk,
        config,
        log_id: 0,
        groups: BTreeMap::new(),
        older: BTreeMap::new(),
        damage: None,
        damage_is_new: false,
        damages: Vec::new(),
        damaged_segments: BTreeSet::new(),
        affected: BTreeSet::new(),
        torn: None,
    };
    let base = recovering.find_base(&ids.usable)?;
    let tail = match base {
        Some(base) => recovering.replay(base)?,
        None => {
            recovering.log_id = disk.fresh_id();
            Tail { base: 0, synced: 0, content: Vec::new() }
        }
    };
    recovering.find_entries()?;
    recovering.quarantine();
    let next = ids.highest.map_or(1, |highest| highest + 1);
    recovering.start_segment(next, &ids.usable, &tail)
}

struct Ids {
    /// Of segment files, rising.
    usable: Vec<u64>,
    /// Of all files, those kept as damaged included.
    highest: Option<u64>,
}

/// Lists the segments and deletes those that were never finished.
fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<Ids, OpenError> {
    let mut ids = Ids { usable: Vec::new(), highest: None };
    for name in disk.list(dir).map_err(failed("list", dir))? {
        if name.ends_with(".tmp") {
            let path = dir.join(&name);
            disk.remove(&path).map_err(failed("remove", &path))?;
            continue;
        }
        let Some((id, extension)) = segment::parse_name(&name) else { continue };
        if extension == "wal" {
            ids.usable.push(id);
        }
        ids.highest = ids.highest.max(Some(id));
    }
    ids.usable.sort_unstable();
    Ok(ids)
}

/// The last segment, and up to where it is known to be synced.
struct Tail {
    base: u64,
    synced: u64,
    content: Vec<u8>,
}

struct Base {
    id: u64,
    head: Head,
    content: Content,
}

impl Recovering<'_> {
    /// The newest segment with a good head.
    fn find_base(&mut self, ids: &[u64]) -> Result<Option<Base>, OpenError> {
        for id in ids.iter().rev() {
            let path = segment::path(&self.config.dir, *id);
            let content = self.read(&path)?;
            match read_head(&content.bytes, *id) {
                Ok(head) => {
                    self.log_id = head.log_id;
                    return Ok(Some(Base { id: *id, head, content }));
                }
                Err(HeadError::Newer(found)) => {
                    return Err(OpenError::Newer { file: path, found });
                }
                // A segment gets its name when its head is on the disk, so no
                // crash explains this.
                Err(HeadError::Damaged { offset, what }) => {
                    self.note_total(*id, offset, what);
                }
            }
        }
        Ok(None)
    }

    fn note(&mut self, segment: u64, offset: u64, what: impl ToString) {
        let file = segment::path(&self.config.dir, segment);
        self.damages.push(Damage { file, offset, what: what.to_string() });
        self.damaged_segments.insert(segment);
    }

    /// Notes a damage that may concern any group.
    fn note_total(&mut self, segment: u64, offset: u64, what: impl ToString) {
        self.note(segment, offset, what);
        self.damage.get_or_insert(Position { segment, offset });
        self.damage_is_new = true;
    }

    /// Goes through the last segment, whose head has the state of all groups.
    fn replay(&mut self, base: Base) -> Result<Tail, OpenError> {
        let Base { id, head, content } = base;
        self.damage = self.damage.or(head.damage);
        self.older = head.older.iter().map(|older| (older.id, older.end)).collect();
        for (group, image, runs) in head.images {
            let expect = |run: &Run| {
                let count = usize::try_from(run.last - run.first + 1).unwrap_or(usize::MAX);
                std::iter::repeat_n(Expected { segment: run.segment, slot: None }, count)
            };
            let entries = runs.iter().flat_map(expect).collect();
            self.groups.insert(group, FoundGroup { image, entries });
        }
        let seed = Seed::new(self.log_id, id);
        self.take_copies(id, &content.bytes[..head.end], seed);

        let mut walk = Walk::new(&content.bytes, head.end, seed);
        let mut stopped = None;
        while stopped.is_none() {
            let offset = walk.offset;
            match walk.next() {
                Ok(decoded) => {
                    if let Err(what) = self.apply(id, offset, &decoded) {
                        stopped = Some((offset, what.to_owned(), true));
                    }
                }
                Err(error) => stopped = Some((offset, error.to_string(), false)),
            }
        }
        let (offset, what, senseless) = stopped.expect("the walk ended for a reason");
        let end = offset as u64;
        let vouched = walk.later_batch_vouches_for(end);
        let unreadable = content.unreadable.is_some_and(|place| place >= end);
        if vouched || senseless || unreadable {
            self.note_total(id, end, what);
        } else if walk.ends_in_a_batch() {
            let file = segment::path(&self.config.dir, id);
            self.torn = Some(Damage { file, offset: end, what });
        }
        let synced = if vouched { end } else { walk.synced.max(head.end as u64) };
        self.older.insert(id, synced);
        Ok(Tail { base: id, synced, content: content.bytes })
    }

    /// Makes one record of the last segment part of the state.
    fn apply(
        &mut self,
        segment: u64,
        offset: usize,
        decoded: &Decoded<'_>,
    ) -> Result<(), &'static str> {
        let slot =
            |header| Slot { segment, offset: offset as u32, bytes: decoded.bytes as u32, header };
        match &decoded.record {
            Record::Batch { .. } => {}
            Record::Entry { group, index, header, .. } => {
                let group = self.groups.entry(*group).or_default();
                if !group.image.bounds.append(*index) {
                    return Err("an entry does not follow the one before it");
                }
                group.entries.push_back(Expected { segment, slot: Some(slot(*header)) });
            }
            Record::Copy { group, index, header, .. } => {
                if let Some(expected) = self.expected(*group, *index) {
                    *expected = Expected { segment, slot: Some(slot(*header)) };
                }
            }
            Record::Truncate { group, index } => {
                let group = self.groups.entry(*group).or_default();
                group.image.bounds.truncate(*index);
                group.entries.truncate(group.image.bounds.len() as usize);
            }
            Record::Purge { group, index } => {
                let group = self.groups.entry(*group).or_default();
                group.image.bounds.purge(*index);
                let gone = group.entries.len() - group.image.bounds.len() as usize;
                group.entries.drain(..gone);
            }
            Record::Meta { group, key, value } => {
                let group = self.groups.entry(*group).or_default();
                group.image.meta.insert(*key, Bytes::copy_from_slice(value));
            }
            Record::Drop { group } => {
                self.groups.remove(group);
            }
            Record::Free { segment } => {
                self.older.remove(segment);
            }
            Record::Cleared => self.damage = None,
            Record::Manifest { .. } | Record::Image { .. } | Record::HeadEnd => {
                return Err("a record of the head lies behind it");
            }
        }
        Ok(())
    }

    fn expected(&mut self, group: GroupId, index: u64) -> Option<&mut Expected> {
        let group = self.groups.get_mut(&group)?;
        let (first, _) = group.image.bounds.range?;
        group.entries.get_mut(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// Takes the entries that the head of a segment holds.
    fn take_copies(&mut self, segment: u64, head: &[u8], seed: Seed) {
        let mut offset = PREAMBLE_BYTES;
        while let Ok(decoded) = record::decode(&head[offset.min(head.len())..], offset as u64, seed)
        {
            self.take_entry(segment, offset, &decoded);
            offset += decoded.bytes;
        }
    }

    /// Takes an entry of a segment if it is expected there. The last one in the
    /// segment counts: earlier ones of the same index were truncated.
    fn take_entry(&mut self, segment: u64, offset: usize, decoded: &Decoded<'_>) {
        let (Record::Entry { group, index, header, .. }
        | Record::Copy { group, index, header, .. }) = decoded.record
        else {
            return;
        };
        if let Some(expected) = self.expected(group, index).filter(|e| e.segment == segment) {
            let (offset, bytes) = (offset as u32, decoded.bytes as u32);
            expected.slot = Some(Slot { segment, offset, bytes, header });
        }
    }

    /// Looks for the entries that lie in older segments.
    fn find_entries(&mut self) -> Result<(), OpenError> {
        let mut needed: BTreeMap<u64, BTreeSet<GroupId>> = BTreeMap::new();
        for (id, group) in &self.groups {
            for expected in group.entries.iter().filter(|expected| expected.slot.is_none()) {
                needed.entry(expected.segment).or_default().insert(*id);
            }
        }
        for (segment, groups) in needed {
            let damages = self.damages.len();
            match self.older.get(&segment).copied() {
                Some(end) => self.scan(segment, end)?,
                None => self.note(segment, 0, "the log no longer lists this segment"),
            }
            // Which record was damaged cannot be known, so everybody who has
            // entries in the segment may have lost one or got an older one.
            if self.damages.len() > damages {
                self.affected.extend(groups);
            }
        }
        Ok(())
    }

    /// Goes through an older segment up to its end.
    fn scan(&mut self, id: u64, end: u64) -> Result<(), OpenError> {
        let path = segment::path(&self.config.dir, id);
        let content = match self.read(&path) {
            Ok(content) => content,
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.note(id, 0, "the file is missing");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(bytes) = content.bytes.get(..end as usize) else {
            self.note(id, content.bytes.len() as u64, "the file is too short");
            return Ok(());
        };
        let seed = Seed::new(self.log_id, id);
        let start = match read_head(bytes, id) {
            Ok(head) if head.log_id == self.log_id => {
                self.take_copies(id, &bytes[..head.end], seed);
                head.end
            }
            Ok(_) => {
                self.note(id, 0, "the file belongs to another log");
                return Ok(());
            }
            Err(HeadError::Newer(found)) => return Err(OpenError::Newer { file: path, found }),
            Err(HeadError::Damaged { offset, what }) => {
                self.note(id, offset, what);
                self.take_copies(id, bytes, seed);
                offset as usize
            }
        };
        let mut walk = Walk::new(bytes, start, seed);
        while walk.offset < bytes.len() {
            let offset = walk.offset;
            match walk.next() {
                Ok(decoded) => self.take_entry(id, offset, &decoded),
                Err(error) => {
                    self.note(id, offset as u64, error);
                    match record::find_batch(bytes, offset + 1, seed) {
                        Some((next, _)) => walk.offset = next,
                        None => break,
                    }
                }
            }
        }
        Ok(())
    }

    /// Marks the groups that lost something, and keeps of each what lies before
    /// the first entry that is missing.
    fn quarantine(&mut self) {
        for (id, group) in &mut self.groups {
            let missing = group.entries.iter().position(|expected| expected.slot.is_none());
            if let Some(missing) = missing {
                group.entries.truncate(missing);
                let first = group.image.bounds.range.map_or(0, |(first, _)| first);
                group.image.bounds.truncate(first + missing as u64);
                self.affected.insert(*id);
            }
            if self.affected.contains(id) || self.damage_is_new {
                group.image.bounds.corrupt = true;
            }
            if group.image.bounds.corrupt {
                self.affected.insert(*id);
            }
        }
    }

    fn corruption(&mut self) -> Option<Corruption> {
        let found = Corruption {
            damages: std::mem::take(&mut self.damages),
            groups: self.affected.iter().copied().collect(),
            unknown_groups: self.damage.is_some(),
        };
        (found != Corruption::default()).then_some(found)
    }

    /// Makes the segment in which the log goes on. What of the tail was not
    /// known to be synced is written into it: the page cache may hold what the
    /// disk does not.
    fn start_segment(
        mut self,
        id: u64,
        ids: &[u64],
        tail: &Tail,
    ) -> Result<(Opened, Recovery), OpenError> {
        let is_tail =
            |slot: &Slot| slot.segment == tail.base && u64::from(slot.offset) >= tail.synced;
        let mut recovery = Recovery {
            groups: self.groups.keys().copied().collect(),
            segments: ids.len(),
            entries: self.groups.values().map(|group| group.entries.len() as u64).sum(),
            torn: self.torn.take(),
            ..Recovery::default()
        };
        let mut groups: BTreeMap<GroupId, Group> = BTreeMap::new();
        let mut live: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (group, found) in std::mem::take(&mut self.groups) {
            let slots: VecDeque<Slot> = found.entries.iter().filter_map(|e| e.slot).collect();
            groups.insert(group, Group::recovered(found.image, slots));
        }
        let mut copies = Vec::new();
        for (group, state) in &mut groups {
            let first = state.written.as_ref().and_then(|image| image.bounds.range);
            let first = first.map_or(0, |(first, _)| first);
            for (slot, index) in state.slots.iter_mut().zip(first..) {
                if is_tail(slot) {
                    copies.push((*group, index, *slot));
                    slot.segment = id;
                }
                let counts = live.entry(slot.segment).or_default();
                *counts = (counts.0 + 1, counts.1 + u64::from(slot.bytes));
            }
        }
        self.older.retain(|older, _| live.contains_key(older));
        let older =
            self.older.iter().map(|(id, end)| OlderSegment { id: *id, end: *end }).collect();
        let mut head = HeadWriter::new(self.log_id, id, older, self.damage);
        for (group, state) in &groups {
            let image = state.written.as_ref().expect("every group found has an image");
            head.image(*group, image, state.runs());
        }
        let old_seed = Seed::new(self.log_id, tail.base);
        for (group, index, old) in copies {
            let payload = tail_payload(tail, old, old_seed);
            let (offset, bytes) =
                head.push(&Record::Copy { group, index, header: old.header, payload });
            let state = groups.get_mut(&group).expect("the copies come from these groups");
            let first = state.written.as_ref().and_then(|image| image.bounds.range);
            let place = (index - first.map_or(index, |(first, _)| first)) as usize;
            state.slots[place] = Slot {
                segment: id,
                offset: offset as u32,
                bytes: bytes as u32,
                header: old.header,
            };
            recovery.rewritten += 1;
        }
        recovery.corruption = self.corruption();
        let head = head.finish();
        let usual = SMALL_SEGMENT_BYTES.min(self.config.segment_bytes);
        let bytes = segment_bytes_for(usual, head.len());
        let files = self.create(id, bytes, &head)?;
        self.remove_unneeded(ids)?;
        let mut segments = BTreeMap::new();
        for (older, end) in &self.older {
            let path = segment::path(&self.config.dir, *older);
            let file = self.disk.open(&path).map_err(failed("open", &path))?;
            let bytes = file.bytes().map_err(failed("measure", &path))?;
            let files = [file.clone(), file];
            let mut segment = self.segment(*older, files, bytes, *end, &live);
            segment.damaged = self.damaged_segments.contains(older);
            segments.insert(*older, segment);
        }
        segments.insert(id, self.segment(id, files, bytes, head.len() as u64, &live));
        let opened =
            Opened { log_id: self.log_id, groups, segments, current: id, damage: self.damage };
        Ok((opened, recovery))
    }

    fn segment(
        &self,
        id: u64,
        [file, twin]: [Arc<dyn DiskFile>; 2],
        bytes: u64,
        end: u64,
        live: &BTreeMap<u64, (u64, u64)>,
    ) -> Segment {
        let (live, live_bytes) = live.get(&id).copied().unwrap_or_default();
        Segment {
            path: segment::path(&self.config.dir, id),
            file,
            twin,
            seed: Seed::new(self.log_id, id),
            bytes,
            end,
            live,
            live_bytes,
            damaged: false,
            freeing: false,
        }
    }

    fn create(
        &self,
        id: u64,
        bytes: u64,
        head: &[u8],
    ) -> Result<[Arc<dyn DiskFile>; 2], OpenError> {
        let (disk, dir) = (self.disk, &self.config.dir);
        let path = segment::unfinished_path(dir);
        let created = segment::create(disk, &path, bytes)
            .and_then(|file| segment::finish(disk, dir, id, (&path, file), head));
        created.map_err(|(what, path, source)| match is_full(&source) {
            true => OpenError::DiskFull { dir: self.config.dir.clone() },
            false => OpenError::Io { what, path, source },
        })
    }

    fn read(&self, path: &Path) -> Result<Content, OpenError> {
        let file = self.disk.open(path).map_err(failed("open", path))?;
        let length = file.bytes().map_err(failed("measure", path))?;
        if length > u64::from(u32::MAX) {
            let source = io::Error::other(format!("{length} bytes are too many for a segment"));
            return Err(failed("read", path)(source));
        }
        let mut content = Content { bytes: vec![0; length as usize], unreadable: None };
        for (count, chunk) in content.bytes.chunks_mut(READ_BYTES).enumerate() {
            let start = (count * READ_BYTES) as u64;
            if file.read_at(start, chunk).is_ok() {
                continue;
            }
            for (count, piece) in chunk.chunks_mut(BAD_BYTES).enumerate() {
                let offset = start + (count * BAD_BYTES) as u64;
                if file.read_at(offset, piece).is_err() {
                    piece.fill(0);
                    content.unreadable.get_or_insert(offset);
                }
            }
        }
        Ok(content)
    }

    /// Deletes what the new segment does not list. Not before that is on the
    /// disk: what says that a file is not needed may itself not have been. A
    /// damaged file is kept under another name.
    fn remove_unneeded(&self, ids: &[u64]) -> Result<(), OpenError> {
        let dir = &self.config.dir;
        for id in ids.iter().filter(|id| !self.older.contains_key(id)) {
            let damaged = self.damaged_segments.contains(id);
            segment::remove(self.disk, dir, *id, damaged)
                .map_err(failed("remove", &segment::path(dir, *id)))?;
        }
        Ok(())
    }
}

fn tail_payload(tail: &Tail, slot: Slot, seed: Seed) -> &[u8] {
    let start = slot.offset as usize;
    let bytes = &tail.content[start..start + slot.bytes as usize];
    match record::decode(bytes, u64::from(slot.offset), seed).map(|decoded| decoded.record) {
        Ok(Record::Entry { payload, .. } | Record::Copy { payload, .. }) => payload,
        _ => unreachable!("the record was read from the same bytes a moment ago"),
    }
}
