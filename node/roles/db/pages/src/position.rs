//! Where a copy is in the history of its database.

use std::fmt;

/// The last entry that a copy has applied. Two copies with equal positions hold
/// equal databases: the hash covers the whole history before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Position {
    /// Counts the recoveries after which the group accepted the loss of a majority.
    pub generation: u64,
    /// The epoch (Raft term) of the primary that wrote the entry; 0 before the first.
    pub epoch: u64,
    /// Counts the entries; 0 is the empty database.
    pub sequence: u64,
    /// blake3 over the previous hash and the entry's content.
    pub hash: [u8; 32],
}

/// Bytes of an encoded position.
pub(crate) const POSITION_BYTES: usize = 56;

impl Position {
    /// The position after this one, of an entry with this content.
    pub(crate) fn next(&self, generation: u64, epoch: u64, content: &[u8; 32]) -> Position {
        let sequence = self.sequence.wrapping_add(1);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.hash);
        for number in [generation, epoch, sequence] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(content);
        Position { generation, epoch, sequence, hash: *hasher.finalize().as_bytes() }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.generation, self.epoch, self.sequence] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.hash);
    }

    pub(crate) fn decode(bytes: &[u8; POSITION_BYTES]) -> Position {
        let number = |at: usize| {
            let mut one = [0; 8];
            one.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(one)
        };
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[24..]);
        Position { generation: number(0), epoch: number(8), sequence: number(16), hash }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}-", self.generation, self.epoch, self.sequence)?;
        self.hash[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
