//! The primary's side: commits become entries.

use std::io;
use std::sync::Arc;

use crate::delta;
use crate::entry::{self, MAX_PART_PAGES, MAX_PARTS, Part};
use crate::error::PagesError;
use crate::page::{PAGE_BYTES, PENDING_BYTE_PAGE, images_hash, mask};
use crate::position::Position;
use crate::store::{Captive, InFlight, PageStore, WriterTicket, wal_frames};
use crate::wal_file::{Change, Images, Place, WalIndex};

/// Frames of the `-wal` that are left to the next capture at most: so many pages are
/// read, hashed and compressed in less than a millisecond.
const MOST_DEFERRED: u32 = 128;

/// A commit as entries for the log.
pub struct Captured {
    /// The position after it.
    pub position: Position,
    /// What to propose, in order.
    pub parts: Parts,
}

/// The entries of a commit. They are made when they are asked for, so that a large
/// one needs little memory. No checkpoint runs while this is kept: drop it soon.
pub struct Parts {
    images: Arc<Images>,
    parent: Position,
    position: Position,
    size: u32,
    pages: Vec<Changed>,
    /// Of every part, what its images hash to.
    sums: Vec<Sums>,
    next: usize,
    /// The images before and after of the only part, already read.
    ready: Option<Chunk>,
}

/// A page that a commit changed.
#[derive(Clone, Copy)]
struct Changed {
    page: u32,
    /// `None` where the database had no such page.
    before: Option<Place>,
    after: Place,
}

#[derive(Clone, Copy)]
struct Sums {
    before: [u8; 16],
    after: [u8; 16],
}

/// The images of a part.
struct Chunk {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl PageStore {
    /// Makes an entry of what the writer has committed since the last call; `None`
    /// if nothing changed. Call it, or [`PageStore::defer`], after each COMMIT and
    /// before the next one, and propose all its parts, in order. The writer may have a
    /// transaction open: what it has not committed is no part of it.
    ///
    /// The commit is in flight until [`PageStore::apply`] gets its last part back
    /// from the log, or something else that takes its place.
    ///
    /// # Errors
    /// The commit must be undone, by [`PageStore::undo`].
    pub fn capture(
        &mut self,
        ticket: WriterTicket,
        epoch: u64,
    ) -> Result<Option<Captured>, PagesError> {
        self.usable()?;
        if self.in_flight.back().is_some_and(|last| last.entry.is_none()) {
            return Err(PagesError::Uncaptured);
        }
        let parent = self.tip();
        let absorbed = self.absorb()?;
        self.deferred = false;
        let Some(change) = absorbed else { return Ok(None) };
        let pages = changed_pages(&change, &self.index);
        self.in_flight.push_back(InFlight { change, entry: None });
        if ticket != self.writer {
            return Err(PagesError::Stale);
        }
        if parent.epoch != epoch {
            return Err(PagesError::NotPrimary { tip: parent, epoch });
        }
        let most = self.options.max_transaction_pages.min(MAX_PARTS * MAX_PART_PAGES as u32);
        if pages.len() as u64 > u64::from(most) {
            return Err(PagesError::TooLarge { pages: pages.len() as u64, most });
        }
        let failed = PagesError::io("read changed pages of", &self.files.wal);
        let parts = Parts::new(self.images.clone(), parent, self.index.size, pages);
        let Some(parts) = parts.map_err(failed)? else {
            return self.forget_unchanged();
        };
        let snapshot = self.take_snapshot()?;
        let position = parts.position;
        if let Some(last) = self.in_flight.back_mut() {
            last.entry = Some(Captive { position, snapshot });
        }
        Ok(Some(Captured { position, parts }))
    }

    /// Leaves what the writer has committed to the next capture, which makes one entry
    /// of all that was left to it. Says no if that would be much, or nothing yet; then
    /// capture it now.
    ///
    /// # Errors
    /// SQLite could not count what was committed.
    pub fn defer(&mut self) -> Result<bool, PagesError> {
        self.usable()?;
        let frames = wal_frames(&self.observer, &self.files.main)?;
        let new = frames.saturating_sub(self.index.frames);
        if new > 0 {
            self.deferred = true;
        }
        Ok((1..=MOST_DEFERRED).contains(&new))
    }

    /// The first entry of a new primary, for the epoch (its Raft term). Once
    /// [`PageStore::apply`] says that it is applied, nothing of an older epoch can
    /// come any more, and commits can be captured.
    pub fn barrier(&self, epoch: u64) -> Vec<u8> {
        entry::encode_barrier(self.position.generation, epoch)
    }

    /// A barrier of a generation, which is that of the position or, once after a loss
    /// of data was accepted, a higher one.
    pub fn generation_barrier(&self, generation: u64, epoch: u64) -> Vec<u8> {
        entry::encode_barrier(generation, epoch)
    }

