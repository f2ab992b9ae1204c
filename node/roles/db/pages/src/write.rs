//! Writing the pages of a commit that somebody else has made, checked against the
//! pages that are here.

use crate::entry::{self, Entry, Part};
use crate::error::PagesError;
use crate::overlay::Overlay;
use crate::page::{PAGE_BYTES, PENDING_BYTE_PAGE, images_hash};
use crate::spool::{Pending, Spool};

/// Writes a commit: the parts that were kept, then the last one.
pub(crate) fn write_commit(
    overlay: &mut Overlay<'_>,
    last: &Part<'_>,
    spool: &Spool,
    kept: Option<Pending>,
) -> Result<(), PagesError> {
    let mut writing = Writing {
        old_size: overlay.size,
        digests: Vec::with_capacity(last.parts as usize),
        grown: 0,
        newest_page: 0,
    };
    overlay.size = last.size;
    if let Some(kept) = kept {
        let failed = PagesError::io("read kept parts of a commit in", spool.dir());
        let mut parts = spool.read(kept.first_index, kept.parts).map_err(&failed)?;
        while let Some(bytes) = parts.next().map_err(&failed)? {
            match Entry::decode(&bytes) {
                Ok(Entry::Pages(part)) => writing.write(overlay, &part, last)?,
                _ => return Err(diverged(last, "a kept part cannot be read again")),
            }
        }
    }
    writing.write(overlay, last, last)?;
    writing.finish(last)
}

struct Writing {
    /// Pages of the database before the commit.
    old_size: u32,
    digests: Vec<[u8; 32]>,
    /// Pages beyond the old size.
    grown: u64,
    newest_page: u32,
}

impl Writing {
    fn write(
        &mut self,
        overlay: &mut Overlay<'_>,
        part: &Part<'_>,
        last: &Part<'_>,
    ) -> Result<(), PagesError> {
        let in_order = part.pages.first().is_some_and(|page| *page > self.newest_page);
        let fits = part.part as usize == self.digests.len()
            && (part.position, part.size, part.parts) == (last.position, last.size, last.parts);
        if !in_order || !fits {
            return Err(diverged(last, "its parts do not fit together"));
        }
        let old = part.pages.partition_point(|page| *page <= self.old_size);
        let mut before = vec![0; old * PAGE_BYTES];
        for (page, image) in part.pages.iter().zip(before.chunks_exact_mut(PAGE_BYTES)) {
            overlay.read(*page, image)?;
        }
        if images_hash(&before) != part.before {
            return Err(diverged(last, "the pages before it are others here"));
        }
        let after = part.images_after(&before).map_err(|error| diverged(last, error))?;
        if images_hash(&after) != part.after {
            return Err(diverged(last, "the pages after it are not those that it names"));
        }
        for (page, image) in part.pages.iter().zip(after.chunks_exact(PAGE_BYTES)) {
            overlay.put(*page, image)?;
            self.newest_page = *page;
        }
        self.grown += (part.pages.len() - old) as u64;
        self.digests.push(part.digest());
        Ok(())
    }

    fn finish(&self, last: &Part<'_>) -> Result<(), PagesError> {
        let pending = (self.old_size + 1..=last.size).contains(&PENDING_BYTE_PAGE);
        let grown = u64::from(last.size.saturating_sub(self.old_size)) - u64::from(pending);
        if self.grown != grown {
            return Err(diverged(last, "the database had another size before it"));
        }
        let content = entry::content(last.size, &self.digests);
        let (generation, epoch) = (last.position.generation, last.position.epoch);
        if last.parent.next(generation, epoch, &content) != last.position {
            return Err(diverged(last, "its pages are not what its position says"));
        }
        Ok(())
    }
}

fn diverged(part: &Part<'_>, what: impl ToString) -> PagesError {
    PagesError::Divergence { position: part.parent, what: what.to_string() }
}
