//! Taking back what the log has not committed.

use std::collections::{BTreeMap, VecDeque};

use crate::error::PagesError;
use crate::overlay::Overlay;
use crate::page::{PAGE_BYTES, PENDING_BYTE_PAGE};
use crate::store::{InFlight, PageStore};
use crate::wal_file::Place;

impl PageStore {
    /// Sets the database back to the settled position, by writing the pages back
    /// as they were; readers notice nothing. Returns how many commits were undone.
    /// The writer's connection is stale afterwards, if there were any.
    ///
    /// An entry that was undone can still be committed by the log: then
    /// [`PageStore::apply`] writes it, as on any other copy.
    ///
    /// # Errors
    /// [`PagesError::WriterBusy`] and [`PagesError::DiskFull`]: nothing has changed.
    pub fn undo(&mut self) -> Result<usize, PagesError> {
        self.usable()?;
        if self.in_flight.back().is_none_or(|last| last.entry.is_some())
            && let Some(change) = self.absorb()?
        {
            self.in_flight.push_back(InFlight { change, entry: None });
        }
        self.deferred = false;
        let undone = self.in_flight.len();
        if undone == 0 {
            return Ok(0);
        }
        if !self.faults().skip_undo {
            let mut overlay = Overlay::begin(&self.applier, &self.index, &self.images)?;
            put_back(&mut overlay, &self.in_flight)?;
            overlay.commit()?;
        }
        self.in_flight.clear();
        let written = self.after_write();
        self.breaking(written)?;
        Ok(undone)
    }
}

/// Puts every page back that commits have changed or cut off.
fn put_back(overlay: &mut Overlay<'_>, commits: &VecDeque<InFlight>) -> Result<(), PagesError> {
    let Some(first) = commits.front() else { return Ok(()) };
    let size = first.change.size_before;
    let mut places: BTreeMap<u32, Place> = BTreeMap::new();
    for commit in commits.iter().rev() {
        let pages = commit.change.pages.iter();
        places.extend(pages.map(|(page, (_, before))| (*page, *before)));
    }
    // Pages that were cut off have no new frames, but SQLite takes them for empty
    // when the database grows again.
    let smallest = commits.iter().map(|commit| commit.change.size_after).min().unwrap_or(size);
    for page in smallest.saturating_add(1)..=size {
        if page != PENDING_BYTE_PAGE {
            places.entry(page).or_insert_with(|| overlay.index.place(page));
        }
    }
    overlay.size = size;
    let mut image = vec![0; PAGE_BYTES];
    for (page, place) in places.range(..=size) {
        let read = overlay.images.read(*page, *place, &mut image);
        read.map_err(PagesError::io("read a page to undo of", "the -wal".as_ref()))?;
        overlay.put(*page, &image)?;
    }
    Ok(())
}
