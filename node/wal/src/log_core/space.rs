//! What is written, where it lies, what of it stays in memory, and how the space
//! of old segments is won back.

use bytes::Bytes;

use super::{COPY_BYTES, CopyPlan, Group, Item, LogCore, SPARSE_FACTOR, Slot};
use crate::group::{self, Write};
use crate::record;
use crate::segment::Segment;

impl LogCore {
    /// Makes an item that was written part of the written state.
    pub(super) fn apply(&mut self, item: Item, slots: &mut impl Iterator<Item = Slot>) {
        if item.clears_damage {
            self.damage = None;
            return;
        }
        let id = item.group;
        let mut group = self.groups.remove(&id).unwrap_or_default();
        let mut ticket = item.ticket;
        for write in item.writes {
            group::apply(&mut group.written, &write);
            if let Write::Append { entries } = write {
                for (entry, slot) in entries.into_iter().zip(&mut *slots) {
                    if group.unwritten.front().is_some_and(|first| first.ticket == ticket) {
                        group.unwritten.pop_front();
                    }
                    ticket += 1;
                    self.count_live(slot, true);
                    group.slots.push_back(slot);
                    self.stats.cached_bytes += entry.payload.len() as u64;
                    self.cached_entries += 1;
                    self.cache_order.push_back((id, entry.index));
                    group.cached.push_back(entry.payload);
                }
            } else {
                self.fit_slots(&mut group, &write);
            }
        }
        if group.queued.is_some() || group.written.is_some() {
            self.groups.insert(id, group);
        }
    }

    /// Lets go of the slots that are no longer in the range of what is written.
    pub(super) fn fit_slots(&mut self, group: &mut Group, write: &Write) {
        let bounds = group.written.as_ref().map(|image| image.bounds).unwrap_or_default();
        let wanted = usize::try_from(bounds.len()).unwrap_or(usize::MAX);
        while group.slots.len() > wanted {
            let from_back = matches!(write, Write::TruncateFrom { .. });
            let slot = if from_back { group.slots.pop_back() } else { group.slots.pop_front() };
            slot.into_iter().for_each(|slot| self.count_live(slot, false));
            let cached = match from_back {
                true => group.cached.pop_back(),
                false if group.cached.len() > group.slots.len() => group.cached.pop_front(),
                false => None,
            };
            self.uncache(cached);
        }
    }

    pub(super) fn uncache(&mut self, payload: Option<Bytes>) {
        if let Some(payload) = payload {
            self.stats.cached_bytes -= payload.len() as u64;
            self.cached_entries -= 1;
        }
    }

    pub(super) fn count_live(&mut self, slot: Slot, added: bool) {
        let Some(segment) = self.segments.get_mut(&slot.segment) else { return };
        if added {
            segment.live += 1;
            segment.live_bytes += u64::from(slot.bytes);
        } else {
            segment.live -= 1;
            segment.live_bytes -= u64::from(slot.bytes);
        }
    }

    /// Drops the oldest contents from memory until the bound holds. The order
    /// may name entries that are gone; it is bounded too.
    pub(super) fn trim_cache(&mut self) {
        while self.stats.cached_bytes > self.config.cache_bytes as u64
            || self.cache_order.len() > 2 * self.cached_entries + 1024
        {
            let Some((id, index)) = self.cache_order.pop_front() else { return };
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let Some((_, last)) = group.written_range() else { continue };
            let oldest = (last + 1).checked_sub(group.cached.len() as u64);
            if oldest == Some(index) {
                let payload = group.cached.pop_front();
                self.uncache(payload);
            }
        }
    }

    /// Closed segments that nobody needs, as many as can be noted in what is
    /// left of the current one.
    pub(super) fn free_segments(&mut self, used: u64) -> Vec<u64> {
        let one = record::framed(9) as u64;
        let room = self.room().saturating_sub(used.max(record::BATCH_BYTES as u64));
        let current = self.current;
        let unneeded = |(id, segment): (&u64, &mut Segment)| {
            let free = *id != current && segment.live == 0 && !segment.freeing;
            free.then(|| {
                segment.freeing = true;
                *id
            })
        };
        self.segments.iter_mut().filter_map(unneeded).take((room / one) as usize).collect()
    }

    /// Looks for the oldest sparse segment and lists what it holds.
    pub(super) fn find_sparse(&mut self) {
        if !self.copying.is_empty() {
            return;
        }
        let sparse = |(id, segment): (&u64, &Segment)| {
            let is_sparse = *id != self.current
                && segment.live > 0
                && !segment.damaged
                && segment.live_bytes * SPARSE_FACTOR <= segment.bytes;
            is_sparse.then_some(*id)
        };
        let Some(from) = self.segments.iter().find_map(sparse) else { return };
        self.copying_from = from;
        for (id, group) in &self.groups {
            let Some((first, _)) = group.written_range() else { continue };
            let here = group.slots.iter().zip(first..).filter(|(slot, _)| slot.segment == from);
            self.copying.extend(here.map(|(_, index)| (*id, index)));
        }
    }

    /// The next entries to be copied. They are part of what is written, which
    /// does not change before the batch is.
    pub(super) fn copy_plans(&mut self, used: u64) -> Vec<CopyPlan> {
        let room = self.room().saturating_sub(self.reserve() + used);
        let mut plans = Vec::new();
        let mut bytes = 0;
        let Some(source) = self.segments.get(&self.copying_from) else {
            self.copying.clear();
            return plans;
        };
        let (file, path, seed) = (source.file.clone(), source.path.clone(), source.seed);
        while let Some((group, index)) = self.copying.front().copied() {
            let slot = self.groups.get(&group).and_then(|group| group.slot(index));
            let slot = slot.map(|(_, slot)| slot).filter(|slot| slot.segment == self.copying_from);
            if let Some(slot) = slot {
                let next = bytes + u64::from(slot.bytes);
                if next > room || (next > COPY_BYTES && !plans.is_empty()) {
                    break;
                }
                bytes = next;
                let (file, path) = (file.clone(), path.clone());
                plans.push(CopyPlan { group, index, slot, file, path, seed });
            }
            self.copying.pop_front();
            self.look_for_sparse |= self.copying.is_empty();
        }
        plans
    }

    pub(super) fn finish_copy(&mut self, plan: &CopyPlan, slot: Option<Slot>) {
        let Some(slot) = slot else {
            // It cannot be read, so its segment stays; whoever reads it is told.
            self.segments.entry(plan.slot.segment).and_modify(|segment| segment.damaged = true);
            return;
        };
        let Some(group) = self.groups.get_mut(&plan.group) else { return };
        let Some((place, _)) = group.slot(plan.index) else { return };
        group.slots[place] = slot;
        self.count_live(plan.slot, false);
        self.count_live(slot, true);
        self.stats.copied_entries += 1;
    }
}
