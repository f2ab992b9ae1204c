//! Where clients are: a table from address prefixes to the order in which data
//! centers are preferred, and the lookup that also gives the scope of the answer
//! (RFC 7871 section 7.2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address prefix, such as `192.0.2.0/24`. Bits past the length are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// A text or a pair that is no address prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an address prefix such as 192.0.2.0/24 or 2001:db8::/32, got {got:?}")]
pub struct PrefixError {
    got: String,
}

impl Prefix {
    /// A prefix of `length` bits; bits of the address past it are cleared.
    ///
    /// # Errors
    /// When `length` is over 32 (IPv4) or 128 (IPv6).
    pub fn new(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        match mask(address, length) {
            Some(address) => Ok(Self { address, length }),
            None => Err(PrefixError { got: format!("{address}/{length}") }),
        }
    }

    /// The first address of the prefix.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    pub fn length(&self) -> u8 {
        self.length
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || PrefixError { got: text.chars().take(80).collect() };
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let length: u8 = length.parse().map_err(|_| error())?;
        Prefix::new(address, length).map_err(|_| error())
    }
}

/// The address with all bits past `length` cleared; `None` when it has fewer.
pub(crate) fn mask(address: IpAddr, length: u8) -> Option<IpAddr> {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => {
            let unused = 32u32.checked_sub(length)?;
            let kept = u32::MAX.checked_shl(unused).unwrap_or(0);
            Some(IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & kept)))
        }
        IpAddr::V6(v6) => {
            let unused = 128u32.checked_sub(length)?;
            let kept = u128::MAX.checked_shl(unused).unwrap_or(0);
            Some(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & kept)))
        }
    }
}

/// Which data centers are near to which clients. The longest prefix that covers
/// a client decides; of equal prefixes the last one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Locations {
    /// The order for clients that no entry covers; usually this node's own data
    /// center first. Data centers that an order does not name come after it, in
    /// the order of their names.
    pub default: Vec<String>,
    /// Prefixes and their orders, in any sequence.
    pub entries: Vec<(Prefix, Vec<String>)>,
}

/// The table made ready for lookups: disjoint address ranges in order.
#[derive(Debug)]
pub(crate) struct LocationTable {
    v4: Ranges,
    v6: Ranges,
    orders: Vec<Vec<String>>,
}

/// The answer for a client's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Index into `LocationTable::orders`.
    pub(crate) order: usize,
    /// The shortest prefix around the address, in bits, in which every client
    /// gets the same order.
    pub(crate) scope: u8,
}

impl LocationTable {
    pub(crate) fn new(locations: &Locations) -> Self {
        let mut orders = vec![locations.default.clone()];
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for (prefix, order) in &locations.entries {
            let index = orders.iter().position(|known| known == order).unwrap_or_else(|| {
                orders.push(order.clone());
                orders.len() - 1
            });
            // IPv4 is kept in the upper 32 bits, so that both families share
            // the code and a scope counts bits from the top in both.
            match prefix.address {
                IpAddr::V4(v4_address) => v4.push((top_bits(v4_address), prefix.length, index)),
                IpAddr::V6(v6_address) => v6.push((v6_address.to_bits(), prefix.length, index)),
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6), orders }
    }

    pub(crate) fn orders(&self) -> &[Vec<String>] {
        &self.orders
    }

    pub(crate) fn find(&self, address: IpAddr) -> Place {
        match address {
            IpAddr::V4(v4) => self.v4.find(top_bits(v4)),
            IpAddr::V6(v6) => self.v6.find(v6.to_bits()),
        }
    }
}

fn top_bits(address: Ipv4Addr) -> u128 {
    u128::from(address.to_bits()) << 96
}

/// Disjoint ranges that cover all addresses: each begins where it says and ends
/// before the next one. The first begins at zero.
#[derive(Debug)]
struct Ranges(Vec<(u128, usize)>);

impl Ranges {
    /// Flattens prefixes, which are either nested or disjoint, in one sweep.
    fn new(mut prefixes: Vec<(u128, u8, usize)>) -> Self {
        // The sort is stable, so the last of equal prefixes is painted last.
        prefixes.sort_by_key(|&(start, length, _)| (start, length));
        let mut ranges = vec![(0, 0)];
        let mut open: Vec<(u128, usize)> = vec![(u128::MAX, 0)];
        for (start, length, order) in prefixes {
            close_before(&mut ranges, &mut open, start);
            ranges.push((start, order));
            let end = start | u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            open.push((end, order));
        }
        close_before(&mut ranges, &mut open, u128::MAX);
        Self(without_repeats(ranges))
    }

