//! EDNS(0) (RFC 6891): the options that we act on, read from a query and written
//! into an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cookie::Cookie;
use crate::locations;

/// The record type of the OPT pseudo-record.
pub(crate) const OPT: u16 = 41;
/// The largest UDP payload that we announce and send: it passes every path
/// without fragments (RFC 9715).
pub(crate) const UDP_PAYLOAD: u16 = 1232;
/// What a client without EDNS can take (RFC 1035 section 4.2.1).
pub(crate) const PLAIN_PAYLOAD: u16 = 512;

pub(crate) const SUBNET: u16 = 8;
pub(crate) const COOKIE: u16 = 10;
pub(crate) const KEEPALIVE: u16 = 11;

/// What a query's OPT record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edns {
    /// The largest UDP answer that the client takes, as it says.
    pub payload: u16,
    /// The EDNS version; we know 0.
    pub version: u8,
    /// The client wants DNSSEC records; the bit is returned (RFC 3225).
    pub dnssec_ok: bool,
    /// The options, or `None` when one of them is malformed.
    pub options: Option<Options>,
}

/// The options of a query that we act on; of several of a kind, the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Client subnet (RFC 7871).
    pub subnet: Option<Subnet>,
    /// Cookie (RFC 7873).
    pub cookie: Option<Cookie>,
    /// The client asks how long its TCP connection may idle (RFC 7828).
    pub keepalive: bool,
}

/// The network that a resolver asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    /// Its first address; `None` for family 0, which stands for no address.
    pub address: Option<IpAddr>,
    /// The number of its bits that are known; with 0 the client does not want
    /// its address to be used.
    pub source: u8,
}

impl Subnet {
    /// Reads the option's data as a query has it. `None` where RFC 7871 section
    /// 7.1.2 wants a format error: too few or too many address bytes, bits past
    /// the prefix, a scope, an unknown family.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let &[family_high, family_low, source, scope, ref bytes @ ..] = data else {
            return None;
        };
        if scope != 0 || bytes.len() != usize::from(source).div_ceil(8) {
            return None;
        }
        let address = match u16::from_be_bytes([family_high, family_low]) {
            0 if source == 0 => return Some(Self { address: None, source }),
            1 => {
                let mut octets = [0; 4];
                octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
                IpAddr::V4(Ipv4Addr::from(octets))
            }
            2 => {
                let mut octets = [0; 16];
                octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
                IpAddr::V6(Ipv6Addr::from(octets))
            }
            _ => return None,
        };
        let clean = locations::mask(address, source) == Some(address);
        clean.then_some(Self { address: Some(address), source })
    }

    /// The address to answer for, unless the client wants none to be used.
    pub(crate) fn location(&self) -> Option<IpAddr> {
        if self.source == 0 { None } else { self.address }
    }

    /// The option's data for an answer that holds within `scope` bits.
    pub(crate) fn write(&self, scope: u8, out: &mut Vec<u8>) {
        let family: u16 = match self.address {
            None => 0,
            Some(IpAddr::V4(_)) => 1,
            Some(IpAddr::V6(_)) => 2,
        };
        out.extend_from_slice(&family.to_be_bytes());
        out.extend_from_slice(&[self.source, scope]);
        let length = usize::from(self.source).div_ceil(8);
        match self.address {
            None => {}
            Some(IpAddr::V4(v4)) => out.extend_from_slice(&v4.octets()[..length]),
            Some(IpAddr::V6(v6)) => out.extend_from_slice(&v6.octets()[..length]),
        }
    }
}

impl Options {
    /// Reads the data of an OPT record; `None` when it or an option in it is
    /// malformed. Options that we do not know are skipped.
    pub fn read(mut data: &[u8]) -> Option<Self> {
        let mut options = Self::default();
        while !data.is_empty() {
            let &[code_high, code_low, length_high, length_low, ref rest @ ..] = data else {
                return None;
            };
            let length = usize::from(u16::from_be_bytes([length_high, length_low]));
            let (value, rest) = rest.split_at_checked(length)?;
            options.take(u16::from_be_bytes([code_high, code_low]), value)?;
            data = rest;
        }
        Some(options)
    }

