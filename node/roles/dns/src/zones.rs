//! What is served: pure data that the node builds from desired state, membership
//! and load-balancer assignments. A whole replaces a whole.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::locations::Locations;
use crate::name::{self, NameError};

/// Everything that a server answers from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Zones {
    /// Reported in the metrics, so that one can see which state a server has.
    pub version: u64,
    /// The zones; one may lie inside another.
    pub zones: Vec<Zone>,
    /// Which data centers are near to which clients.
    pub locations: Locations,
}

/// One domain that we are authoritative for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// Its name, for example `photos.test`.
    pub apex: String,
    /// At least one; the first is named in the SOA record.
    pub name_servers: Vec<NameServer>,
    /// The SOA serial number.
    pub serial: u32,
    /// The load balancers that are alive. One that is not listed is not answered.
    pub targets: Vec<LbTarget>,
    /// Shares of the data centers. Where any data center with a target has a
    /// share above zero, the shares choose the data center of each answer and
    /// only its addresses are given; otherwise the client's location does.
    pub weights: BTreeMap<String, u32>,
    /// Seconds that an address, or the answer that there is none, may be cached.
    pub ttl: u32,
    /// The names at which the load balancers answer, relative to the apex:
    /// `@` is the apex itself, `www`, `*`, `*.preview`.
    pub names: Vec<String>,
    /// Whether answers by location go on with farther data centers.
    pub far: FarTargets,
    /// The most addresses in an answer, the nearest first; at least 1.
    pub max_addresses: u16,
}

/// Whether an answer by location lists more than the nearest data center.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FarTargets {
    /// The nearest data center first, then the others, so that a client can try
    /// the next address before the caches have expired.
    #[default]
    Listed,
    /// Only the nearest data center that has a target. Resolvers and clients may
    /// reorder addresses, so only this keeps traffic in its data center.
    Omitted,
}

/// A name server of a zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameServer {
    /// Its full name, for example `ns1.photos.test`.
    pub name: String,
    /// Its addresses; served when the name lies in one of our zones.
    pub addresses: Vec<IpAddr>,
}

/// A load balancer that is alive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LbTarget {
    /// The public address that clients connect to.
    pub address: IpAddr,
    /// The data center that it is in.
    pub dc: String,
}

/// Zones that cannot be served; what was served before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZonesError {
    /// A name is no domain name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two zones have one apex.
    #[error("the zone {0:?} is given twice")]
    Duplicate(String),
    /// RFC 1034 section 4.2.1 wants at least one.
    #[error("the zone {0:?} has no name server")]
    NoNameServer(String),
    /// Every answer would be empty.
    #[error("the zone {0:?} allows no address in an answer; max_addresses must be at least 1")]
    NoAddresses(String),
    /// An apex of the root or with a wildcard.
    #[error("{0:?} cannot be the apex of a zone")]
    BadApex(String),
}

impl Zone {
    /// A zone with everything optional at its usual value: TTL 5, the apex and
    /// `www` served, farther data centers listed, at most 8 addresses.
    pub fn new(apex: impl Into<String>, name_servers: Vec<NameServer>) -> Self {
        Self {
            apex: apex.into(),
            name_servers,
            serial: 1,
            targets: Vec::new(),
            weights: BTreeMap::new(),
            ttl: 5,
            names: vec!["@".to_owned(), "www".to_owned()],
            far: FarTargets::Listed,
            max_addresses: 8,
        }
    }

    /// The apex in wire format, after the checks that concern the zone alone.
    pub(crate) fn check(&self) -> Result<Vec<u8>, ZonesError> {
        let apex = name::from_text(&self.apex)?;
        if apex.len() == 1 || apex.starts_with(b"\x01*") {
            return Err(ZonesError::BadApex(self.apex.clone()));
        }
        if self.name_servers.is_empty() {
            return Err(ZonesError::NoNameServer(self.apex.clone()));
        }
        if self.max_addresses == 0 {
            return Err(ZonesError::NoAddresses(self.apex.clone()));
        }
        Ok(apex)
    }

    /// A relative name (`www`, `@`) in wire format.
    pub(crate) fn absolute(&self, relative: &str) -> Result<Vec<u8>, NameError> {
        if relative == "@" || relative.is_empty() {
            name::from_text(&self.apex)
        } else {
            name::from_text(&format!("{relative}.{}", self.apex))
        }
    }
}