    fn find(&self, address: u128) -> Place {
        let after = self.0.partition_point(|&(start, _)| start <= address);
        let (start, order) = self.0[after - 1];
        let before = if start == 0 { None } else { Some(start - 1) };
        let next = self.0.get(after).map(|&(start, _)| start);
        // The block must hold neither neighbour, so it is one bit longer than
        // what the address has in common with the nearer of them.
        let scope = [before, next]
            .into_iter()
            .flatten()
            .map(|other| (address ^ other).leading_zeros() + 1)
            .max()
            .unwrap_or(0);
        Place { order, scope: scope as u8 }
    }
}

/// Closes the prefixes that end before `start`: what covers them goes on behind.
fn close_before(ranges: &mut Vec<(u128, usize)>, open: &mut Vec<(u128, usize)>, start: u128) {
    while let [.., (_, outer), (end, _)] = open[..] {
        if end >= start {
            break;
        }
        ranges.push((end + 1, outer));
        open.pop();
    }
}

/// Of several ranges with one start the last counts; neighbours of one order
/// become one range.
fn without_repeats(ranges: Vec<(u128, usize)>) -> Vec<(u128, usize)> {
    let mut kept: Vec<(u128, usize)> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if kept.last().is_some_and(|last| last.0 == range.0) {
            kept.pop();
        }
        if kept.last().is_none_or(|last| last.1 != range.1) {
            kept.push(range);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(dc: &str) -> Vec<String> {
        vec![dc.to_owned()]
    }

    fn table(entries: &[(&str, &str)]) -> LocationTable {
        LocationTable::new(&Locations {
            default: order("home"),
            entries: entries.iter().map(|(p, dc)| (p.parse().unwrap(), order(dc))).collect(),
        })
    }

    fn look(table: &LocationTable, address: &str) -> (String, u8) {
        let place = table.find(address.parse().unwrap());
        (table.orders()[place.order][0].clone(), place.scope)
    }

    #[test]
    fn the_longest_prefix_decides_and_the_scope_excludes_other_answers() {
        let table =
            table(&[("10.0.0.0/8", "east"), ("10.1.0.0/16", "west"), ("2001:db8::/32", "west")]);
        assert_eq!(look(&table, "10.1.2.3"), ("west".to_owned(), 16));
        assert_eq!(look(&table, "10.0.2.3"), ("east".to_owned(), 16));
        assert_eq!(look(&table, "10.128.2.3"), ("east".to_owned(), 9));
        assert_eq!(look(&table, "192.0.2.1"), ("home".to_owned(), 1));
        assert_eq!(look(&table, "2001:db8:1::1"), ("west".to_owned(), 32));
    }

    #[test]
    fn without_entries_the_default_holds_for_everyone() {
        assert_eq!(look(&table(&[]), "255.255.255.255"), ("home".to_owned(), 0));
        assert_eq!(look(&table(&[("0.0.0.0/0", "east")]), "1.2.3.4"), ("east".to_owned(), 0));
    }

    #[test]
    fn bad_prefixes_are_refused() {
        for text in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        let prefix: Prefix = "10.1.2.3/8".parse().unwrap();
        assert_eq!((prefix.address(), prefix.length()), ("10.0.0.0".parse().unwrap(), 8));
    }

    proptest! {
        #[test]
        fn the_sweep_agrees_with_a_search_for_the_longest_prefix(
            entries in prop::collection::vec((any::<u8>(), any::<u8>(), 0u8..=32, 0usize..4), 0..12),
            address in any::<[u8; 4]>(),
        ) {
            let entries: Vec<_> = entries
                .into_iter()
                .map(|(a, b, length, dc)| {
                    let prefix = Prefix::new(IpAddr::from([a & 3, b, 0, 0]), length).unwrap();
                    (prefix, order(&format!("dc{dc}")))
                })
                .collect();
            let address = IpAddr::from([address[0] & 3, address[1], address[2], address[3]]);
            let expected = entries
                .iter()
                .filter(|(p, _)| mask(address, p.length) == Some(p.address))
                .max_by_key(|(p, _)| p.length)
                .map_or(order("home"), |(_, order)| order.clone());
            let table = LocationTable::new(&Locations { default: order("home"), entries });
            let place = table.find(address);
            prop_assert_eq!(&table.orders()[place.order], &expected);
            // Both ends of the block that the scope names get the same order.
            let IpAddr::V4(low) = mask(address, place.scope).unwrap() else { unreachable!() };
            let high = low.to_bits() | u32::MAX.checked_shr(u32::from(place.scope)).unwrap_or(0);
            for edge in [low, Ipv4Addr::from_bits(high)] {
                prop_assert_eq!(&table.orders()[table.find(IpAddr::V4(edge)).order], &expected);
            }
        }
    }
}
