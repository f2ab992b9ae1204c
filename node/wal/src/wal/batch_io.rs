//! Batches as bytes, and entries back from them.

use std::io;
use std::path::Path;

use bytes::Bytes;
use rung_proto::GroupId;
use tracing::error;

use crate::disk::DiskFile;
use crate::error::{ReadError, is_full};
use crate::group::{LogEntry, Write};
use crate::log_core::{Batch, Failed, Found, Slot, Written};
use crate::record::{self, Decoded, Record, Seed};

pub(super) fn failure(what: &str, path: &Path, error: &io::Error) -> Failed {
    match is_full(error) {
        true => Failed::Full,
        false => Failed::Fatal(format!("{what} {}: {error}", path.display())),
    }
}

/// Makes sure that what a refused write left behind is never taken for a batch:
/// its callers are told that nothing of it was kept. This can happen only where
/// the file system does not keep its promise of preallocated blocks.
pub(super) fn void(batch: &Batch) -> Failed {
    let blank = [0; record::BATCH_BYTES];
    match batch.file.write_at(batch.base, &blank).and_then(|()| batch.file.sync()) {
        Ok(()) => Failed::Full,
        Err(error) => {
            let path = batch.path.display();
            Failed::Fatal(format!("taking back a write for which {path} had no space: {error}"))
        }
    }
}

/// Turns a batch into bytes.
pub(super) fn encode(batch: &Batch, out: &mut Vec<u8>) -> Written {
    let (base, seed, number) = (batch.base, batch.seed, batch.number);
    let mut written = Written::default();
    let place = |out: &mut Vec<u8>, record: &Record<'_>, header: u64| {
        let offset = (base + out.len() as u64) as u32;
        let bytes = record::encode(out, base, seed, number, record) as u32;
        Slot { segment: batch.segment, offset, bytes, header }
    };
    place(out, &Record::Batch { synced: batch.synced }, 0);
    for plan in &batch.copies {
        let (group, index, header) = (plan.group, plan.index, plan.slot.header);
        let slot = match load_one(group, index, plan.slot, &*plan.file, &plan.path, plan.seed) {
            Ok(entry) => {
                let record = Record::Copy { group, index, header, payload: &entry.payload };
                Some(place(out, &record, header))
            }
            Err(error) => {
                error!(%group, index, %error, "an entry cannot be copied forward");
                None
            }
        };
        written.copies.push(slot);
    }
    for item in &batch.items {
        if item.clears_damage {
            place(out, &Record::Cleared, 0);
        }
        let group = item.group;
        for write in &item.writes {
            match write {
                Write::Append { entries } => {
                    for LogEntry { index, header, payload } in entries {
                        let (index, header) = (*index, *header);
                        let record = Record::Entry { group, index, header, payload };
                        written.entries.push(place(out, &record, header));
                    }
                }
                Write::TruncateFrom { index } => {
                    place(out, &Record::Truncate { group, index: *index }, 0);
                }
                Write::PurgeTo { index } => {
                    place(out, &Record::Purge { group, index: *index }, 0);
                }
                Write::SetMeta { key, value } => {
                    place(out, &Record::Meta { group, key: *key, value }, 0);
                }
                Write::DropGroup => {
                    place(out, &Record::Drop { group }, 0);
                }
            }
        }
    }
    for segment in &batch.frees {
        place(out, &Record::Free { segment: *segment }, 0);
    }
    written.bytes = out.len() as u64;
    written
}

pub(super) fn load(group: GroupId, found: Vec<Found>) -> Result<Vec<LogEntry>, ReadError> {
    let load = |found| match found {
        Found::Here(entry) => Ok(entry),
        Found::OnDisk { index, slot, file, path, seed } => {
            load_one(group, index, slot, &*file, &path, seed)
        }
    };
    found.into_iter().map(load).collect()
}

/// Reads one entry and checks that it is the one.
pub(super) fn load_one(
    wanted_group: GroupId,
    wanted_index: u64,
    slot: Slot,
    file: &dyn DiskFile,
    path: &Path,
    seed: Seed,
) -> Result<LogEntry, ReadError> {
    let offset = u64::from(slot.offset);
    let corrupt = |what: String| ReadError::Corrupt { file: path.to_owned(), offset, what };
    let mut buffer = vec![0; slot.bytes as usize];
    file.read_at(offset, &mut buffer).map_err(|source| ReadError::Io {
        file: path.to_owned(),
        offset,
        source,
    })?;
    let Decoded { record, .. } =
        record::decode(&buffer, offset, seed).map_err(|error| corrupt(error.to_string()))?;
    let (Record::Entry { group, index, header, payload }
    | Record::Copy { group, index, header, payload }) = record
    else {
        return Err(corrupt("a record of another kind".to_owned()));
    };
    if (group, index, header) != (wanted_group, wanted_index, slot.header) {
        return Err(corrupt(format!("entry {index} of term {header} of group {group}")));
    }
    let start = record::ENTRY_PAYLOAD_OFFSET;
    let range = start..start + payload.len();
    Ok(LogEntry { index, header, payload: Bytes::from(buffer).slice(range) })
}
