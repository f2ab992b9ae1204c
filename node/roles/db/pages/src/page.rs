//! Pages of a SQLite file.

/// Bytes of a page; fixed when a database is made.
pub const PAGE_BYTES: usize = 4096;

/// The page that holds the byte at 1 GiB. SQLite never stores anything in it.
pub(crate) const PENDING_BYTE_PAGE: u32 = (0x4000_0000 / PAGE_BYTES + 1) as u32;

/// Where in the file a page starts.
pub(crate) fn page_offset(page: u32) -> u64 {
    (u64::from(page) - 1) * PAGE_BYTES as u64
}

/// What SQLite writes into page 1 by itself whenever it commits: the change
/// counter, and the change counter and library version of the last writer.
/// They differ between equal copies, so they count as zero everywhere.
pub(crate) fn mask(page: u32, image: &mut [u8]) {
    if page == 1 {
        image[24..28].fill(0);
        image[92..100].fill(0);
    }
}

/// Over images of pages, one behind the other.
pub(crate) fn images_hash(images: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(images).as_bytes()[..16]);
    short
}
