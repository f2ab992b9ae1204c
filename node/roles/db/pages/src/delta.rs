//! Page images as they travel in an entry: of a page that hardly changed what stayed is zero,
//! which compresses to next to nothing.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

use crate::page::PAGE_BYTES;

/// zstd's level: what is mostly zeros gains little from a higher one.
const LEVEL: i32 = 1;
/// A page of which fewer bytes stayed was written anew, by a split of its tree or for another
/// table. Its difference to what was there is noise, where it itself is not.
const STAYED: usize = PAGE_BYTES / 2;

thread_local! {
    // To make these, and to free them, takes longer than the images of a small commit do.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Packs the images of pages, given those before of the first of them: pages that were
/// there before come first, since a page has a lower number than those by which the
/// database grew.
///
/// # Errors
/// There is no memory.
pub(crate) fn pack(before: &[u8], mut after: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut differs = vec![0; flag_bytes(after.len())];
    let pages = after.chunks_exact_mut(PAGE_BYTES).zip(before.chunks_exact(PAGE_BYTES));
    for (index, (image, old)) in pages.enumerate() {
        if image.iter().zip(old).filter(|(new, old)| new == old).count() >= STAYED {
            difference(image, old);
            differs[index / 8] |= 1 << (index % 8);
        }
    }
    after.extend_from_slice(&differs);
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::new(LEVEL)?),
        };
        compressor.compress(&after)
    })
}

/// The images after, of so many bytes, given those before.
///
/// # Errors
/// The bytes are not packed images of that size.
pub(crate) fn unpack(before: &[u8], packed: &[u8], expected: usize) -> io::Result<Vec<u8>> {
    let with_flags = expected + flag_bytes(expected);
    let mut images = DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(Decompressor::new()?),
        };
        decompressor.decompress(packed, with_flags)
    })?;
    if images.len() != with_flags {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there are fewer images"));
    }
    let differs = images.split_off(expected);
    let pages = images.chunks_exact_mut(PAGE_BYTES).zip(before.chunks_exact(PAGE_BYTES));
    for (index, (image, old)) in pages.enumerate() {
        if differs[index / 8] & 1 << (index % 8) != 0 {
            difference(image, old);
        }
    }
    Ok(images)
}

/// Bytes for a flag a page.
fn flag_bytes(images: usize) -> usize {
    (images / PAGE_BYTES).div_ceil(8)
}

/// Once gives the difference, twice what was there.
fn difference(image: &mut [u8], old: &[u8]) {
    for (byte, old) in image.iter_mut().zip(old) {
        *byte ^= old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u8, pages: usize) -> Vec<u8> {
        let mut bytes = vec![0; pages * PAGE_BYTES];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn images_come_out_as_they_were() {
        let before = noise(1, 11);
        let mut changed = before.clone();
        changed[5000] ^= 1;
        changed[9 * PAGE_BYTES..].copy_from_slice(&noise(2, 2));
        let grown = [changed.as_slice(), &noise(3, 9)].concat();
        for (before, after) in [(&before, &changed), (&before, &grown), (&vec![], &grown)] {
            let packed = pack(before, after.clone()).unwrap();
            assert_eq!(&unpack(before, &packed, after.len()).unwrap(), after);
        }
    }

    #[test]
    fn what_did_not_change_takes_no_room() {
        let before = noise(1, 200);
        let mut after = before.clone();
        after[123_456] ^= 0x55;
        let packed = pack(&before, after).unwrap();
        assert!(packed.len() < 150, "{} bytes", packed.len());
    }

    #[test]
    fn a_page_that_was_written_anew_is_packed_as_it_is() {
        let packed = pack(
            &noise(1, 20),
            b"a row ".repeat(20 * PAGE_BYTES / 6 + 1)[..20 * PAGE_BYTES].to_vec(),
        );
        let size = packed.unwrap().len();
        assert!(size < 2000, "{size} bytes");
    }

    #[test]
    fn bytes_that_are_not_packed_images_of_that_size_are_an_error() {
        let packed = pack(&[], noise(1, 2)).unwrap();
        for expected in [PAGE_BYTES, 3 * PAGE_BYTES] {
            assert!(unpack(&[], &packed, expected).is_err());
        }
        assert!(unpack(&[], &packed[..packed.len() - 1], 2 * PAGE_BYTES).is_err());
        assert!(unpack(&[], b"what is this", 2 * PAGE_BYTES).is_err());
    }
}
