//! The log of one group: what callers write, and what is known about it.

use std::collections::BTreeMap;

use bytes::Bytes;
use rung_proto::GroupId;

use crate::error::WalError;

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the group's log.
    pub index: u64,
    /// The term in which it was made.
    pub header: u64,
    /// Its content.
    pub payload: Bytes,
}

/// One change to the log of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Adds entries. The first one's index must follow the last entry, or the
    /// purge point if there is none; a group that never had either may start
    /// anywhere.
    Append {
        /// The entries, in order, without a gap.
        entries: Vec<LogEntry>,
    },
    /// Drops the entries at `index` and above.
    TruncateFrom {
        /// The first index dropped.
        index: u64,
    },
    /// Drops the entries up to and including `index`, which may lie above the
    /// last entry: the log then goes on behind it.
    PurgeTo {
        /// The last index dropped.
        index: u64,
    },
    /// Keeps a small value, such as a vote; the latest one counts.
    SetMeta {
        /// Which value.
        key: u8,
        /// Its new content, at most [`MAX_META_BYTES`].
        value: Bytes,
    },
    /// Forgets the group: its entries, values and purge point.
    DropGroup,
}

/// The largest value that [`Write::SetMeta`] keeps, in bytes.
pub const MAX_META_BYTES: usize = 4096;

/// What the log knows of a group, everything queued so far included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The index of the first entry.
    pub first_index: Option<u64>,
    /// The index of the last entry.
    pub last_index: Option<u64>,
    /// The term of the last entry.
    pub last_header: Option<u64>,
    /// The last index that was purged.
    pub purged_index: Option<u64>,
    /// The values kept.
    pub meta: BTreeMap<u8, Bytes>,
    /// The group's log was found damaged and was not dropped since. It has no
    /// entries then, `meta` may be out of date, and the replica must not vote.
    pub corrupt: bool,
}

/// Which indices a group has. The rules of appending, truncating and purging
/// are here and nowhere else: they are the same for what is queued, what is
/// written and what is found at a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The first and the last index.
    pub range: Option<(u64, u64)>,
    /// The last index purged.
    pub purged: Option<u64>,
    /// See [`GroupState::corrupt`].
    pub corrupt: bool,
}

impl Bounds {
    /// The index that the next entry must have, if it is determined.
    pub fn next(&self) -> Option<u64> {
        match (self.range, self.purged) {
            (Some((_, last)), _) => Some(last + 1),
            (None, Some(purged)) => Some(purged + 1),
            (None, None) => None,
        }
    }

    /// Adds one entry; false if it does not follow.
    #[must_use]
    pub fn append(&mut self, index: u64) -> bool {
        // The largest index is refused so that one more than an index always exists.
        if index == u64::MAX || self.next().is_some_and(|next| next != index) {
            return false;
        }
        self.range = Some((self.range.map_or(index, |(first, _)| first), index));
        true
    }

    /// Drops what is at `from` and above.
    pub fn truncate(&mut self, from: u64) {
        self.range = match self.range {
            Some((first, last)) if from > first => Some((first, last.min(from - 1))),
            _ => None,
        };
    }

    /// Drops what is at `to` and below.
    pub fn purge(&mut self, to: u64) {
        let to = to.min(u64::MAX - 1);
        if self.purged.is_some_and(|purged| purged >= to) {
            return;
        }
        self.purged = Some(to);
        self.range = match self.range {
            Some((first, last)) if last > to => Some((first.max(to + 1), last)),
            _ => None,
        };
    }

    /// How many entries there are.
    pub fn len(&self) -> u64 {
        self.range.map_or(0, |(first, last)| last - first + 1)
    }

    /// True if there is no entry.
    pub fn is_empty(&self) -> bool {
        self.range.is_none()
    }

    /// True if there is an entry at `index`.
    pub fn contains(&self, index: u64) -> bool {
        self.range.is_some_and(|(first, last)| (first..=last).contains(&index))
    }

    /// The effect of a list of writes, or why it is refused.
    pub fn after(self, group: GroupId, writes: &[Write]) -> Result<Self, WalError> {
        let mut bounds = self;
        for write in writes {
            match write {
                Write::DropGroup => bounds = Self::default(),
                _ if bounds.corrupt => return Err(WalError::Corrupt { group }),
                Write::Append { entries } => {
                    for LogEntry { index, .. } in entries {
                        let expected = bounds.next().unwrap_or(0);
                        if !bounds.append(*index) {
                            return Err(WalError::Gap { group, index: *index, expected });
                        }
                    }
                }
                Write::TruncateFrom { index } => bounds.truncate(*index),
                Write::PurgeTo { index } => bounds.purge(*index),
                Write::SetMeta { .. } => {}
            }
        }
        Ok(bounds)
    }
}

/// The bounds and the values of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Which indices it has.
    pub bounds: Bounds,
    /// The values kept.
    pub meta: BTreeMap<u8, Bytes>,
}

/// What the image of a group turns into by one write that was checked before.
/// `None` stands for a group that does not exist.
pub(crate) fn apply(image: &mut Option<Image>, write: &Write) {
    match write {
        Write::DropGroup => *image = None,
        Write::Append { entries } => {
            let bounds = &mut image.get_or_insert_default().bounds;
            for entry in entries {
                let follows = bounds.append(entry.index);
                debug_assert!(follows, "a write is checked before it is applied");
            }
        }
        Write::TruncateFrom { index } => image.get_or_insert_default().bounds.truncate(*index),
        Write::PurgeTo { index } => image.get_or_insert_default().bounds.purge(*index),
        Write::SetMeta { key, value } => {
            image.get_or_insert_default().meta.insert(*key, value.clone());
        }
    }
}
