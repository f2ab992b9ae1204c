//! Page images as they travel in an entry: what did not change in a page is zero, which
//! compresses to next to nothing.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

/// zstd's level: what is mostly zeros gains little from a higher one.
const LEVEL: i32 = 1;

thread_local! {
    // To make these, and to free them, takes longer than the images of a small commit do.
    static COMPRESSOR: RefCell<io::Result<Compressor<'static>>> =
        RefCell::new(Compressor::new(LEVEL));
    static DECOMPRESSOR: RefCell<io::Result<Decompressor<'static>>> =
        RefCell::new(Decompressor::new());
}

/// Packs the images of pages, given those before of the first of them: pages that were
/// there before come first, since a page has a lower number than those by which the
/// database grew.
///
/// # Errors
/// There is no memory.
pub(crate) fn pack(before: &[u8], mut after: Vec<u8>) -> io::Result<Vec<u8>> {
    mask_with(&mut after, before);
    COMPRESSOR.with_borrow_mut(|made| match made {
        Ok(compressor) => compressor.compress(&after),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    })
}

/// The images after, of so many bytes, given those before.
///
/// # Errors
/// The bytes are not packed images of that size.
pub(crate) fn unpack(before: &[u8], packed: &[u8], expected: usize) -> io::Result<Vec<u8>> {
    let mut images = DECOMPRESSOR.with_borrow_mut(|made| match made {
        Ok(decompressor) => decompressor.decompress(packed, expected),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    })?;
    if images.len() != expected {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there are fewer images"));
    }
    mask_with(&mut images, before);
    Ok(images)
}

/// Once gives the difference, twice what was there.
fn mask_with(images: &mut [u8], before: &[u8]) {
    for (byte, old) in images.iter_mut().zip(before) {
        *byte ^= old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PAGE_BYTES;

    fn noise(pages: usize) -> Vec<u8> {
        let mut bytes = vec![0; pages * PAGE_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn images_come_out_as_they_were() {
        let before = noise(3);
        let mut changed = before.clone();
        changed[5000] ^= 1;
        let grown = [changed.as_slice(), &noise(2)].concat();
        for (before, after) in [(&before, &changed), (&before, &grown), (&vec![], &grown)] {
            let packed = pack(before, after.clone()).unwrap();
            assert_eq!(&unpack(before, &packed, after.len()).unwrap(), after);
        }
    }

    #[test]
    fn what_did_not_change_takes_no_room() {
        let before = noise(200);
        let mut after = before.clone();
        after[123_456] ^= 0x55;
        let packed = pack(&before, after).unwrap();
        assert!(packed.len() < 150, "{} bytes", packed.len());
    }

    #[test]
    fn bytes_that_are_not_packed_images_of_that_size_are_an_error() {
        let packed = pack(&[], noise(2)).unwrap();
        for expected in [PAGE_BYTES, 3 * PAGE_BYTES] {
            assert!(unpack(&[], &packed, expected).is_err());
        }
        assert!(unpack(&[], &packed[..packed.len() - 1], 2 * PAGE_BYTES).is_err());
        assert!(unpack(&[], b"what is this", 2 * PAGE_BYTES).is_err());
    }
}