    /// The last commit left every page as it was.
    fn forget_unchanged(&mut self) -> Result<Option<Captured>, PagesError> {
        self.in_flight.pop_back();
        if self.in_flight.is_empty() {
            let snapshot = self.take_snapshot()?;
            self.set_gate(Some(snapshot));
        }
        Ok(None)
    }
}

/// The pages of an entry: those in new frames, and all by which the database grew,
/// since SQLite does not write pages that were freed in the commit that made them.
fn changed_pages(change: &Change, index: &WalIndex) -> Vec<Changed> {
    let (old, size) = (change.size_before, change.size_after);
    let changed = |page: u32, after: Place, before: Place| Changed {
        page,
        before: (page <= old).then_some(before),
        after,
    };
    let mut pages: Vec<Changed> = change
        .pages
        .range(..=size)
        .map(|(&page, &(frame, before))| changed(page, Place::Frame(frame), before))
        .collect();
    let unwritten = (old.saturating_add(1)..=size)
        .filter(|page| !change.pages.contains_key(page) && *page != PENDING_BYTE_PAGE)
        .map(|page| changed(page, index.place(page), Place::Main));
    pages.extend(unwritten);
    pages.sort_unstable_by_key(|changed| changed.page);
    pages
}

impl Parts {
    /// `None` if no page differs from what it was.
    fn new(
        images: Arc<Images>,
        parent: Position,
        size: u32,
        mut pages: Vec<Changed>,
    ) -> io::Result<Option<Parts>> {
        let mut ready = None;
        if pages.len() <= MAX_PART_PAGES {
            let mut chunk = Chunk::read(&images, &pages)?;
            chunk.drop_unchanged(&mut pages);
            ready = Some(chunk);
        }
        if pages.is_empty() {
            return Ok(None);
        }
        let (mut sums, mut digests) = (Vec::new(), Vec::new());
        for pages in pages.chunks(MAX_PART_PAGES) {
            let one = match &ready {
                Some(chunk) => chunk.sums(),
                None => Chunk::read(&images, pages)?.sums(),
            };
            digests.push(entry::digest(&numbers(pages), &one.before, &one.after));
            sums.push(one);
        }
        let content = entry::content(size, &digests);
        let position = parent.next(parent.generation, parent.epoch, &content);
        Ok(Some(Parts { images, parent, position, size, pages, sums, next: 0, ready }))
    }

    /// How many parts there are in all.
    pub fn total(&self) -> usize {
        self.sums.len()
    }

    /// How many parts are still to be asked for.
    pub fn left(&self) -> usize {
        self.sums.len() - self.next
    }

    /// Pages that changed.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    fn encode(&mut self, part: usize) -> io::Result<Vec<u8>> {
        let start = part * MAX_PART_PAGES;
        let pages = &self.pages[start..self.pages.len().min(start + MAX_PART_PAGES)];
        let chunk = match self.ready.take() {
            Some(chunk) => chunk,
            None => Chunk::read(&self.images, pages)?,
        };
        let sums = self.sums[part];
        let part = Part {
            parent: self.parent,
            position: self.position,
            part: part as u32,
            parts: self.sums.len() as u32,
            size: self.size,
            pages: numbers(pages),
            before: sums.before,
            after: sums.after,
            images: &delta::pack(&chunk.before, chunk.after)?,
        };
        Ok(part.encode())
    }
}

impl Iterator for Parts {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        if self.next == self.sums.len() {
            return None;
        }
        self.next += 1;
        Some(self.encode(self.next - 1))
    }
}

impl Chunk {
    fn read(images: &Images, pages: &[Changed]) -> io::Result<Chunk> {
        let was: Vec<_> = pages.iter().filter_map(|one| Some((one.page, one.before?))).collect();
        let is: Vec<_> = pages.iter().map(|one| (one.page, one.after)).collect();
        Ok(Chunk { before: read_all(images, &was)?, after: read_all(images, &is)? })
    }

    fn sums(&self) -> Sums {
        Sums { before: images_hash(&self.before), after: images_hash(&self.after) }
    }

    /// Leaves out pages that were written as they were.
    fn drop_unchanged(&mut self, pages: &mut Vec<Changed>) {
        let all = self.both(pages);
        let is_changed: Vec<bool> = all.iter().map(|(old, new)| *old != Some(*new)).collect();
        if is_changed.iter().all(|changed| *changed) {
            return;
        }
        let changed = all.iter().zip(&is_changed).filter(|(_, changed)| **changed);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for ((old, new), _) in changed {
            before.extend_from_slice(old.unwrap_or_default());
            after.extend_from_slice(new);
        }
        let mut kept = is_changed.iter();
        pages.retain(|_| kept.next().is_none_or(|changed| *changed));
        (self.before, self.after) = (before, after);
    }

    /// Of every page the image before, if there was one, and after.
    fn both(&self, pages: &[Changed]) -> Vec<(Option<&[u8]>, &[u8])> {
        let mut old_images = self.before.chunks_exact(PAGE_BYTES);
        let new_images = self.after.chunks_exact(PAGE_BYTES);
        let old = |one: &Changed| one.before.and_then(|_| old_images.next());
        pages.iter().map(old).zip(new_images).collect()
    }
}

fn read_all(images: &Images, pages: &[(u32, Place)]) -> io::Result<Vec<u8>> {
    let mut all = vec![0; pages.len() * PAGE_BYTES];
    for (&(page, place), image) in pages.iter().zip(all.chunks_exact_mut(PAGE_BYTES)) {
        images.read(page, place, image)?;
        mask(page, image);
    }
    Ok(all)
}

fn numbers(pages: &[Changed]) -> Vec<u32> {
    pages.iter().map(|changed| changed.page).collect()
}
