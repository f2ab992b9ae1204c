//! Frames of a mesh lane: what is read and written again reads the same, and it
//! does not matter in which pieces the bytes came.
#![no_main]

use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use rung_transport::{Frame, parse_frames, put_frame, take_frame};

const LIMIT: usize = 4096;

// The first byte is the size of the pieces.
fuzz_target!(|input: &[u8]| {
    let Some((piece, lane)) = input.split_first() else { return };
    let whole = parse_frames(lane, LIMIT);
    assert_eq!(whole, in_pieces(lane, usize::from(*piece).max(1)));
    let Ok(frames) = whole else { return };
    let mut written = BytesMut::new();
    frames.iter().for_each(|frame| put_frame(frame, &mut written));
    // A refusal has several encodings, and we write only one; it may grow.
    assert_eq!(parse_frames(&written, usize::MAX / 2), Ok(frames));
});

fn in_pieces(lane: &[u8], size: usize) -> Result<Vec<Frame>, rung_transport::FrameError> {
    let mut received = BytesMut::new();
    let mut frames = Vec::new();
    for piece in lane.chunks(size) {
        received.put_slice(piece);
        while let Some(frame) = take_frame(&mut received, LIMIT)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}
