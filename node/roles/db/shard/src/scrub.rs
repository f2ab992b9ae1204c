//! Comparing whole copies, some pages at a time.
//!
//! The primary puts a mark into the log. Where it is applied, every copy hashes the same
//! pages of the same position, whatever is written meanwhile; who asks compares.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rung_pages::PagesError;

use crate::core::{Core, stop_for};
use crate::error::ShardError;
use crate::payload::{self, ScrubMark};
use crate::shard::Shard;
use crate::status::Stop;

/// Parts of a scrub that a copy remembers: who asks does so at once.
const REMEMBERED: usize = 64;
/// How long after a mark somebody may ask what was found.
const ASKED_FOR: Duration = Duration::from_secs(60);

/// What a copy found of some pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubPart {
    /// The hash of the position at which they were read.
    pub position: [u8; 32],
    /// Pages of the database there.
    pub size: u32,
    /// What the pages hash to; otherwise why they could not be read.
    pub hash: Result<[u8; 32], Unread>,
}

/// Why pages could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unread {
    /// Whether this says that they are damaged.
    pub is_damage: bool,
    /// What was seen.
    pub what: String,
}

/// The last parts of the last scrub.
#[derive(Default)]
pub(crate) struct Scrubbed {
    scrub: u64,
    parts: BTreeMap<u32, ScrubPart>,
}

impl Core {
    /// Hashes the pages of a mark, at its place in the log. Nobody asks for an old one any
    /// more: it comes again when the log is replayed.
    pub fn read_marked(&self, mark: &ScrubMark, at_ms: Option<u64>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.saturating_sub(Duration::from_millis(at_ms.unwrap_or(0))) > ASKED_FOR {
            return;
        }
        let read = self.store().and_then(|store| store.hash_pages(mark.first, mark.count));
        let part = match read {
            Ok(read) => {
                ScrubPart { position: read.position.hash, size: read.size, hash: Ok(read.hash) }
            }
            Err(error) => {
                let position = self.gate.position().hash;
                let what = error.to_string();
                let unread = Unread { is_damage: is_damage(&error), what };
                ScrubPart { position, size: 0, hash: Err(unread) }
            }
        };
        let mut scrubbed = self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner);
        if scrubbed.scrub != mark.scrub {
            *scrubbed = Scrubbed { scrub: mark.scrub, parts: BTreeMap::new() };
        }
        scrubbed.parts.insert(mark.first, part);
        if scrubbed.parts.len() > REMEMBERED {
            scrubbed.parts.pop_first();
        }
    }
}

/// Whether a disk that fails so has lost what was on it.
fn is_damage(error: &PagesError) -> bool {
    let fails = |source: &rusqlite::Error| {
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure)
    };
    match error {
        PagesError::Sqlite { source, .. } if fails(source) => true,
        error => matches!(stop_for(error), Stop::Damaged(_)),
    }
}

impl Shard {
    /// Has every copy hash some pages, the first of which is `first`, at one position;
    /// what this one found. Only the primary can.
    ///
    /// # Errors
    /// As [`Shard::write`]; nothing is changed in any case.
    pub async fn scrub(
        &self,
        scrub: u64,
        first: u32,
        count: u32,
        deadline: Duration,
    ) -> Result<ScrubPart, ShardError> {
        let epoch = self.core().desk().epoch();
        let epoch = epoch.ok_or(ShardError::NotPrimary { primary: None })?;
        let mark = payload::encode_mark(epoch, &ScrubMark { scrub, first, count });
        let proposed = self.group().propose(mark, deadline).await;
        proposed.map_err(|error| ShardError::Failed(error.to_string()))?;
        let found = self.scrubbed(scrub, first);
        found.ok_or_else(|| ShardError::Failed("another scrub has begun".to_owned()))
    }

    /// What this copy found of the pages of a mark, if it came to it.
    pub fn scrubbed(&self, scrub: u64, first: u32) -> Option<ScrubPart> {
        let scrubbed = self.core().scrubbed.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = (scrubbed.scrub == scrub).then_some(&scrubbed.parts)?;
        parts.get(&first).cloned()
    }

    /// Stops this copy, which differs from the others: it must be made anew.
    pub fn condemn(&self, what: String) {
        self.core().stop(Stop::Damaged(what));
    }
}
