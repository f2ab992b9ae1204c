//! Answers prepared in wire format when zones change, so that a query only
//! copies them. Owner names are compression pointers into the question.

use std::net::IpAddr;

use crate::choice::{self, Candidates, Family, scale};
use crate::question::{A, AAAA, CLASS_IN, HEADER, SOA};
use crate::zones::Zone;

/// A compression pointer to the question's name.
const QUESTION_NAME: u16 = 0xC000 | HEADER as u16;

/// Seconds between a secondary's checks, its retries, and until it gives up. Our
/// name servers get zones by the log; the values only fill the record.
pub(crate) const SOA_REFRESH: u32 = 3600;
pub(crate) const SOA_RETRY: u32 = 600;
pub(crate) const SOA_EXPIRE: u32 = 604_800;

/// Address records of one answer. All have one size, so that a rotation copies
/// two runs of them.
#[derive(Debug)]
pub(crate) struct AddressList {
    records: Vec<u8>,
    record_size: usize,
    near: usize,
    limit: usize,
}

impl AddressList {
    pub(crate) fn new(candidates: &Candidates, family: Family, ttl: u32, limit: usize) -> Self {
        let (kind, size) = match family {
            Family::V4 => (A, 4u16),
            Family::V6 => (AAAA, 16),
        };
        let mut records = Vec::new();
        for address in candidates.near.iter().chain(&candidates.far) {
            record_head(QUESTION_NAME, kind, ttl, &mut records);
            records.extend_from_slice(&size.to_be_bytes());
            match address {
                IpAddr::V4(v4) => records.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => records.extend_from_slice(&v6.octets()),
            }
        }
        let record_size = 12 + usize::from(size);
        Self { records, record_size, near: candidates.near.len(), limit }
    }

    /// Appends the drawn rotation and says how many records it has.
    pub(crate) fn write(&self, draw: u64, out: &mut Vec<u8>) -> u16 {
        let total = (self.records.len() / self.record_size).min(self.limit);
        let first = scale(draw, self.near as u64) as usize;
        let to_end = total.min(self.near - first);
        out.extend_from_slice(self.run(first, to_end));
        let wrapped = first.min(total - to_end);
        out.extend_from_slice(self.run(0, wrapped));
        out.extend_from_slice(self.run(self.near, total - to_end - wrapped));
        total as u16
    }

    fn run(&self, first: usize, count: usize) -> &[u8] {
        &self.records[first * self.record_size..(first + count) * self.record_size]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// The address lists of a zone for one family.
#[derive(Debug)]
pub(crate) struct AddressTable {
    /// Where shares decide: the share and the list of each data center.
    weighted: Vec<(u64, AddressList)>,
    total_share: u64,
    /// Where the location does: lists without repetition, and which of them
    /// each order of data centers gets.
    lists: Vec<AddressList>,
    by_order: Vec<usize>,
}

impl AddressTable {
    pub(crate) fn new(zone: &Zone, family: Family, orders: &[Vec<String>]) -> Self {
        let limit = usize::from(zone.max_addresses);
        let list = |candidates: &Candidates| AddressList::new(candidates, family, zone.ttl, limit);
        let shares = choice::shares(zone, family);
        let weighted: Vec<_> = shares
            .iter()
            .map(|(dc, share)| (u64::from(*share), list(&choice::in_data_center(zone, family, dc))))
            .collect();
        let total_share = weighted.iter().map(|(share, _)| share).sum();
        let mut distinct: Vec<Candidates> = Vec::new();
        let by_order = orders
            .iter()
            .map(|order| {
                let candidates = choice::by_location(zone, family, order);
                distinct.iter().position(|known| *known == candidates).unwrap_or_else(|| {
                    distinct.push(candidates);
                    distinct.len() - 1
                })
            })
            .collect();
        let lists = distinct.iter().map(list).collect();
        Self { weighted, total_share, lists, by_order }
    }

    /// The list for an answer; `None` when there is no address. `order` is only
    /// asked for when answers differ by the client's location.
    pub(crate) fn choose(&self, draw: u64, order: impl FnOnce() -> usize) -> Option<&AddressList> {
        let mut point = scale(draw, self.total_share);
        for (share, list) in &self.weighted {
            match point.checked_sub(*share) {
                None => return Some(list),
                Some(rest) => point = rest,
            }
        }
        let index = if self.lists.len() > 1 { self.by_order[order()] } else { 0 };
        self.lists.get(index).filter(|list| !list.is_empty())
    }
}

/// Answers to questions for the apex itself; `None` leaves one to the slow path.
#[derive(Debug)]
pub(crate) struct ApexAnswers {
    pub(crate) name_servers: Option<ApexAnswer>,
    pub(crate) soa: Option<ApexAnswer>,
}

/// What follows the question in such an answer.
#[derive(Debug)]
pub(crate) struct ApexAnswer {
    /// Answers, then additional records.
    pub(crate) bytes: Vec<u8>,
    pub(crate) answers: u16,
    pub(crate) additionals: u16,
    /// How many of the bytes are answers.
    pub(crate) answers_length: usize,
}

/// A SOA record whose compression pointers are still relative to the apex.
#[derive(Debug)]
pub(crate) struct SoaRecord {
    bytes: Vec<u8>,
    pointers: Vec<usize>,
}

impl SoaRecord {
    /// All names are in wire format and lower case.
    pub(crate) fn new(apex: &[u8], primary: &[u8], contact: &[u8], serial: u32, ttl: u32) -> Self {
        let mut bytes = Vec::new();
        let mut pointers = vec![0];
        record_head(0xC000, SOA, ttl, &mut bytes);
        let length_at = bytes.len();
        bytes.extend_from_slice(&[0, 0]);
        for name in [primary, contact] {
            match name.strip_suffix(apex) {
                Some(below) if crate::name::is_within(name, apex) => {
                    bytes.extend_from_slice(below);
                    pointers.push(bytes.len());
                    bytes.extend_from_slice(&[0xC0, 0]);
                }
                _ => bytes.extend_from_slice(name),
            }
        }
        for number in [serial, SOA_REFRESH, SOA_RETRY, SOA_EXPIRE, ttl] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let length = (bytes.len() - length_at - 2) as u16;
        bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        Self { bytes, pointers }
    }

    /// Appends the record; the apex begins at `apex_at` in the message, which is
    /// inside the question's name and so below 2^14.
    pub(crate) fn write(&self, apex_at: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let pointer = (0xC000 | apex_at as u16).to_be_bytes();
        for at in &self.pointers {
            out[start + at..start + at + 2].copy_from_slice(&pointer);
        }
    }
}

fn record_head(owner: u16, kind: u16, ttl: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&owner.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
}
