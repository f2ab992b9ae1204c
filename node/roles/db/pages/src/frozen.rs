//! The settled pages of one moment, read from the files while the database goes on.
//!
//! Until the next checkpoint every image is where it was: in a frame of the `-wal`, or
//! in the main file, which only checkpoints write to. Before a checkpoint overwrites
//! anything it gives what has not been read to a file of the copy's own. So a copy holds
//! back neither checkpoints nor commits, however long it is read.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::page::{PAGE_BYTES, PENDING_BYTE_PAGE, mask};
use crate::store::InFlight;
use crate::wal_file::{Images, Place, WalIndex};

/// Pages that a checkpoint cuts off and keeps for a copy. Of more the copy is given up:
/// nobody can commit while they are read.
const MOST_CUT: u32 = 16 << 10;
/// Images that are kept at once.
const RUN: usize = 256;

/// The settled pages of one moment.
pub(crate) struct Frozen {
    images: Images,
    /// Pages of the database.
    pub size: u32,
    kept: Mutex<Kept>,
    /// Of the file for what is kept.
    path: PathBuf,
}

/// Where pages are that are not in the main file, or will soon not be.
struct Kept {
    places: HashMap<u32, Image>,
    file: Option<File>,
    slots: u32,
    /// Those before it have been read.
    next: u32,
    given_up: Option<String>,
}

#[derive(Clone, Copy)]
enum Image {
    /// In this frame of the `-wal`.
    Frame(u32),
    /// In this place of the copy's own file.
    Kept(u32),
}

impl Frozen {
    /// Adds the images of these pages, which come after all that were read before.
    ///
    /// # Errors
    /// The disk failed, or the copy was given up.
    pub fn read(&self, first: u32, count: u32, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + count as usize * PAGE_BYTES, 0);
        let run = &mut out[start..];
        self.images.read(first, Place::Main, run)?;
        // A checkpoint that has overwritten what was just read had kept it before.
        let mut kept = self.kept();
        if let Some(why) = &kept.given_up {
            return Err(io::Error::other(why.clone()));
        }
        for (page, image) in (first..).zip(run.chunks_exact_mut(PAGE_BYTES)) {
            if let Some(place) = kept.places.remove(&page) {
                self.read_image(&kept, page, Some(place), image)?;
            }
            if page == PENDING_BYTE_PAGE {
                image.fill(0);
            }
            mask(page, image);
        }
        kept.next = first + count;
        Ok(())
    }

    fn read_image(
        &self,
        kept: &Kept,
        page: u32,
        place: Option<Image>,
        image: &mut [u8],
    ) -> io::Result<()> {
        match place {
            None => self.images.read(page, Place::Main, image),
            Some(Image::Frame(frame)) => self.images.read(page, Place::Frame(frame), image),
            Some(Image::Kept(slot)) => {
                let file = kept.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
                file.read_exact_at(image, u64::from(slot) * PAGE_BYTES as u64)
            }
        }
    }

    /// Keeps what the checkpoint of this `-wal` will overwrite or cut off.
    fn keep(&self, index: &WalIndex) {
        let mut kept = self.kept();
        if kept.given_up.is_some() {
            return;
        }
        let unread = kept.next..=self.size;
        let is_elsewhere = |page: &u32| matches!(kept.places.get(page), Some(Image::Kept(_)));
        let cut = kept.next.max(index.size.saturating_add(1))..=self.size;
        let cut: Vec<u32> = cut.filter(|page| !is_elsewhere(page)).collect();
        let mut pages: Vec<u32> = index
            .pages()
            .filter(|page| *page <= index.size && unread.contains(page) && !is_elsewhere(page))
            .collect();
        if cut.len() > MOST_CUT as usize {
            kept.give_up("the database became much smaller while it was copied");
            return;
        }
        pages.extend(cut);
        pages.sort_unstable();
        if let Err(error) = self.keep_pages(&mut kept, &pages) {
            kept.give_up(&format!("what is overwritten could not be kept: {error}"));
        }
    }

    fn keep_pages(&self, kept: &mut Kept, pages: &[u32]) -> io::Result<()> {
        let mut run = vec![0; RUN.min(pages.len()) * PAGE_BYTES];
        for pages in pages.chunks(RUN) {
            let images = &mut run[..pages.len() * PAGE_BYTES];
            for (page, image) in pages.iter().zip(images.chunks_exact_mut(PAGE_BYTES)) {
                self.read_image(kept, *page, kept.places.get(page).copied(), image)?;
            }
            let first = kept.slots;
            let file = match &mut kept.file {
                Some(file) => file,
                none => none.insert(nameless(&self.path)?),
            };
            file.write_all_at(images, u64::from(first) * PAGE_BYTES as u64)?;
            kept.slots += pages.len() as u32;
            kept.places.extend(pages.iter().copied().zip((first..).map(Image::Kept)));
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn give_up(&mut self, why: &str) {
        self.given_up = Some(why.to_owned());
        (self.places, self.file) = (HashMap::new(), None);
    }
}

/// A file that is gone when it is closed.
fn nameless(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// The copies of a database that are being read.
#[derive(Default)]
pub(crate) struct Copies {
    copies: Mutex<Vec<Weak<Frozen>>>,
    made: AtomicU64,
}

impl Copies {
    /// Freezes what is settled: what there is without the commits in flight.
    pub fn freeze<'a>(
        &self,
        dir: &Path,
        images: &Images,
        index: &WalIndex,
        in_flight: impl DoubleEndedIterator<Item = &'a InFlight>,
    ) -> io::Result<Arc<Frozen>> {
        let mut size = index.size;
        let mut places: HashMap<u32, Image> =
            index.pages().filter_map(|page| Some((page, Image::of(index.place(page))?))).collect();
        for commit in in_flight.rev() {
            size = commit.change.size_before;
            for (page, (_, before)) in &commit.change.pages {
                match Image::of(*before) {
                    Some(image) => places.insert(*page, image),
                    None => places.remove(page),
                };
            }
        }
        places.retain(|page, _| *page <= size);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let kept = Kept { places, file: None, slots: 0, next: 1, given_up: None };
        let frozen = Arc::new(Frozen {
            images: Images { main: images.main.try_clone()?, wal: images.wal.try_clone()? },
            size,
            kept: Mutex::new(kept),
            // Should its name survive a crash, the next start removes it.
            path: dir.join(format!("copy-{number}.new")),
        });
        let mut copies = self.copies();
        copies.retain(|copy| copy.strong_count() > 0);
        copies.push(Arc::downgrade(&frozen));
        Ok(frozen)
    }

    /// To be called before a checkpoint of this `-wal` begins.
    pub fn keep(&self, index: &WalIndex) {
        self.copies().iter().filter_map(Weak::upgrade).for_each(|copy| copy.keep(index));
    }

    /// The files will change without notice, or go.
    pub fn give_up(&self, why: &str) {
        for copy in self.copies().drain(..).filter_map(|copy| copy.upgrade()) {
            copy.kept().give_up(why);
        }
    }

    fn copies(&self) -> MutexGuard<'_, Vec<Weak<Frozen>>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.give_up("the database was closed");
    }
}

impl Image {
    fn of(place: Place) -> Option<Image> {
        match place {
            Place::Frame(frame) => Some(Image::Frame(frame)),
            Place::Main => None,
        }
    }
}
