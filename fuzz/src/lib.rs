//! What several fuzz targets share.

pub mod checksums;
pub mod http;
