//! The bytes of datagrams and of state exchanges.
//!
//! Everything starts with a version byte. Integers that are usually small are
//! LEB128. Decoding is total: any bytes give a value or a [`DecodeError`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Header, Message, State};
use rung_proto::{Incarnation, NodeId};

use crate::identity::{Identity, Text};

/// The version of both encodings.
const VERSION: u8 = 1;
/// The most members that a state exchange may carry.
pub(crate) const MAX_STATE: usize = 8192;

const LEFT: u8 = 1;
const IPV6: u8 = 2;

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("membership bytes end before their {0}")]
    Truncated(&'static str),
    #[error(
        "membership encoding has version {0}, this node reads {VERSION}; upgrade the older one"
    )]
    Version(u8),
    #[error("membership bytes hold an impossible {0}")]
    Invalid(&'static str),
    #[error("{0} bytes follow the end of a membership message")]
    Trailing(usize),
    #[error("no room for a membership record")]
    NoRoom,
}

/// A datagram, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub header: Header<Identity>,
    pub updates: Vec<foca::Member<Identity>>,
}

/// Reads a datagram.
///
/// # Errors
/// When the bytes are not wholly one.
pub fn decode_packet(bytes: &[u8]) -> Result<Packet, DecodeError> {
    let mut reader = Reader(bytes);
    let header = reader.header()?;
    let mut updates = Vec::new();
    if !reader.0.is_empty() {
        let count = u16::from_be_bytes(reader.array("count of updates")?);
        for _ in 0..count {
            updates.push(reader.member()?);
        }
    }
    reader.end()?;
    Ok(Packet { header, updates })
}

/// Writes a datagram; only for messages that may carry updates, or none.
pub(crate) fn encode_packet(packet: &Packet) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    put_header(&mut out, &packet.header);
    if !packet.updates.is_empty() {
        let count = u16::try_from(packet.updates.len()).unwrap_or(u16::MAX);
        out.put_u16(count);
        packet.updates.iter().take(count.into()).for_each(|member| put_member(&mut out, member));
    }
    out
}

/// Reads the full state of a node; the first member is the sender itself.
///
/// # Errors
/// When the bytes are not wholly one, hold no member, or more than 8192.
pub fn decode_state(bytes: &[u8]) -> Result<Vec<foca::Member<Identity>>, DecodeError> {
    let mut reader = Reader(bytes);
    reader.version()?;
    let count = u16::from_be_bytes(reader.array("count of members")?);
    if count == 0 || usize::from(count) > MAX_STATE {
        return Err(DecodeError::Invalid("count of members"));
    }
    let members = (0..count).map(|_| reader.member()).collect::<Result<Vec<_>, _>>()?;
    reader.end()?;
    Ok(members)
}

/// Writes the full state of a node, at most [`MAX_STATE`] members.
pub(crate) fn encode_state(members: &[foca::Member<Identity>]) -> Vec<u8> {
    let members = &members[..members.len().min(MAX_STATE)];
    let mut out = Vec::with_capacity(3 + members.len() * 40);
    out.put_u8(VERSION);
    out.put_u16(u16::try_from(members.len()).expect("at most MAX_STATE"));
    members.iter().for_each(|member| put_member(&mut out, member));
    out
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &Text) {
    out.push(u8::try_from(text.as_str().len()).expect("a Text has at most 63 bytes"));
    out.put_slice(text.as_str().as_bytes());
}

