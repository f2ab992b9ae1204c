//! What is queued, and what is taken back when the disk is full.

use std::collections::{BTreeSet, VecDeque};

use rung_proto::GroupId;
use tokio::sync::oneshot;

use super::{Batch, Group, Item, LogCore, Unwritten};
use crate::error::WalError;
use crate::group::{self, Image, MAX_META_BYTES, Write};
use crate::record;

impl LogCore {
    /// Queues writes of one group and makes them visible to readers.
    pub fn queue(
        &mut self,
        group: GroupId,
        writes: Vec<Write>,
    ) -> Result<oneshot::Receiver<Result<(), WalError>>, WalError> {
        self.check_open()?;
        let appends = writes.iter().any(|write| matches!(write, Write::Append { .. }));
        let bytes = self.check_sizes(&writes, appends)?;
        let bounds = self.groups.get(&group).map(Group::bounds).unwrap_or_default();
        bounds.after(group, &writes)?;
        self.check_image_bytes(group, &writes)?;

        let ticket = self.next_ticket;
        let entry = self.groups.entry(group).or_default();
        let before = image_bytes(entry.queued.as_ref());
        for write in &writes {
            group::apply(&mut entry.queued, write);
            queue_entries(&mut entry.unwritten, write, &mut self.next_ticket);
        }
        self.image_bytes = self.image_bytes + image_bytes(entry.queued.as_ref()) - before;
        Ok(self.push(Item {
            group,
            writes,
            bytes,
            ticket,
            appends,
            answer: None,
            clears_damage: false,
        }))
    }

    /// Queues the note that a damage which could concern any group is repaired.
    pub fn queue_cleared(&mut self) -> Result<oneshot::Receiver<Result<(), WalError>>, WalError> {
        self.check_open()?;
        Ok(self.push(Item {
            group: GroupId(0),
            writes: Vec::new(),
            bytes: record::framed(1),
            ticket: self.next_ticket,
            appends: false,
            answer: None,
            clears_damage: true,
        }))
    }

    pub(super) fn push(&mut self, mut item: Item) -> oneshot::Receiver<Result<(), WalError>> {
        let (answer, waiting) = oneshot::channel();
        item.answer = Some(answer);
        self.queued_bytes += item.bytes;
        self.queue.push_back(item);
        waiting
    }

    pub(super) fn check_open(&self) -> Result<(), WalError> {
        match &self.dead {
            Some(reason) => Err(WalError::Dead { reason: reason.clone() }),
            None if self.closed => Err(WalError::Closed),
            None => Ok(()),
        }
    }

    /// What the writes take in the file.
    pub(super) fn check_sizes(&self, writes: &[Write], appends: bool) -> Result<usize, WalError> {
        let too_large = |what, bytes: usize, limit: u64| {
            Err(WalError::TooLarge { what, bytes: bytes as u64, limit })
        };
        let mut total = 0;
        for write in writes {
            total += write_bytes(write);
            match write {
                Write::Append { entries } => {
                    let largest = entries.iter().map(|e| e.payload.len()).max().unwrap_or(0);
                    if largest > self.config.max_record_bytes {
                        return too_large("an entry", largest, self.config.max_record_bytes as u64);
                    }
                }
                Write::SetMeta { value, .. } if value.len() > MAX_META_BYTES => {
                    return too_large("a value", value.len(), MAX_META_BYTES as u64);
                }
                _ => {}
            }
        }
        if total as u64 > self.config.max_write_bytes() {
            return too_large("a write", total, self.config.max_write_bytes());
        }
        // Votes and purges are small and refusing them stops a replica, so they
        // still pass where appends no longer do.
        let limit = self.config.max_queue_bytes.saturating_mul(if appends { 1 } else { 2 });
        if self.queued_bytes > 0 && self.queued_bytes + total > limit {
            return Err(WalError::QueueFull { queued: self.queued_bytes });
        }
        Ok(total)
    }

    /// Refuses new groups and values that would not fit in the head of a segment.
    pub(super) fn check_image_bytes(
        &self,
        group: GroupId,
        writes: &[Write],
    ) -> Result<(), WalError> {
        let now = self.groups.get(&group).and_then(|group| group.queued.as_ref());
        let adds = now.is_none() || writes.iter().any(|w| matches!(w, Write::SetMeta { .. }));
        if !adds {
            return Ok(());
        }
        let mut after = now.cloned();
        writes.iter().for_each(|write| group::apply(&mut after, write));
        let total = self.image_bytes - image_bytes(now) + image_bytes(after.as_ref());
        let limit = self.config.max_head_bytes();
        if total > limit && image_bytes(after.as_ref()) > image_bytes(now) {
            return Err(WalError::TooLarge {
                what: "the state of all groups together",
                bytes: total,
                limit,
            });
        }
        Ok(())
    }

