//! Which addresses an answer has and in which order: pure functions of the zone,
//! the client's place and a ticket.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::zones::{FarTargets, Zone};

/// A number that a server counts up, one for each query. The two draws taken
/// from it run through their ranges evenly (a two-dimensional Kronecker
/// sequence), and so do those of every second or third ticket, which a random
/// number would only do in the long run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(pub(crate) u64);

impl Ticket {
    /// A fraction of 2^64 that chooses the data center.
    pub(crate) fn weight_draw(self) -> u64 {
        self.0.wrapping_mul(0xC13F_A9A9_02A6_328F)
    }

    /// A fraction of 2^64 that chooses the first address.
    pub(crate) fn rotation_draw(self) -> u64 {
        self.0.wrapping_mul(0x91E1_0DA5_C79E_7B1D)
    }
}

/// Scales a fraction of 2^64 to `0..range`; 0 when the range is empty.
pub(crate) fn scale(draw: u64, range: u64) -> u64 {
    ((u128::from(draw) * u128::from(range)) >> 64) as u64
}

/// The two families of addresses, by their record type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Family::V4)
    }
}

/// The candidates for an answer: the nearest data center's, which take turns,
/// then farther ones, which keep their order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) near: Vec<IpAddr>,
    pub(crate) far: Vec<IpAddr>,
}

impl Candidates {
    /// At most `limit` addresses; near ones begin at a drawn place.
    pub(crate) fn pick(&self, limit: usize, draw: u64) -> Vec<IpAddr> {
        let first = scale(draw, self.near.len() as u64) as usize;
        let (before, after) = self.near.split_at(first);
        after.iter().chain(before).chain(&self.far).copied().take(limit).collect()
    }
}

/// The shares that count: those of data centers that have a target of the family.
pub(crate) fn shares(zone: &Zone, family: Family) -> Vec<(&str, u32)> {
    let present = data_centers(zone, family);
    let counts = |(dc, share): &(&str, u32)| *share > 0 && present.contains(dc);
    zone.weights.iter().map(|(dc, share)| (dc.as_str(), *share)).filter(counts).collect()
}

/// The data center that a draw falls on, in proportion to the shares; `None`
/// without shares.
pub(crate) fn choose_data_center<'a>(shares: &[(&'a str, u32)], draw: u64) -> Option<&'a str> {
    let total: u64 = shares.iter().map(|(_, share)| u64::from(*share)).sum();
    let mut point = scale(draw, total);
    for (dc, share) in shares {
        match point.checked_sub(u64::from(*share)) {
            None => return Some(dc),
            Some(rest) => point = rest,
        }
    }
    None
}

/// The candidates in one data center.
pub(crate) fn in_data_center(zone: &Zone, family: Family, dc: &str) -> Candidates {
    let mut near: Vec<IpAddr> = zone
        .targets
        .iter()
        .filter(|target| target.dc == dc && family.has(&target.address))
        .map(|target| target.address)
        .collect();
    near.sort_unstable();
    near.dedup();
    Candidates { near, far: Vec::new() }
}

/// The candidates for a client that prefers data centers in this order.
pub(crate) fn by_location(zone: &Zone, family: Family, order: &[String]) -> Candidates {
    let mut present = data_centers(zone, family);
    let mut sequence: Vec<&str> = Vec::with_capacity(present.len());
    for dc in order {
        if present.remove(dc.as_str()) {
            sequence.push(dc);
        }
    }
    sequence.extend(present);
    let mut groups = sequence.into_iter().map(|dc| in_data_center(zone, family, dc).near);
    let near = groups.next().unwrap_or_default();
    let far = match zone.far {
        FarTargets::Listed => groups.flatten().filter(|address| !near.contains(address)).collect(),
        FarTargets::Omitted => Vec::new(),
    };
    Candidates { near, far }
}

fn data_centers(zone: &Zone, family: Family) -> BTreeSet<&str> {
    zone.targets
        .iter()
        .filter(|target| family.has(&target.address))
        .map(|target| target.dc.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zones::{LbTarget, NameServer};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn zone(targets: &[(&str, &str)]) -> Zone {
        let server = NameServer { name: "ns1.photos.test".to_owned(), addresses: Vec::new() };
        let mut zone = Zone::new("photos.test", vec![server]);
        zone.targets = targets
            .iter()
            .map(|(address, dc)| LbTarget {
                address: address.parse().unwrap(),
                dc: (*dc).to_owned(),
            })
            .collect();
        zone
    }

    fn strings(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn the_nearest_data_center_comes_first_and_unnamed_ones_last() {
        let zone = zone(&[
            ("192.0.2.3", "south"),
            ("192.0.2.2", "west"),
            ("192.0.2.1", "east"),
            ("2001:db8::1", "east"),
        ]);
        let order = ["west".to_owned(), "east".to_owned()];
        let candidates = by_location(&zone, Family::V4, &order);
        assert_eq!(
            strings(&candidates.pick(8, 0)),
            ["192.0.2.2", "192.0.2.1", "192.0.2.3"],
            "west, then east, then the rest"
        );
        assert_eq!(strings(&candidates.pick(1, 0)), ["192.0.2.2"]);
        let v6 = by_location(&zone, Family::V6, &order);
        assert_eq!(strings(&v6.pick(8, 0)), ["2001:db8::1"], "west has no such address");
    }

    #[test]
    fn farther_data_centers_can_be_omitted() {
        let mut zone = zone(&[("192.0.2.2", "west"), ("192.0.2.1", "east")]);
        zone.far = FarTargets::Omitted;
        let candidates = by_location(&zone, Family::V4, &["east".to_owned()]);
        assert_eq!(strings(&candidates.pick(8, 0)), ["192.0.2.1"]);
    }

    #[test]
    fn near_addresses_take_turns_evenly_also_for_every_second_query() {
        let zone = zone(&[("192.0.2.1", "e"), ("192.0.2.2", "e"), ("192.0.2.3", "e")]);
        let candidates = by_location(&zone, Family::V4, &[]);
        for step in [1, 2, 3] {
            let mut first = BTreeMap::new();
            for ticket in 0..3000u64 {
                let picked = candidates.pick(8, Ticket(ticket * step).rotation_draw());
                assert_eq!(picked.len(), 3);
                *first.entry(picked[0]).or_insert(0) += 1;
            }
            assert!(first.values().all(|n| (980..=1020).contains(n)), "step {step}: {first:?}");
        }
    }

    #[test]
    fn a_share_without_a_target_leaves_its_part_to_the_others() {
        let mut zone = zone(&[("192.0.2.1", "east"), ("192.0.2.2", "west")]);
        zone.weights = [("east".to_owned(), 0), ("west".to_owned(), 30), ("gone".to_owned(), 70)]
            .into_iter()
            .collect();
        let shares = shares(&zone, Family::V4);
        assert_eq!(shares, [("west", 30)]);
        assert_eq!(choose_data_center(&shares, u64::MAX), Some("west"));
        assert_eq!(choose_data_center(&[], 7), None);
    }

    proptest! {
        #[test]
        fn the_shares_of_ten_thousand_answers_are_within_two_percent(
            first in 0u32..=100,
            start in any::<u64>(),
            step in 1u64..4,
        ) {
            let shares = [("east", first), ("west", 100 - first)];
            let east = (0..10_000u64)
                .map(|n| Ticket(start.wrapping_add(n * step)).weight_draw())
                .filter(|draw| choose_data_center(&shares, *draw) == Some("east"))
                .count() as f64;
            prop_assert!((east / 100.0 - f64::from(first)).abs() < 2.0, "{east} of 10000");
        }
    }
}
