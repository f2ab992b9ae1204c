//! The durable marker: which state the files hold, whatever a power failure left.

use crate::position::{POSITION_BYTES, Position};
use crate::spool::Pending;

const MAGIC: &[u8; 8] = b"rungpage";
const VERSION: u32 = 1;
const BYTES: usize = 8 + 4 + 8 + 8 + POSITION_BYTES + 4 + 8 + PARTS_BYTES + 4;
const PARTS_BYTES: usize = 4 + POSITION_BYTES + 8 + 8;

/// Which state the files hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marker {
    /// The number in the main file's name.
    pub file: u64,
    /// The last log index whose effects, or whose lack of any, the state has.
    pub log_index: u64,
    /// The position of the state.
    pub position: Position,
    /// Frames of the `-wal` that belong to the state; 0: the main file is all of
    /// it. With frames the main file may be in the middle of a checkpoint.
    pub frames: u32,
    /// Of the filling that the frames are in.
    pub salts: [u8; 8],
    /// Parts that are kept of a commit whose last part has not come, and the bytes
    /// of their file.
    pub parts: Option<(Pending, u64)>,
}

/// Why bytes are not a marker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkerError {
    /// It is not a marker, or not a whole one.
    #[error("it is not a marker, or its checksum is wrong")]
    Damaged,
    /// A newer version of Rung wrote it.
    #[error("its format version is {0}, this program reads {VERSION}; start the newer program")]
    Version(u32),
}

impl Marker {
    /// The marker's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.file.to_le_bytes());
        out.extend_from_slice(&self.log_index.to_le_bytes());
        self.position.encode(&mut out);
        out.extend_from_slice(&self.frames.to_le_bytes());
        out.extend_from_slice(&self.salts);
        let none = Pending { target: Position::default(), parts: 0, first_index: 0 };
        let (pending, bytes) = self.parts.unwrap_or((none, 0));
        out.extend_from_slice(&pending.parts.to_le_bytes());
        pending.target.encode(&mut out);
        out.extend_from_slice(&pending.first_index.to_le_bytes());
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// Reads a marker. Any bytes may be given.
    ///
    /// # Errors
    /// The bytes are not exactly one marker.
    pub fn decode(bytes: &[u8]) -> Result<Marker, MarkerError> {
        let bytes: &[u8; BYTES] = bytes.try_into().map_err(|_| MarkerError::Damaged)?;
        let (body, sum) = bytes.split_at(BYTES - 4);
        if body[..8] != *MAGIC || sum != crc32fast::hash(body).to_le_bytes() {
            return Err(MarkerError::Damaged);
        }
        let version = u32::from_le_bytes(part(body, 8));
        if version != VERSION {
            return Err(MarkerError::Version(version));
        }
        const PARTS: usize = 40 + POSITION_BYTES;
        let pending = Pending {
            parts: u32::from_le_bytes(part(body, PARTS)),
            target: Position::decode(&part(body, PARTS + 4)),
            first_index: u64::from_le_bytes(part(body, PARTS + 4 + POSITION_BYTES)),
        };
        let bytes = u64::from_le_bytes(part(body, PARTS + 12 + POSITION_BYTES));
        Ok(Marker {
            parts: (pending.parts > 0).then_some((pending, bytes)),
            file: u64::from_le_bytes(part(body, 12)),
            log_index: u64::from_le_bytes(part(body, 20)),
            position: Position::decode(&part(body, 28)),
            frames: u32::from_le_bytes(part(body, 28 + POSITION_BYTES)),
            salts: part(body, 32 + POSITION_BYTES),
        })
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}