    /// Notes one option; `None` when it is malformed.
    pub(crate) fn take(&mut self, code: u16, value: &[u8]) -> Option<()> {
        match code {
            SUBNET if self.subnet.is_none() => self.subnet = Some(Subnet::read(value)?),
            COOKIE if self.cookie.is_none() => self.cookie = Some(Cookie::read(value)?),
            // A client sends no value (RFC 7828 section 3.2.1).
            KEEPALIVE if !value.is_empty() => return None,
            KEEPALIVE => self.keepalive = true,
            _ => {}
        }
        Some(())
    }
}

impl Edns {
    /// The largest UDP answer to send.
    pub(crate) fn udp_limit(&self) -> usize {
        usize::from(self.payload.clamp(PLAIN_PAYLOAD, UDP_PAYLOAD))
    }
}

/// What an answer's OPT record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reply {
    /// The upper eight bits of the response code.
    pub(crate) rcode_high: u8,
    pub(crate) dnssec_ok: bool,
    /// The subnet of the query and the scope of the answer.
    pub(crate) subnet: Option<(Subnet, u8)>,
    /// Client and server cookie.
    pub(crate) cookie: Option<([u8; 8], [u8; 16])>,
    /// Idle time of the TCP connection, in units of 100 ms.
    pub(crate) keepalive: Option<u16>,
}

impl Reply {
    /// Appends the OPT record.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let [payload_high, payload_low] = UDP_PAYLOAD.to_be_bytes();
        let flags = if self.dnssec_ok { 0x80 } else { 0 };
        let fixed = [0, 0, OPT as u8, payload_high, payload_low, self.rcode_high, 0, flags, 0];
        out.extend_from_slice(&fixed);
        let length_at = out.len();
        out.extend_from_slice(&[0, 0]);
        if let Some((subnet, scope)) = self.subnet {
            write_option(SUBNET, out, |out| subnet.write(scope, out));
        }
        if let Some((client, server)) = self.cookie {
            write_option(COOKIE, out, |out| {
                out.extend_from_slice(&client);
                out.extend_from_slice(&server);
            });
        }
        if let Some(units) = self.keepalive {
            write_option(KEEPALIVE, out, |out| out.extend_from_slice(&units.to_be_bytes()));
        }
        write_length(out, length_at);
    }
}

fn write_option(code: u16, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&code.to_be_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    value(out);
    write_length(out, length_at);
}

fn write_length(out: &mut [u8], length_at: usize) {
    let length = (out.len() - length_at - 2) as u16;
    out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_must_have_exactly_its_bytes_and_no_bits_past_its_prefix() {
        let good = Subnet::read(&[0, 1, 20, 0, 192, 0, 0x20]).unwrap();
        assert_eq!(good.location(), Some("192.0.32.0".parse().unwrap()));
        for bad in [
            &[0, 1, 20, 0, 192, 0, 0x21][..],
            &[0, 1, 20, 0, 192, 0],
            &[0, 1, 20, 0, 192, 0, 0, 0],
            &[0, 1, 20, 5, 192, 0, 0],
            &[0, 1, 33, 0, 1, 2, 3, 4, 0],
            &[0, 3, 8, 0, 1],
            &[0, 0, 8, 0, 1],
            &[0, 1, 20],
            &[],
        ] {
            assert_eq!(Subnet::read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_subnet_without_bits_is_returned_and_not_used() {
        for data in [[0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0]] {
            let subnet = Subnet::read(&data).unwrap();
            assert_eq!(subnet.location(), None);
            let mut out = Vec::new();
            subnet.write(0, &mut out);
            assert_eq!(out, data);
        }
    }

    #[test]
    fn unknown_options_are_skipped_and_cut_ones_are_an_error() {
        let nsid_then_keepalive = [0, 3, 0, 0, 0, 11, 0, 0];
        assert!(Options::read(&nsid_then_keepalive).unwrap().keepalive);
        assert_eq!(Options::read(&[0, 3, 0]), None);
        assert_eq!(Options::read(&[0, 3, 0, 2, 9]), None);
        assert_eq!(Options::read(&[0, 11, 0, 2, 0, 9]), None);
        assert_eq!(Options::read(&[]), Some(Options::default()));
    }
}
