//! Zones made ready to answer from: a tree of names, kept as a map, and prepared
//! answers. Never changed; an update makes another one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::choice::{Candidates, Family};
use crate::cookie::CookieSecret;
use crate::locations::LocationTable;
use crate::name;
use crate::prepared::{AddressList, AddressTable, ApexAnswers, SoaRecord};
use crate::slow;
use crate::zones::{Zone, Zones, ZonesError};

/// Seconds that name servers and their addresses may be cached. The set changes
/// when a dns role moves, and resolvers try the other servers meanwhile.
pub(crate) const NAME_SERVER_TTL: u32 = 300;

/// What a server answers from.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) version: u64,
    pub(crate) zones: Vec<ServedZone>,
    pub(crate) servers: Vec<ServerAddresses>,
    /// One for each zone.
    pub(crate) apexes: Vec<ApexAnswers>,
    pub(crate) locations: LocationTable,
    pub(crate) cookies: CookieSecret,
    /// What keepalive options announce, in units of 100 ms.
    pub(crate) tcp_idle: u16,
    nodes: HashMap<Box<[u8]>, Node>,
    deepest: usize,
}

/// A zone and its prepared answers.
#[derive(Debug)]
pub(crate) struct ServedZone {
    pub(crate) index: usize,
    pub(crate) zone: Zone,
    pub(crate) apex: Vec<u8>,
    pub(crate) contact: Vec<u8>,
    pub(crate) name_servers: Vec<Vec<u8>>,
    pub(crate) soa: SoaRecord,
    pub(crate) v4: AddressTable,
    pub(crate) v6: AddressTable,
}

/// The addresses of one name server.
#[derive(Debug)]
pub(crate) struct ServerAddresses {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) v4: AddressList,
    pub(crate) v6: AddressList,
}

/// What a name holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holds {
    /// It exists because of names below it, or as an apex.
    Nothing,
    /// The zone's load balancers.
    Balancers,
    /// Index into `Snapshot::servers`.
    NameServer(usize),
}

#[derive(Debug)]
struct Node {
    zone: usize,
    holds: Holds,
    /// There is a `*` below this name.
    wildcard: bool,
}