    /// There is no space: refuses what appends, and what waits behind it in the
    /// same group. Small writes go into the reserve of the current segment.
    pub(super) fn refuse_appends(&mut self) {
        self.stats.disk_full = true;
        let mut room = self.room().saturating_sub(record::BATCH_BYTES as u64);
        let mut refused: BTreeSet<GroupId> = BTreeSet::new();
        let mut kept = VecDeque::new();
        for mut item in std::mem::take(&mut self.queue) {
            if item.appends || refused.contains(&item.group) || item.bytes as u64 > room {
                refused.insert(item.group);
                self.queued_bytes -= item.bytes;
                self.stats.refused_full += 1;
                self.answers.extend(item.answer.take().map(|a| (a, Err(WalError::DiskFull))));
            } else {
                room -= item.bytes as u64;
                kept.push_back(item);
            }
        }
        self.queue = kept;
        refused.into_iter().for_each(|group| self.forget_unwritten(group));
    }

    /// Sets what is queued back to what is written and the writes that are left
    /// in the queue, none of which appends.
    pub(super) fn forget_unwritten(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let before = image_bytes(group.queued.as_ref());
        group.unwritten.clear();
        group.queued = group.written.clone();
        let left = self.queue.iter().filter(|item| item.group == id);
        left.flat_map(|item| &item.writes).for_each(|write| group::apply(&mut group.queued, write));
        self.image_bytes = self.image_bytes + image_bytes(group.queued.as_ref()) - before;
        if group.queued.is_none() && group.written.is_none() {
            self.groups.remove(&id);
        }
    }

    /// Puts the items of a batch that found no space back in front.
    pub(super) fn take_back(&mut self, batch: Batch) {
        for id in batch.frees {
            self.segments.entry(id).and_modify(|segment| segment.freeing = false);
        }
        self.copying.clear();
        self.queued_bytes += batch.items.iter().map(|item| item.bytes).sum::<usize>();
        batch.items.into_iter().rev().for_each(|item| self.queue.push_front(item));
        self.refuse_appends();
        // Not even the current segment takes what is left.
        let left = std::mem::take(&mut self.queue);
        let groups: BTreeSet<GroupId> = left.iter().map(|item| item.group).collect();
        for mut item in left {
            self.queued_bytes -= item.bytes;
            self.stats.refused_full += 1;
            self.answers.extend(item.answer.take().map(|a| (a, Err(WalError::DiskFull))));
        }
        groups.into_iter().for_each(|group| self.forget_unwritten(group));
    }
}

fn queue_entries(unwritten: &mut VecDeque<Unwritten>, write: &Write, next_ticket: &mut u64) {
    match write {
        Write::Append { entries } => {
            for entry in entries {
                unwritten.push_back(Unwritten { ticket: *next_ticket, entry: entry.clone() });
                *next_ticket += 1;
            }
        }
        Write::TruncateFrom { index } => {
            while unwritten.back().is_some_and(|last| last.entry.index >= *index) {
                unwritten.pop_back();
            }
        }
        Write::PurgeTo { index } => {
            while unwritten.front().is_some_and(|first| first.entry.index <= *index) {
                unwritten.pop_front();
            }
        }
        Write::SetMeta { .. } => {}
        Write::DropGroup => unwritten.clear(),
    }
}

/// What a write takes in the file.
fn write_bytes(write: &Write) -> usize {
    match write {
        Write::Append { entries } => {
            entries.iter().map(|entry| record::entry_bytes(entry.payload.len())).sum()
        }
        Write::TruncateFrom { .. } | Write::PurgeTo { .. } => record::framed(17),
        Write::SetMeta { value, .. } => record::framed(10 + value.len()),
        Write::DropGroup => record::framed(9),
    }
}

/// What a group takes in the head of a segment, its runs set aside.
pub(super) fn image_bytes(image: Option<&Image>) -> u64 {
    let Some(image) = image else { return 0 };
    let meta: usize = image.meta.values().map(|value| 5 + value.len()).sum();
    record::framed(1 + 8 + 1 + 24 + 2 + meta) as u64
}
