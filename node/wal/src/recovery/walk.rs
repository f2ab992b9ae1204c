//! Going through the records of one segment.

use rung_proto::GroupId;

use crate::group::Image;
use crate::record::{self, Decoded, Invalid, OlderSegment, Position, Record, Run, Seed};
use crate::segment::{PREAMBLE_BYTES, Preamble, PreambleError};

/// The head of a segment.
pub(super) struct Head {
    pub log_id: u64,
    pub older: Vec<OlderSegment>,
    pub damage: Option<Position>,
    pub images: Vec<(GroupId, Image, Vec<Run>)>,
    pub end: usize,
}

pub(super) enum HeadError {
    Newer(u32),
    Damaged { offset: u64, what: String },
}

/// Reads the head of a segment, which must be whole.
pub(super) fn read_head(bytes: &[u8], id: u64) -> Result<Head, HeadError> {
    let damaged = |offset: usize, what: &dyn ToString| HeadError::Damaged {
        offset: offset as u64,
        what: what.to_string(),
    };
    let preamble = Preamble::decode(bytes).map_err(|error| match error {
        PreambleError::Newer(version) => HeadError::Newer(version),
        PreambleError::Damaged => damaged(0, &error),
    })?;
    if preamble.segment != id {
        return Err(damaged(
            0,
            &format!("it is segment {:016x} under another name", preamble.segment),
        ));
    }
    let seed = Seed::new(preamble.log_id, id);
    let mut head = Head {
        log_id: preamble.log_id,
        older: Vec::new(),
        damage: None,
        images: Vec::new(),
        end: PREAMBLE_BYTES,
    };
    loop {
        let rest = bytes.get(head.end..).unwrap_or_default();
        let decoded = record::decode(rest, head.end as u64, seed)
            .and_then(
                |decoded| if decoded.batch == 0 { Ok(decoded) } else { Err(Invalid::Content) },
            )
            .map_err(|error| damaged(head.end, &error))?;
        match decoded.record {
            Record::Manifest { older, damage } => (head.older, head.damage) = (older, damage),
            Record::Image { group, image, runs } => head.images.push((group, image, runs)),
            Record::Copy { .. } => {}
            Record::HeadEnd => {
                head.end += decoded.bytes;
                return Ok(head);
            }
            _ => return Err(damaged(head.end, &"a record that does not belong in a head")),
        }
        head.end += decoded.bytes;
    }
}

/// Goes from record to record behind the head of a segment.
pub(super) struct Walk<'a> {
    pub bytes: &'a [u8],
    pub seed: Seed,
    pub offset: usize,
    pub batch: u64,
    /// The highest offset that a batch says was synced before it.
    pub synced: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8], offset: usize, seed: Seed) -> Self {
        Self { bytes, seed, offset, batch: 0, synced: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Decoded<'a>, Invalid> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let decoded = record::decode(rest, self.offset as u64, self.seed)?;
        match decoded.record {
            Record::Batch { synced } if decoded.batch > self.batch => {
                self.batch = decoded.batch;
                self.synced = self.synced.max(synced);
            }
            Record::Batch { .. } => return Err(Invalid::Content),
            // Left behind by a batch that was abandoned at an earlier offset.
            _ if decoded.batch != self.batch || self.batch == 0 => return Err(Invalid::Content),
            _ => {}
        }
        self.offset += decoded.bytes;
        Ok(decoded)
    }

    /// True if what ended the walk looks like a record that was being written,
    /// not like zeros or something older.
    pub(super) fn ends_in_a_batch(&self) -> bool {
        let header = self.bytes.get(self.offset..self.offset + record::HEADER_BYTES);
        let number = header.and_then(|header| header.last_chunk().copied()).map(u64::from_le_bytes);
        number.is_some_and(|number| number > 0 && (self.batch..=self.batch + 2).contains(&number))
    }

    /// True if a batch behind the place where the walk ended says that more
    /// than this was synced: then what ended the walk is no torn tail.
    pub(super) fn later_batch_vouches_for(&self, end: u64) -> bool {
        let mut from = self.offset;
        while let Some((offset, synced)) = record::find_batch(self.bytes, from, self.seed) {
            if synced > end {
                return true;
            }
            from = offset + record::BATCH_BYTES;
        }
        false
    }
}