fn put_identity(out: &mut Vec<u8>, identity: &Identity) {
    let ip = identity.address.ip();
    out.push(if identity.left { LEFT } else { 0 } | if ip.is_ipv6() { IPV6 } else { 0 });
    out.put_u64(identity.node.0);
    put_varint(out, identity.incarnation.0);
    put_varint(out, identity.renewal.into());
    match ip {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u16(identity.address.port());
    put_text(out, &identity.dc);
    put_text(out, &identity.name);
}

fn put_member(out: &mut Vec<u8>, member: &foca::Member<Identity>) {
    put_identity(out, member.id());
    put_varint(out, member.incarnation().into());
    out.push(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
}

fn put_header(out: &mut Vec<u8>, header: &Header<Identity>) {
    out.push(VERSION);
    put_identity(out, &header.src);
    put_varint(out, header.src_incarnation.into());
    put_identity(out, &header.dst);
    let (tag, number, third) = match &header.message {
        Message::Ping(number) => (0, Some(number), None),
        Message::Ack(number) => (1, Some(number), None),
        Message::PingReq { target, probe_number } => (2, Some(probe_number), Some(target)),
        Message::IndirectPing { origin, probe_number } => (3, Some(probe_number), Some(origin)),
        Message::IndirectAck { target, probe_number } => (4, Some(probe_number), Some(target)),
        Message::ForwardedAck { origin, probe_number } => (5, Some(probe_number), Some(origin)),
        Message::Announce => (6, None, None),
        Message::Feed => (7, None, None),
        Message::Gossip => (8, None, None),
        Message::Broadcast => (9, None, None),
        Message::TurnUndead => (10, None, None),
    };
    out.push(tag);
    out.extend(number);
    if let Some(identity) = third {
        put_identity(out, identity);
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(*head)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if bits.leading_zeros() < shift {
                return Err(DecodeError::Invalid(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid(what))
    }

    fn text(&mut self, what: &'static str) -> Result<Text, DecodeError> {
        let length = usize::from(self.byte(what)?);
        let (text, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        let text = str::from_utf8(text).map_err(|_| DecodeError::Invalid(what))?;
        Text::new(text).map_err(|_| DecodeError::Invalid(what))
    }

    fn identity(&mut self) -> Result<Identity, DecodeError> {
        let flags = self.byte("flags")?;
        if flags & !(LEFT | IPV6) != 0 {
            return Err(DecodeError::Invalid("flags"));
        }
        let node = NodeId(u64::from_be_bytes(self.array("node id")?));
        let incarnation = Incarnation(self.varint("incarnation")?);
        let renewal =
            u32::try_from(self.varint("renewal")?).map_err(|_| DecodeError::Invalid("renewal"))?;
        let ip = if flags & IPV6 == 0 {
            IpAddr::V4(Ipv4Addr::from(self.array::<4>("address")?))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.array::<16>("address")?))
        };
        let port = u16::from_be_bytes(self.array("port")?);
        let dc = self.text("data center")?;
        let name = self.text("name")?;
        let address = SocketAddr::new(ip, port);
        Ok(Identity { node, incarnation, renewal, left: flags & LEFT != 0, address, dc, name })
    }

    fn swim_incarnation(&mut self) -> Result<foca::Incarnation, DecodeError> {
        let value = self.varint("suspicion count")?;
        value.try_into().map_err(|_| DecodeError::Invalid("suspicion count"))
    }

    fn member(&mut self) -> Result<foca::Member<Identity>, DecodeError> {
        let identity = self.identity()?;
        let incarnation = self.swim_incarnation()?;
        let state = match self.byte("state")? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(DecodeError::Invalid("state")),
        };
        Ok(foca::Member::new(identity, incarnation, state))
    }

    fn version(&mut self) -> Result<(), DecodeError> {
        match self.byte("version")? {
            VERSION => Ok(()),
            other => Err(DecodeError::Version(other)),
        }
    }

    fn header(&mut self) -> Result<Header<Identity>, DecodeError> {
        self.version()?;
        let src = self.identity()?;
        let src_incarnation = self.swim_incarnation()?;
        let dst = self.identity()?;
        let message = self.message()?;
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn message(&mut self) -> Result<Message<Identity>, DecodeError> {
        let tag = self.byte("message")?;
        let probe_number = if tag < 6 { self.byte("probe number")? } else { 0 };
        Ok(match tag {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: self.identity()?, probe_number },
            3 => Message::IndirectPing { origin: self.identity()?, probe_number },
            4 => Message::IndirectAck { target: self.identity()?, probe_number },
            5 => Message::ForwardedAck { origin: self.identity()?, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            _ => return Err(DecodeError::Invalid("message")),
        })
    }

    fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.0.len())) }
    }
}

/// What foca encodes and decodes with.
#[derive(Debug, Default)]
pub(crate) struct WireCodec {
    scratch: Vec<u8>,
}

impl WireCodec {
    /// Appends what is in `scratch`, wholly or not at all, as foca demands.
    fn flush(&mut self, mut buf: impl BufMut) -> Result<(), DecodeError> {
        if buf.remaining_mut() < self.scratch.len() {
            return Err(DecodeError::NoRoom);
        }
        buf.put_slice(&self.scratch);
        Ok(())
    }
}

/// Reads one item from a buffer whose bytes are contiguous, which foca's are.
fn take<T>(
    mut buf: impl Buf,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let chunk = buf.chunk();
    let mut reader = Reader(chunk);
    let value = read(&mut reader)?;
    let used = chunk.len() - reader.0.len();
    buf.advance(used);
    Ok(value)
}

