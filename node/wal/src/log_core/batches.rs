//! Which batch or segment is next, and what becomes of it.

use std::sync::Arc;

use super::{
    BATCH_TARGET_BYTES, Batch, CopyPlan, Disposal, Failed, Flight, Item, LogCore, MAX_IN_FLIGHT,
    MAX_SPARES, Maker, Rotation, SMALL_SEGMENT_BYTES, Spare, Step, Written,
};
use crate::config::reserve_bytes;
use crate::disk::DiskFile;
use crate::error::WalError;
use crate::record::{self, OlderSegment, Seed};
use crate::segment::{self, HeadWriter, Segment};

impl LogCore {
    /// What to write next. What it returns must be done, and its `finish_*`
    /// called, before anything else is written.
    pub fn next_step(&mut self) -> Step {
        if self.dead.is_some() || self.writing || self.flights.len() >= MAX_IN_FLIGHT {
            return Step::Idle;
        }
        let (count, bytes) = self.fitting_items();
        if count == 0 && !self.queue.is_empty() {
            return self.rotation();
        }
        if self.look_for_sparse {
            self.look_for_sparse = false;
            self.find_sparse();
        }
        let items: Vec<Item> = self.queue.drain(..count).collect();
        self.queued_bytes -= items.iter().map(|item| item.bytes).sum::<usize>();
        let copies = self.copy_plans(bytes as u64);
        let frees = self.free_segments(
            bytes as u64 + copies.iter().map(|c| u64::from(c.slot.bytes)).sum::<u64>(),
        );
        if items.is_empty() && copies.is_empty() && frees.is_empty() {
            return Step::Idle;
        }
        self.sealed = false;
        self.batch(items, copies, frees)
    }

    /// A batch that only says that everything before it is on the disk, if no
    /// other did. Without it, damage to the last batch before a long silence
    /// would be taken for a torn tail.
    pub fn seal_step(&mut self) -> Step {
        let quiet = self.is_quiet() && self.dead.is_none();
        if self.sealed || !quiet {
            return Step::Idle;
        }
        self.sealed = true;
        if self.room() < record::BATCH_BYTES as u64 {
            return Step::Idle;
        }
        self.batch(Vec::new(), Vec::new(), Vec::new())
    }

    pub(super) fn batch(
        &mut self,
        items: Vec<Item>,
        copies: Vec<CopyPlan>,
        frees: Vec<u64>,
    ) -> Step {
        let number = self.next_batch;
        self.next_batch += 1;
        self.writing = true;
        let segment = &self.segments[&self.current];
        Step::Batch(Batch {
            number,
            base: segment.end,
            synced: self.synced,
            segment: self.current,
            seed: segment.seed,
            // At most two are in flight, so each has an opening of its own.
            file: if number.is_multiple_of(2) { &segment.file } else { &segment.twin }.clone(),
            path: segment.path.clone(),
            items,
            copies,
            frees,
        })
    }

    /// What is left in the current segment.
    pub(super) fn room(&self) -> u64 {
        let segment = &self.segments[&self.current];
        segment.bytes.saturating_sub(segment.end)
    }

    pub(super) fn reserve(&self) -> u64 {
        reserve_bytes(self.segments[&self.current].bytes)
    }

    /// How many items from the front of the queue make the next batch in the
    /// current segment, and what they take there.
    pub(super) fn fitting_items(&self) -> (usize, usize) {
        let room = self.room();
        let room_for_appends = room.saturating_sub(self.reserve());
        let mut bytes = record::BATCH_BYTES;
        let mut count = 0;
        for item in &self.queue {
            let may_use_reserve = self.stats.disk_full && !item.appends;
            let limit = if may_use_reserve { room } else { room_for_appends };
            let next = bytes + item.bytes;
            if next as u64 > limit || (count > 0 && next > BATCH_TARGET_BYTES) {
                break;
            }
            bytes = next;
            count += 1;
        }
        (count, bytes)
    }

    /// A new segment, if everything in the current one is synced. While a spare
    /// one is being made it is a small one: that takes less time than waiting.
    pub(super) fn rotation(&mut self) -> Step {
        if !self.flights.is_empty() {
            return Step::Idle;
        }
        let id = self.current + 1;
        let older =
            self.segments.iter().map(|(id, s)| OlderSegment { id: *id, end: s.end }).collect();
        let mut head = HeadWriter::new(self.log_id, id, older, self.damage);
        for (group, state) in &self.groups {
            if let Some(image) = &state.written {
                head.image(*group, image, state.runs());
            }
        }
        let head = head.finish();
        let first = self.queue.front().map_or(0, |item| item.bytes);
        let is_late = self.maker == Maker::Busy && self.spares.is_empty();
        let usual = match is_late {
            true => SMALL_SEGMENT_BYTES.min(self.config.segment_bytes),
            false => self.config.segment_bytes,
        };
        let bytes = segment_bytes_for(usual, head.len() + first);
        let spare = (bytes == self.config.segment_bytes).then(|| self.spares.pop()).flatten();
        self.writing = true;
        self.rotating = true;
        Step::Rotate(Rotation { id, bytes, head, spare })
    }

