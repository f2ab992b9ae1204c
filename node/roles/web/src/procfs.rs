//! What `/proc` says of processes and of listening sockets. The parsers take the
//! bytes of the files; apps choose some of them (the name of a process), so they
//! are total.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most descriptors of one process that are looked at.
const MAX_DESCRIPTORS: usize = 65_536;

/// One process, from `/proc/<pid>/stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    pub pid: u32,
    /// `Z` for one that has ended and was not waited for.
    pub state: u8,
    pub session: u32,
    /// Clock ticks since boot. With the pid it names a process for ever.
    pub start_time: u64,
}

/// Reads `/proc/<pid>/stat`. The name in it may hold spaces and parentheses.
pub fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let pid = std::str::from_utf8(bytes.get(..open)?).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        pid,
        state: *fields.first()?.as_bytes().first()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

/// The process with that id, if there is one.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The processes of a session, without those that have already ended.
pub fn session_processes(session: u32) -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .filter(|stat| stat.session == session && stat.state != b'Z' && stat.state != b'X')
        .collect()
}

/// Which boot of the machine this is; pids and start times are of one boot.
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// A TCP socket, from `/proc/net/tcp` or `/proc/net/tcp6`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    pub local: SocketAddr,
    pub state: u8,
    pub inode: u64,
}

/// The states that matter here, from `include/net/tcp_states.h`.
pub const ESTABLISHED: u8 = 0x01;
pub const LISTEN: u8 = 0x0a;

/// Reads `/proc/net/tcp` or `/proc/net/tcp6`; lines that it cannot read are
/// left out. IPv4 addresses mapped into IPv6 are given as IPv4.
pub fn parse_sockets(bytes: &[u8]) -> Vec<Socket> {
    bytes.split(|b| *b == b'\n').skip(1).filter_map(parse_socket).collect()
}

fn parse_socket(line: &[u8]) -> Option<Socket> {
    let fields: Vec<&str> = std::str::from_utf8(line).ok()?.split_ascii_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = match address.len() {
        // Each group of four bytes is printed as a number of the host's order.
        8 => IpAddr::V4(Ipv4Addr::from(word(address)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, target) in bytes.chunks_exact_mut(4).enumerate() {
                target.copy_from_slice(&word(address.get(index * 8..index * 8 + 8)?)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(Socket {
        local: SocketAddr::new(ip, port),
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

fn word(hex: &str) -> Option<[u8; 4]> {
    u32::from_str_radix(hex, 16).ok().map(u32::to_ne_bytes)
}

/// Every TCP socket of this network namespace.
pub fn sockets() -> Vec<Socket> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read(path).ok())
        .flat_map(|bytes| parse_sockets(&bytes))
        .collect()
}

/// The inodes of all sockets that the processes hold.
pub fn socket_inodes(processes: &[Stat]) -> BTreeSet<u64> {
    let inodes_of = |stat: &Stat| {
        let entries = fs::read_dir(format!("/proc/{}/fd", stat.pid)).into_iter().flatten();
        let inode = |entry: std::io::Result<fs::DirEntry>| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        };
        entries.take(MAX_DESCRIPTORS).filter_map(inode).collect::<Vec<u64>>()
    };
    processes.iter().flat_map(inodes_of).collect()
}

/// Checks where an instance listens: on its port it must be exactly `address`,
/// and unless `allow_public`, none of its sockets may be reachable from another
/// machine.
///
/// # Errors
/// Says which address is wrong, or that the port is not the instance's own.
pub fn check_listeners(
    sockets: &[Socket],
    own: &BTreeSet<u64>,
    address: SocketAddr,
    allow_public: bool,
) -> Result<(), String> {
    let mut found = false;
    for socket in sockets.iter().filter(|s| s.state == LISTEN && own.contains(&s.inode)) {
        let on_port = socket.local.port() == address.port();
        let exact = socket.local == address;
        found |= exact || (on_port && allow_public);
        let wrong = if on_port { !exact } else { !socket.local.ip().is_loopback() };
        if wrong && !allow_public {
            return Err(format!(
                "it listens on {}; it must listen on {address} only ($HOST and $PORT), or set \
                 allow_public_listen in rung.toml",
                socket.local
            ));
        }
    }
    if found { Ok(()) } else { Err(format!("none of its processes listens on {address}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &[u8] = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41 1 0 100 0 0 10 0\n\
   1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1 0 100 0 0 10 0\n\
   2: 0100007F:1F90 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 43 1 0 100 0 0 10 0\n\
   broken\n";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_process_name_cannot_forge_the_fields_after_it() {
        let line =
            b"42 (evil) R 1 1 1 (x) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.pid, stat.state, stat.session, stat.start_time), (42, b'S', 42, 777));
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"1 )("), None);
    }

    #[test]
    fn this_process_is_found_in_its_session() {
        let own = stat(std::process::id()).unwrap();
        assert!(session_processes(own.session).iter().any(|stat| stat.pid == own.pid));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_are_read_with_their_addresses() {
        let sockets = parse_sockets(TCP);
        assert_eq!(sockets.len(), 3);
        assert_eq!(sockets[0].local, address("127.0.0.1:8080"));
        assert_eq!(sockets[2].state, ESTABLISHED);
        let mapped =
            parse_socket(b"0: 0000000000000000FFFF00000100007F:1F90 0:0 0A 0 0 0 0 0 7 1").unwrap();
        assert_eq!(mapped.local, address("127.0.0.1:8080"));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn only_the_given_address_passes_unless_more_is_allowed() {
        let sockets = parse_sockets(TCP);
        let loopback = BTreeSet::from([41]);
        let public = BTreeSet::from([41, 42]);
        let on = address("127.0.0.1:8080");
        assert_eq!(check_listeners(&sockets, &loopback, on, false), Ok(()));
        let error = check_listeners(&sockets, &public, on, false).unwrap_err();
        assert!(error.contains("0.0.0.0:8081"), "{error}");
        assert_eq!(check_listeners(&sockets, &public, on, true), Ok(()));
        let error = check_listeners(&sockets, &BTreeSet::new(), on, true).unwrap_err();
        assert!(error.contains("none"), "{error}");
        let wildcard = BTreeSet::from([42]);
        assert_eq!(check_listeners(&sockets, &wildcard, address("127.0.0.1:8081"), true), Ok(()));
        assert!(check_listeners(&sockets, &wildcard, address("127.0.0.1:8081"), false).is_err());
    }

    proptest::proptest! {
        #[test]
        fn the_parsers_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = parse_stat(&bytes);
            let _ = parse_sockets(&bytes);
        }
    }
}
