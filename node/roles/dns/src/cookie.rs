//! DNS cookies (RFC 7873) in the form that servers of different makers share
//! (RFC 9018): version 1, a time and a SipHash-2-4 over client cookie and client
//! address. A client that shows a valid one is not at a forged address.

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;

/// How long a server cookie is accepted, in seconds (RFC 9018 section 4.3).
const VALID: i32 = 3600;
/// How far in the future its time may be, since clocks differ.
const AHEAD: i32 = 300;
/// From this age on a new one is made.
const RENEW: i32 = 1800;
const VERSION: [u8; 4] = [1, 0, 0, 0];

/// The secret that server cookies are made with. All name servers of a zone
/// share it, so that each accepts the cookies of the others.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieSecret {
    /// Makes cookies and checks them.
    pub current: [u8; 16],
    /// Only checks them, while a new secret is taken into use.
    pub previous: Option<[u8; 16]>,
}

impl CookieSecret {
    /// A secret of this server alone.
    pub fn random() -> Self {
        Self { current: rand::random(), previous: None }
    }
}

impl fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecret(..)")
    }
}

/// What a client sent in the cookie option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie {
    /// The client's own part, returned as it is.
    pub client: [u8; 8],
    /// A server cookie of our length. One of another length is another server's
    /// and counts as none.
    pub server: Option<[u8; 16]>,
}

impl Cookie {
    /// Reads the option's data. `None` when its length is not 8 or 16 to 40,
    /// which is a format error (RFC 7873 section 5.2.2).
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let (client, server) = data.split_first_chunk::<8>()?;
        match server.len() {
            0 | 8..=32 => Some(Self { client: *client, server: server.try_into().ok() }),
            _ => None,
        }
    }
}

/// The server cookie to answer with, and whether the one that came was valid.
pub(crate) struct Judgement {
    pub(crate) answer: [u8; 16],
    pub(crate) valid: bool,
}

/// Checks a cookie and makes the one to answer with. `now` is in seconds since
/// 1970, modulo 2^32.
pub(crate) fn judge(
    secret: &CookieSecret,
    cookie: &Cookie,
    address: IpAddr,
    now: u32,
) -> Judgement {
    if let Some(server) = cookie.server {
        let time = u32::from_be_bytes([server[4], server[5], server[6], server[7]]);
        let age = now.wrapping_sub(time).cast_signed();
        let timely = (-AHEAD..=VALID).contains(&age);
        if timely && server == make(&secret.current, &cookie.client, address, time) {
            let answer = if age <= RENEW {
                server
            } else {
                make(&secret.current, &cookie.client, address, now)
            };
            return Judgement { answer, valid: true };
        }
        let previous = secret.previous.as_ref();
        if timely && previous.is_some_and(|k| server == make(k, &cookie.client, address, time)) {
            let answer = make(&secret.current, &cookie.client, address, now);
            return Judgement { answer, valid: true };
        }
    }
    Judgement { answer: make(&secret.current, &cookie.client, address, now), valid: false }
}

fn make(key: &[u8; 16], client: &[u8; 8], address: IpAddr, time: u32) -> [u8; 16] {
    let mut input = [0; 32];
    input[..8].copy_from_slice(client);
    input[8..12].copy_from_slice(&VERSION);
    input[12..16].copy_from_slice(&time.to_be_bytes());
    let length = match address {
        IpAddr::V4(v4) => {
            input[16..20].copy_from_slice(&v4.octets());
            20
        }
        IpAddr::V6(v6) => {
            input[16..32].copy_from_slice(&v6.octets());
            32
        }
    };
    let mut cookie = [0; 16];
    cookie[..8].copy_from_slice(&input[8..16]);
    cookie[8..].copy_from_slice(&siphash_2_4(key, &input[..length]).to_le_bytes());
    cookie
}

// The standard library keeps SipHash-2-4 under this name only; it is deprecated
// as a hasher for maps, not for being wrong.
#[expect(deprecated)]
fn siphash_2_4(key: &[u8; 16], input: &[u8]) -> u64 {
    let (low, high) = key.split_at(8);
    let word = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("half of 16 bytes"));
    let mut hasher = std::hash::SipHasher::new_with_keys(word(low), word(high));
    hasher.write(input);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let bytes: Vec<u8> = (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        bytes.try_into().unwrap()
    }

    fn secret(text: &str) -> CookieSecret {
        CookieSecret { current: hex(text), previous: None }
    }

    #[test]
    fn the_examples_of_rfc_9018_come_out() {
        // Appendix A.1: a client learns its first server cookie.
        let key = secret("e5e973e5a6b2a43f48e7dc849e37bfcf");
        let address: IpAddr = "198.51.100.100".parse().unwrap();
        let first = Cookie { client: hex("2464c4abcf10c957"), server: None };
        let judged = judge(&key, &first, address, 1_559_731_985);
        assert_eq!(judged.answer, hex("010000005cf79f111f8130c3eee29480"));
        assert!(!judged.valid);

        // Appendix A.2: it comes back after 39 minutes and gets a new one.
        let again = Cookie { client: first.client, server: Some(judged.answer) };
        let judged = judge(&key, &again, address, 1_559_734_385);
        assert!(judged.valid);
        assert_eq!(judged.answer, hex("010000005cf7a871d4a564a1442aca77"));

        // Appendix A.4: an IPv6 client whose cookie was made with the old secret.
        let rolled = CookieSecret {
            current: hex("445536bcd2513298075a5d379663c962"),
            previous: Some(hex("dd3bdf9344b678b185a6f5cb60fca715")),
        };
        let old = Cookie {
            client: hex("22681ab97d52c298"),
            server: Some(hex("010000005cf7c57926556bd0934c72f8")),
        };
        let address = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        let judged = judge(&rolled, &old, address, 1_559_741_961);
        assert!(judged.valid);
        assert_eq!(judged.answer, hex("010000005cf7c609a6bb79d16625507a"));
    }

    #[test]
    fn a_cookie_of_another_address_time_or_secret_is_not_valid() {
        let key = secret("e5e973e5a6b2a43f48e7dc849e37bfcf");
        let address: IpAddr = "198.51.100.100".parse().unwrap();
        let client = [7; 8];
        let now = 5_000;
        let made = judge(&key, &Cookie { client, server: None }, address, now).answer;
        let shown = Cookie { client, server: Some(made) };
        assert!(judge(&key, &shown, address, now).valid);
        assert_eq!(judge(&key, &shown, address, now + 1800).answer, made, "kept while young");
        assert!(judge(&key, &shown, address, now + 3600).valid);
        assert!(!judge(&key, &shown, address, now + 3601).valid);
        assert!(judge(&key, &shown, address, now - 300).valid);
        assert!(!judge(&key, &shown, address, now - 301).valid);
        assert!(!judge(&key, &shown, "198.51.100.101".parse().unwrap(), now).valid);
        assert!(!judge(&secret("00000000000000000000000000000000"), &shown, address, now).valid);
    }

    #[test]
    fn only_the_lengths_of_rfc_7873_are_cookies() {
        for length in 0..64usize {
            let allowed = length == 8 || (16..=40).contains(&length);
            assert_eq!(Cookie::read(&vec![1; length]).is_some(), allowed, "{length}");
        }
        assert_eq!(Cookie::read(&[1; 20]).unwrap().server, None);
        assert_eq!(Cookie::read(&[1; 24]).unwrap().server, Some([1; 16]));
    }
}