impl foca::Codec<Identity> for WireCodec {
    type Error = DecodeError;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        buf: impl BufMut,
    ) -> Result<(), DecodeError> {
        self.scratch.clear();
        put_header(&mut self.scratch, header);
        self.flush(buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, DecodeError> {
        take(buf, |reader| reader.header())
    }

    fn encode_member(
        &mut self,
        member: &foca::Member<Identity>,
        buf: impl BufMut,
    ) -> Result<(), DecodeError> {
        self.scratch.clear();
        put_member(&mut self.scratch, member);
        self.flush(buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<Identity>, DecodeError> {
        take(buf, |reader| reader.member())
    }
}

/// Values of everything that can be encoded.
#[cfg(test)]
pub(crate) mod strategies {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn identity() -> impl Strategy<Value = Identity> {
        let ip = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ];
        (
            any::<u64>(),
            any::<u64>(),
            any::<u32>(),
            any::<bool>(),
            (ip, any::<u16>()),
            "[a-z0-9é-]{0,20}",
            "[ -~]{0,63}",
        )
            .prop_map(|(node, incarnation, renewal, left, address, dc, name)| Identity {
                node: NodeId(node),
                incarnation: Incarnation(incarnation),
                renewal,
                left,
                address: address.into(),
                dc: Text::new(&dc).unwrap(),
                name: Text::new(&name).unwrap(),
            })
    }

    pub(crate) fn member() -> impl Strategy<Value = foca::Member<Identity>> {
        let state = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
        (identity(), any::<u16>(), state).prop_map(|(id, n, state)| foca::Member::new(id, n, state))
    }

    pub(crate) fn message() -> impl Strategy<Value = Message<Identity>> {
        (0..11, any::<u8>(), identity()).prop_map(|(tag, probe_number, id)| match tag {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: id, probe_number },
            3 => Message::IndirectPing { origin: id, probe_number },
            4 => Message::IndirectAck { target: id, probe_number },
            5 => Message::ForwardedAck { origin: id, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            _ => Message::TurnUndead,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::strategies::{identity, member, message};
    use super::*;

    fn same(left: &Identity, right: &Identity) -> bool {
        left == right
            && left.address == right.address
            && left.dc == right.dc
            && left.name == right.name
    }

    proptest! {
        #[test]
        fn a_packet_reads_back_whole(
            src in identity(),
            dst in identity(),
            src_incarnation in any::<u16>(),
            message in message(),
            updates in proptest::collection::vec(member(), 0..8),
        ) {
            let header = Header { src, src_incarnation, dst, message };
            let packet = Packet { header, updates };
            let decoded = decode_packet(&encode_packet(&packet)).unwrap();
            prop_assert!(same(&decoded.header.src, &packet.header.src));
            prop_assert!(same(&decoded.header.dst, &packet.header.dst));
            prop_assert_eq!(decoded, packet);
        }

        #[test]
        fn a_state_reads_back_whole(members in proptest::collection::vec(member(), 1..40)) {
            let decoded = decode_state(&encode_state(&members)).unwrap();
            prop_assert!(decoded.iter().zip(&members).all(|(a, b)| same(a.id(), b.id())));
            prop_assert_eq!(decoded, members);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_packet(&bytes);
            let _ = decode_state(&bytes);
        }

        #[test]
        fn a_packet_that_was_cut_or_grew_is_refused(
            members in proptest::collection::vec(member(), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = encode_state(&members);
            prop_assert!(decode_state(&bytes[..cut.index(bytes.len())]).is_err());
            let mut longer = bytes;
            longer.push(0);
            prop_assert_eq!(decode_state(&longer), Err(DecodeError::Trailing(1)));
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused() {
        let mut reader = Reader(&[0xff; 10]);
        assert_eq!(reader.varint("x"), Err(DecodeError::Invalid("x")));
        let mut bytes = Vec::new();
        put_varint(&mut bytes, u64::MAX);
        assert_eq!(Reader(&bytes).varint("x"), Ok(u64::MAX));
    }

    #[test]
    fn an_encoding_of_another_version_is_named_as_such() {
        assert_eq!(decode_packet(&[9]), Err(DecodeError::Version(9)));
        assert_eq!(decode_state(&[]), Err(DecodeError::Truncated("version")));
    }
}