/// Where a name belongs.
pub(crate) enum Found<'a> {
    /// In no zone of ours.
    Foreign,
    /// In a zone, but there is no such name.
    Missing(&'a ServedZone),
    /// In a zone.
    Present(&'a ServedZone, Holds),
}

impl ServedZone {
    pub(crate) fn table(&self, family: Family) -> &AddressTable {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl ServerAddresses {
    fn new(addresses: &[IpAddr]) -> Self {
        let list = |family: Family| {
            let candidates = Self::candidates(addresses, family);
            AddressList::new(&candidates, family, NAME_SERVER_TTL, candidates.near.len())
        };
        Self { addresses: addresses.to_vec(), v4: list(Family::V4), v6: list(Family::V6) }
    }

    /// The addresses of one family; all are equally near.
    pub(crate) fn candidates(addresses: &[IpAddr], family: Family) -> Candidates {
        let near = addresses.iter().filter(|address| family.has(address)).copied().collect();
        Candidates { near, far: Vec::new() }
    }

    pub(crate) fn list(&self, family: Family) -> &AddressList {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl Snapshot {
    /// Makes zones ready.
    ///
    /// # Errors
    /// When a name is no domain name, or a zone is incomplete or given twice.
    pub fn new(
        zones: Zones,
        cookies: CookieSecret,
        tcp_idle: Duration,
    ) -> Result<Self, ZonesError> {
        let locations = LocationTable::new(&zones.locations);
        let mut served = Vec::with_capacity(zones.zones.len());
        for (index, zone) in zones.zones.into_iter().enumerate() {
            let zone = serve(index, zone, locations.orders())?;
            if served.iter().any(|other: &ServedZone| other.apex == zone.apex) {
                return Err(ZonesError::Duplicate(zone.zone.apex));
            }
            served.push(zone);
        }
        let mut snapshot = Self {
            version: zones.version,
            zones: served,
            servers: Vec::new(),
            apexes: Vec::new(),
            locations,
            cookies,
            tcp_idle: (tcp_idle.as_millis() / 100).try_into().unwrap_or(u16::MAX),
            nodes: HashMap::new(),
            deepest: 0,
        };
        snapshot.build_tree()?;
        snapshot.apexes =
            snapshot.zones.iter().map(|zone| slow::prepare_apex(&snapshot, zone)).collect();
        Ok(snapshot)
    }

    fn build_tree(&mut self) -> Result<(), ZonesError> {
        let mut names = Vec::new();
        for served in &self.zones {
            names.push((served.apex.clone(), Holds::Nothing));
            for relative in &served.zone.names {
                names.push((served.zone.absolute(relative)?, Holds::Balancers));
            }
        }
        // Name servers come last: at a name that is both, their addresses count.
        for served in &self.zones {
            for (name, server) in served.name_servers.iter().zip(&served.zone.name_servers) {
                let addresses = ServerAddresses::new(&server.addresses);
                names.push((name.clone(), Holds::NameServer(self.servers.len())));
                self.servers.push(addresses);
            }
        }
        for (name, holds) in names {
            self.add(&name, holds);
        }
        Ok(())
    }

    /// Adds a name and the empty names between it and its apex. A name outside
    /// of all zones, such as that of a foreign name server, is left out.
    fn add(&mut self, name: &[u8], holds: Holds) {
        let Some(zone) = self.zone_of(name) else { return };
        self.deepest = self.deepest.max(name::count_labels(name));
        let node = self.node(name, zone);
        if holds != Holds::Nothing {
            node.holds = holds;
        }
        let outermost = self.outermost_apex_length(name);
        let mut below = name;
        while below.len() > outermost {
            let Some(above) = name::parent(below) else { break };
            let zone = self.zone_of(above).unwrap_or(zone);
            let is_wildcard = below.starts_with(b"\x01*");
            self.node(above, zone).wildcard |= is_wildcard;
            below = above;
        }
    }

    fn node(&mut self, name: &[u8], zone: usize) -> &mut Node {
        let new = Node { zone, holds: Holds::Nothing, wildcard: false };
        self.nodes.entry(name.into()).or_insert(new)
    }

    /// The zone with the longest apex that a name is within.
    fn zone_of(&self, name: &[u8]) -> Option<usize> {
        let zones = self.zones.iter().filter(|served| name::is_within(name, &served.apex));
        zones.max_by_key(|served| served.apex.len()).map(|served| served.index)
    }

    fn outermost_apex_length(&self, name: &[u8]) -> usize {
        let zones = self.zones.iter().filter(|served| name::is_within(name, &served.apex));
        zones.map(|served| served.apex.len()).min().unwrap_or(name.len())
    }

    /// Finds a name in lower case, by the rules for wildcards of RFC 4592: only
    /// a `*` directly below the closest name that exists stands for it.
    pub(crate) fn find(&self, name: &[u8]) -> Found<'_> {
        let mut labels = name::count_labels(name);
        let mut closest = name;
        loop {
            // No name of ours has more labels, so the lookups stay few.
            let node = if labels > self.deepest { None } else { self.nodes.get(closest) };
            if let Some(node) = node {
                return self.found(node, closest, closest.len() == name.len());
            }
            match name::parent(closest) {
                Some(above) => closest = above,
                None => return Found::Foreign,
            }
            labels -= 1;
        }
    }

    fn found(&self, node: &Node, name: &[u8], exact: bool) -> Found<'_> {
        let zone = &self.zones[node.zone];
        if exact {
            return Found::Present(zone, node.holds);
        }
        if !node.wildcard {
            return Found::Missing(zone);
        }
        let wildcard = [b"\x01*", name].concat();
        match self.nodes.get(wildcard.as_slice()) {
            Some(node) => Found::Present(zone, node.holds),
            None => Found::Missing(zone),
        }
    }
}

fn serve(index: usize, zone: Zone, orders: &[Vec<String>]) -> Result<ServedZone, ZonesError> {
    let apex = zone.check()?;
    let contact = zone.absolute("hostmaster")?;
    let name_servers = zone
        .name_servers
        .iter()
        .map(|server| name::from_text(&server.name))
        .collect::<Result<Vec<_>, _>>()?;
    let soa = SoaRecord::new(&apex, &name_servers[0], &contact, zone.serial, zone.ttl);
    let v4 = AddressTable::new(&zone, Family::V4, orders);
    let v6 = AddressTable::new(&zone, Family::V6, orders);
    Ok(ServedZone { index, apex, contact, name_servers, soa, v4, v6, zone })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zones::NameServer;

    fn zone(apex: &str, names: &[&str]) -> Zone {
        let server = NameServer {
            name: "ns1.photos.test".to_owned(),
            addresses: vec![[192, 0, 2, 53].into()],
        };
        Zone {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            ..Zone::new(apex, vec![server])
        }
    }

    fn snapshot(zones: Vec<Zone>) -> Result<Snapshot, ZonesError> {
        let zones = Zones { zones, ..Zones::default() };
        Snapshot::new(zones, CookieSecret::random(), Duration::from_secs(10))
    }

    fn look(snapshot: &Snapshot, name: &str) -> String {
        use hickory_proto::rr::Name;
        use hickory_proto::serialize::binary::BinEncodable;
        let wire = Name::from_ascii(format!("{name}.").replace("..", ".")).unwrap().to_bytes();
        match snapshot.find(&wire.unwrap()) {
            Found::Foreign => "foreign".to_owned(),
            Found::Missing(zone) => format!("missing in {}", zone.zone.apex),
            Found::Present(zone, holds) => format!("{holds:?} in {}", zone.zone.apex),
        }
    }

    #[test]
    fn a_wildcard_stands_only_for_names_below_the_closest_one() {
        let snapshot = snapshot(vec![zone("photos.test", &["@", "www", "*", "*.a.b"])]).unwrap();
        let expected = [
            ("photos.test", "Balancers in photos.test"),
            ("www.photos.test", "Balancers in photos.test"),
            ("x.photos.test", "Balancers in photos.test"),
            ("x.y.photos.test", "Balancers in photos.test"),
            ("*.photos.test", "Balancers in photos.test"),
            ("x.*.photos.test", "missing in photos.test"),
            ("x.www.photos.test", "missing in photos.test"),
            ("b.photos.test", "Nothing in photos.test"),
            ("x.b.photos.test", "missing in photos.test"),
            ("x.a.b.photos.test", "Balancers in photos.test"),
            ("ns1.photos.test", "NameServer(0) in photos.test"),
            ("test", "foreign"),
            (".", "foreign"),
            ("otherphotos.test", "foreign"),
            ("a.b.c.d.e.f.example", "foreign"),
        ];
        for (name, holds) in expected {
            assert_eq!(look(&snapshot, name), holds, "{name}");
        }
    }

    #[test]
    fn a_zone_inside_another_has_its_own_names() {
        let zones = vec![zone("photos.test", &["*"]), zone("eu.api.photos.test", &["www"])];
        let snapshot = snapshot(zones).unwrap();
        assert_eq!(look(&snapshot, "eu.api.photos.test"), "Nothing in eu.api.photos.test");
        assert_eq!(look(&snapshot, "x.eu.api.photos.test"), "missing in eu.api.photos.test");
        assert_eq!(look(&snapshot, "api.photos.test"), "Nothing in photos.test");
        assert_eq!(look(&snapshot, "x.photos.test"), "Balancers in photos.test");
        assert_eq!(look(&snapshot, "photos.test"), "Nothing in photos.test");
    }

    #[test]
    fn zones_that_cannot_be_served_are_refused() {
        let twice = vec![zone("a.test", &[]), zone("A.test.", &[])];
        assert!(matches!(snapshot(twice), Err(ZonesError::Duplicate(_))));
        let mut none = zone("a.test", &[]);
        none.name_servers.clear();
        assert!(matches!(snapshot(vec![none]), Err(ZonesError::NoNameServer(_))));
        assert!(matches!(snapshot(vec![zone(".", &[])]), Err(ZonesError::BadApex(_))));
        assert!(matches!(snapshot(vec![zone("*.a", &[])]), Err(ZonesError::BadApex(_))));
        assert!(matches!(snapshot(vec![zone("a.test", &["b..c"])]), Err(ZonesError::Name(_))));
        let mut mute = zone("a.test", &[]);
        mute.max_addresses = 0;
        assert!(matches!(snapshot(vec![mute]), Err(ZonesError::NoAddresses(_))));
    }
}
