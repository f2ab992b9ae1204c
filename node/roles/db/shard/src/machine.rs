//! The group's state machine: the pages of the copy.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rung_consensus::{Committed, Landed, Landing, OwnCopy, Position, SnapshotSource, StateMachine};
use rung_pages::{Outcome, PageStore, PagesError};

use crate::core::{Core, LogPlace, stop_for};
use crate::landing::Runway;
use crate::payload::{self, APPLIED, Content, PART, SKIPPED};
use crate::status::CopyState;

/// Hands what is committed to the copy's pages, and tells who waits for it.
pub(crate) struct Machine(pub Arc<Core>);

impl Machine {
    /// Gives entries to the store, if need be after the writer has left the file.
    fn give(&self, entries: &[(u64, &[u8])]) -> Result<Vec<Outcome>, PagesError> {
        let core = &*self.0;
        let given = core.store()?.apply(entries);
        if !matches!(given, Err(PagesError::WriterBusy)) {
            return given;
        }
        // An entry of somebody else: whatever the writer does now is lost.
        let state = core.desk().state.clone();
        if let CopyState::Primary { .. } = state {
            core.follow(None);
        }
        core.meter.evict();
        core.bell.notify_all();
        let _turn = core.write_lock.take();
        core.meter.rest();
        core.store()?.apply(entries)
    }

    /// Whether an entry reached the log in the term that it was executed in.
    fn is_of_its_term(&self, epoch: u64, entry: &Committed) -> bool {
        #[cfg(feature = "simulation")]
        if self.0.config.faults.ignore_epoch {
            return true;
        }
        epoch == entry.term
    }

    /// Gives some of the entries to the store, and notes what became of them.
    fn apply_run(
        &self,
        entries: &[Committed],
        ours: &[(usize, &[u8])],
        answers: &mut [Bytes],
    ) -> io::Result<()> {
        if ours.is_empty() {
            return Ok(());
        }
        let given: Vec<(u64, &[u8])> =
            ours.iter().map(|(at, pages)| (entries[*at].index, *pages)).collect();
        let outcomes = self.give(&given).map_err(|error| self.fail(&error))?;
        let core = &*self.0;
        for ((at, _), outcome) in ours.iter().zip(&outcomes) {
            let is_position = matches!(outcome, Outcome::Applied(_) | Outcome::Settled(_));
            {
                let mut log = core.log();
                log.given = Some(position(&entries[*at]));
                log.is_position = is_position;
            }
            match outcome {
                Outcome::Applied(position) => {
                    core.history.fetch_add(1, Ordering::AcqRel);
                    core.settle(position);
                }
                Outcome::Settled(position) => core.settle(position),
                Outcome::Skipped | Outcome::Part => {}
            }
            answers[*at] = Bytes::from_static(match outcome {
                Outcome::Part => PART,
                _ if is_position => APPLIED,
                _ => SKIPPED,
            });
        }
        core.note_checkpoint();
        Ok(())
    }

    /// What archives want to know.
    fn note_entries(&self, entries: &[Committed]) {
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        self.0.hold().applied(bytes as u64);
        let times = entries.iter().filter_map(|entry| payload::decode(&entry.payload)?.at_ms);
        let newest = times.max().unwrap_or(0);
        self.0.counts.newest_entry_ms.fetch_max(newest, Ordering::AcqRel);
    }

    /// Replaces the pages, after the writer has left them.
    fn replace(
        &self,
        with: impl FnOnce(&mut PageStore) -> Result<(), PagesError>,
    ) -> io::Result<()> {
        let core = &*self.0;
        core.meter.evict();
        core.bell.notify_all();
        let _turn = core.write_lock.take();
        core.meter.rest();
        let replaced = core.store().and_then(|mut store| {
            with(&mut store)?;
            let position = store.position();
            let place = Position { term: position.epoch, index: store.durable_index() };
            *core.log() = LogPlace { durable: Some(place), given: Some(place), is_position: true };
            Ok(position)
        });
        match replaced {
            Ok(position) => {
                core.history.fetch_add(1, Ordering::AcqRel);
                core.restored(&position);
                Ok(())
            }
            // What came is not whole; the file is as it was.
            Err(PagesError::Snapshot(what)) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, what))
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    fn fail(&self, error: &PagesError) -> io::Error {
        self.0.stop(stop_for(error));
        io::Error::other(error.to_string())
    }
}

/// So many pages are applied in some 100 microseconds.
const LITTLE: usize = 8;

fn position(entry: &Committed) -> Position {
    Position { term: entry.term, index: entry.index }
}

impl StateMachine for Machine {
    fn apply(&mut self, entries: &[Committed]) -> io::Result<Vec<Bytes>> {
        let mut answers = vec![Bytes::from_static(SKIPPED); entries.len()];
        let mut ours = Vec::with_capacity(entries.len());
        self.note_entries(entries);
        for (at, entry) in entries.iter().enumerate() {
            match payload::decode(&entry.payload) {
                // Late: see `payload`.
                Some(read) if !self.is_of_its_term(read.epoch, entry) => {}
                Some(read) => match read.content {
                    Content::Entry(pages) => ours.push((at, pages)),
                    Content::Mark(mark) => {
                        self.apply_run(entries, &ours, &mut answers)?;
                        ours.clear();
                        self.0.read_marked(&mark, read.at_ms);
                        answers[at] = Bytes::from_static(APPLIED);
                    }
                },
                None => {
                    let what = format!("entry {} of the log is not one of a shard", entry.index);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
            }
        }
        self.apply_run(entries, &ours, &mut answers)?;
        Ok(answers)
    }

    fn snapshot(&mut self) -> io::Result<SnapshotSource> {
        let snapshot = self.0.store().and_then(|store| store.snapshot());
        match snapshot {
            Ok(snapshot) => Ok(Box::new(snapshot)),
            Err(error) => Err(self.fail(&error)),
        }
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        self.replace(|store| store.restore(source))
    }

    fn landing(&self) -> Option<Arc<dyn Landing>> {
        let store = self.0.store().ok()?;
        Some(Arc::new(Runway(store.landing())))
    }

    fn take_over(&mut self, landed: Landed) -> io::Result<()> {
        let landed = landed.downcast().map_err(|_| io::Error::other("not of a shard"))?;
        self.replace(|store| store.take_over(*landed))
    }

    /// What this copy has executed itself was written by it, and needs only to be
    /// settled: that waits for nobody while nobody else works on the file. What others have
    /// executed is written to the system's cache, which takes less than waking a thread
    /// if it is little.
    fn waits_for_disk(&self, entries: &[Committed]) -> bool {
        let mut ours: Vec<(u64, &[u8])> = Vec::with_capacity(entries.len());
        for entry in entries {
            match payload::decode(&entry.payload) {
                Some(payload) if payload.epoch == entry.term => match payload.content {
                    Content::Entry(pages) => ours.push((entry.index, pages)),
                    Content::Mark(_) => return true,
                },
                _ => {}
            }
        }
        // What follows while it may still have to leave the file waits for the writer.
        let pages = if self.0.desk().epoch().is_none() { LITTLE } else { 0 };
        !self.0.store_at_once().is_some_and(|store| store.writes_at_most(pages, &ours))
    }

    fn own_copy(&self) -> Option<OwnCopy> {
        let mut own = self.0.log().own_copy();
        own.durable = self.0.hold().release(own.durable);
        Some(own)
    }
}

#[cfg(test)]
mod tests;
