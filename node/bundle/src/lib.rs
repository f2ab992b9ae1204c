//! Apps as files: the manifest `rung.toml`, the bundle that `ctl deploy` makes
//! of an app's folder, and the store that keeps bundles by their BLAKE3 hash.
//!
//! A bundle is a tar archive of a strict profile (see [`archive`]) in one zstd
//! frame. Its address is the hash of the compressed bytes. Bundles come from
//! outside, so reading one is total, bounded, and writes only beneath the
//! directory that it was given.
//!
//! This crate neither moves bundles between nodes nor runs them. Everything in
//! it blocks on the disk: call it from a thread that may.

pub mod archive;
pub mod ignore;
pub mod manifest;
pub mod pack;
pub mod store;
pub mod unpack;

pub use archive::{ArchiveError, Limits, Summary, inspect};
pub use manifest::{
    Db, Instances, MAX_REPLICAS, Manifest, ManifestError, Web, check_name, check_variable,
    parse_duration, parse_manifest,
};
pub use pack::{PackError, Packed, pack, pack_to_vec};
pub use store::{Incoming, Store, StoreError};
pub use unpack::unpack;