    pub fn finish_rotation(
        &mut self,
        rotation: &Rotation,
        result: Result<[Arc<dyn DiskFile>; 2], Failed>,
    ) {
        self.writing = false;
        self.rotating = false;
        match result {
            Ok([file, twin]) => {
                self.stats.disk_full = false;
                if self.has_maker && self.maker == Maker::Off {
                    self.maker = Maker::Ready;
                }
                let segment = Segment {
                    path: segment::path(&self.config.dir, rotation.id),
                    file,
                    twin,
                    seed: Seed::new(self.log_id, rotation.id),
                    bytes: rotation.bytes,
                    end: rotation.head.len() as u64,
                    live: 0,
                    live_bytes: 0,
                    damaged: false,
                    freeing: false,
                };
                self.synced = segment.end;
                self.current = rotation.id;
                self.segments.insert(rotation.id, segment);
                self.look_for_sparse = true;
                self.sealed = true;
            }
            Err(Failed::Full) => self.refuse_appends(),
            Err(Failed::Fatal(reason)) => self.die(reason),
        }
    }

    pub fn finish_batch(&mut self, batch: Batch, result: Result<Written, Failed>) {
        self.writing = false;
        let written = match result {
            Ok(written) => written,
            Err(Failed::Full) => return self.take_back(batch),
            Err(Failed::Fatal(reason)) => {
                let answers = batch.items.into_iter().filter_map(|item| item.answer);
                let error = WalError::Dead { reason: reason.clone() };
                self.answers.extend(answers.map(|answer| (answer, Err(error.clone()))));
                return self.die(reason);
            }
        };
        self.stats.batches += 1;
        self.stats.written_bytes += written.bytes;
        self.stats.entries += written.entries.len() as u64;
        for (plan, slot) in batch.copies.iter().zip(&written.copies) {
            self.finish_copy(plan, *slot);
        }
        let mut slots = written.entries.into_iter();
        let mut answers = Vec::with_capacity(batch.items.len());
        for mut item in batch.items {
            answers.extend(item.answer.take());
            self.apply(item, &mut slots);
        }
        self.trim_cache();
        let current = self.segments.get_mut(&batch.segment).expect("the current segment exists");
        current.end = batch.base + written.bytes;
        let end = current.end;
        self.flights.push_back(Flight {
            number: batch.number,
            end,
            answers,
            frees: batch.frees,
            synced: false,
        });
    }

    /// The batch of that number is on the disk, or not.
    pub fn finish_sync(&mut self, number: u64, result: Result<(), String>) {
        if let Err(reason) = result {
            return self.die(reason);
        }
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.number == number) {
            flight.synced = true;
        }
        // In order only: a failed sync is reported to one of those who sync at
        // the same time, so the success of a later one proves nothing alone.
        while self.flights.front().is_some_and(|flight| flight.synced) {
            let Some(flight) = self.flights.pop_front() else { return };
            self.synced = flight.end;
            self.stats.writes += flight.answers.len() as u64;
            self.answers.extend(flight.answers.into_iter().map(|answer| (answer, Ok(()))));
            for id in flight.frees {
                if let Some(segment) = self.segments.remove(&id) {
                    let disposal = self.disposal(segment);
                    self.unneeded.push((id, disposal));
                }
            }
        }
    }

    /// Ends the log: everybody who waits is told, nothing is written any more.
    pub fn die(&mut self, reason: String) {
        let error = WalError::Dead { reason: reason.clone() };
        let queued = self.queue.drain(..).filter_map(|item| item.answer);
        let flying = self.flights.drain(..).flat_map(|flight| flight.answers);
        self.answers.extend(queued.chain(flying).map(|answer| (answer, Err(error.clone()))));
        self.queued_bytes = 0;
        self.dead.get_or_insert(reason);
    }

    /// A file is used again only if nobody is reading from it.
    fn disposal(&mut self, segment: Segment) -> Disposal {
        let spares = self.spares.len() + self.coming_spares;
        let same_size = segment.bytes == self.config.segment_bytes;
        drop(segment.twin);
        if segment.damaged {
            Disposal::KeepAside
        } else if same_size && spares < MAX_SPARES && Arc::strong_count(&segment.file) == 1 {
            self.coming_spares += 1;
            Disposal::Reuse(segment.file)
        } else {
            Disposal::Delete
        }
    }

    /// A file that was a segment has its new name, or could not get it.
    pub fn finish_reuse(&mut self, spare: Option<Spare>) {
        self.coming_spares -= 1;
        self.spares.extend(spare);
    }

    /// From now on somebody makes segments in advance.
    pub fn set_maker(&mut self) {
        self.has_maker = true;
        self.maker = Maker::Ready;
    }

    /// The size of a segment made in advance, if one is wanted now. Not while a
    /// segment is being started, perhaps from the last one, which still has the
    /// name that the next one would get.
    pub fn start_spare(&mut self) -> Option<u64> {
        let wanted = self.spares.is_empty() && !self.rotating;
        if self.maker != Maker::Ready || !wanted || self.dead.is_some() {
            return None;
        }
        self.maker = Maker::Busy;
        Some(self.config.segment_bytes)
    }

    pub fn finish_spare(&mut self, result: Result<Spare, Failed>) {
        self.maker = Maker::Ready;
        match result {
            Ok(spare) => self.spares.push(spare),
            Err(Failed::Full) => {
                self.maker = Maker::Off;
                self.stats.disk_full = true;
            }
            Err(Failed::Fatal(reason)) => self.die(reason),
        }
    }
}

/// The size of a segment that must have room for `needed` bytes besides the
/// start of a batch and the reserve: `usual`, or more if that is too small.
pub(crate) fn segment_bytes_for(usual: u64, needed: usize) -> u64 {
    let needed = (needed + record::BATCH_BYTES) as u64;
    if needed + reserve_bytes(usual) <= usual {
        return usual;
    }
    (needed * 8).div_ceil(7).next_multiple_of(4096)
}
