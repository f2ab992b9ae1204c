//! Machines of their own for nodes: a network namespace each, a bridge for each
//! data center, and a router between the bridges.
//!
//! ```text
//! n1 ─┐            ┌─ n2
//! n3 ─┴ east ─hub─ west ┴─ n4        (hub: the router, and where packets are lost)
//! ```
//!
//! Cuts lose packets silently, as a broken cable does, by nftables where a packet
//! enters a machine: a rule at the sender's output would tell it by an error.
//! All of it ends with the value, and what a killed run left is removed by the next.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::packet_delay::PacketDelay;
use crate::process::{Run, is_running, run};

const PATIENCE: Duration = Duration::from_secs(30);
const FOLDER: &str = "/run/netns";
const PREFIX: &str = "rung-";
/// The number of the queue that delayed packets wait in.
const QUEUE: u16 = 1;

/// In which directions a machine loses the packets of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Nobody hears it; it hears everybody.
    Out,
    /// It hears nobody; everybody hears it.
    In,
    Both,
}

#[derive(Clone, Debug)]
struct Machine {
    dc: usize,
    address: Ipv4Addr,
}

/// The machines of one cluster.
#[derive(Debug)]
pub struct Namespaces {
    /// Of the names of all namespaces here.
    prefix: String,
    machines: BTreeMap<String, Machine>,
    delay: Option<PacketDelay>,
}

/// Why there cannot be namespaces here, if so.
pub fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<&'static str>> = OnceLock::new();
    *MISSING.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root");
        }
        let works = |program: &str, arguments: &[&str]| {
            let done = Command::new(program).args(arguments).output();
            done.is_ok_and(|done| done.status.success())
        };
        if !works("ip", &["netns", "list"]) {
            return Some("`ip netns` does not work here; install iproute2");
        }
        if !works("nft", &["list", "ruleset"]) {
            return Some("`nft` does not work here; install nftables");
        }
        if !works("iptables", &["-t", "mangle", "-S"]) {
            return Some("`iptables` does not work here; install iptables");
        }
        if !works("nsenter", &["--version"]) {
            return Some("there is no `nsenter`; install util-linux");
        }
        None
    })
}

impl Namespaces {
    /// Makes a machine for each node, of the data center named beside it.
    ///
    /// # Panics
    /// When that is not possible; see [`missing`].
    #[track_caller]
    pub fn create(nodes: &[(String, &str)]) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        remove_what_others_left();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{serial}-", std::process::id());
        let mut dcs: Vec<&str> = nodes.iter().map(|(_, dc)| *dc).collect();
        dcs.sort_unstable();
        dcs.dedup();
        let mut this = Self { prefix, machines: BTreeMap::new(), delay: None };
        this.make_hub(dcs.len());
        for (index, (node, dc)) in nodes.iter().enumerate() {
            let dc = dcs.iter().position(|known| known == dc).expect("it is one of them");
            this.make_machine(node, dc, index);
        }
        this
    }

    fn make_hub(&self, dcs: usize) {
        let hub = self.name("hub");
        ip(&format!("netns add {hub}"));
        ip(&format!("-n {hub} link set dev lo up"));
        for dc in 0..dcs {
            ip(&format!("-n {hub} link add name br{dc} type bridge"));
            ip(&format!("-n {hub} addr add {}/24 dev br{dc}", gateway(dc)));
            ip(&format!("-n {hub} link set dev br{dc} up"));
        }
        // This file belongs to the namespace of who opens it.
        let routed = within(&self.path("hub"), || fs::write("/proc/sys/net/ipv4/ip_forward", "1"));
        routed.expect("the hub's namespace").expect("it becomes a router");
    }

    fn make_machine(&mut self, node: &str, dc: usize, index: usize) {
        let (hub, name) = (self.name("hub"), self.name(node));
        let last = u8::try_from(11 + index).expect("a few nodes");
        let address = Ipv4Addr::new(10, 77, gateway(dc).octets()[2], last);
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set dev lo up"));
        ip(&format!("-n {hub} link add name v-{node} type veth peer name eth0 netns {name}"));
        ip(&format!("-n {hub} link set dev v-{node} master br{dc} up"));
        ip(&format!("-n {name} addr add {address}/24 dev eth0"));
        ip(&format!("-n {name} link set dev eth0 up"));
        ip(&format!("-n {name} route add default via {}", gateway(dc)));
        self.machines.insert(node.to_owned(), Machine { dc, address });
    }

    fn name(&self, node: &str) -> String {
        format!("{}{node}", self.prefix)
    }

    /// The file of a node's namespace, to be entered.
    pub fn path(&self, node: &str) -> PathBuf {
        Path::new(FOLDER).join(self.name(node))
    }

    /// # Panics
    /// When there is no such node.
    pub fn address(&self, node: &str) -> Ipv4Addr {
        self.machines.get(node).expect("a node with a machine").address
    }

    /// A program on a node's machine, with the files of this one.
    pub fn command(&self, node: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let mut namespace = std::ffi::OsString::from("--net=");
        namespace.push(self.path(node));
        command.arg(namespace).arg("--").arg(program);
        command
    }

    /// Cuts a node off from these; what was cut for it before is forgotten.
    pub fn cut(&self, node: &str, from: &[&str], cut: Cut) {
        let addresses: BTreeSet<Ipv4Addr> =
            from.iter().filter(|other| **other != node).map(|other| self.address(other)).collect();
        let out = if cut == Cut::In { BTreeSet::new() } else { addresses.clone() };
        let inward = if cut == Cut::Out { BTreeSet::new() } else { addresses };
        self.lose("hub", &format!("v-{node}"), node, "daddr", &out);
        self.lose(node, "eth0", node, "saddr", &inward);
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: &str, cut: Cut) {
        let all: Vec<&str> = self.machines.keys().map(String::as_str).collect();
        self.cut(node, &all, cut);
    }

    /// Ends every cut of a node.
    pub fn heal(&self, node: &str) {
        self.cut(node, &[], Cut::Both);
    }

    /// Loses the packets that come in by a device and whose field is one of these.
    fn lose(&self, place: &str, device: &str, table: &str, field: &str, from: &BTreeSet<Ipv4Addr>) {
        let mut rules = format!("table netdev {table}; delete table netdev {table}; ");
        if !from.is_empty() {
            let list: Vec<String> = from.iter().map(Ipv4Addr::to_string).collect();
            rules += &format!(
                "table netdev {table} {{ chain lost {{ type filter hook ingress device \
                 \"{device}\" priority 0; ip {field} {{ {} }} drop; }}; }};",
                list.join(", ")
            );
        }
        run(self.command(place, "nft").arg(rules), PATIENCE).expect(0);
    }

    /// Delays every packet between data centers from now on.
    ///
    /// # Panics
    /// When NFQUEUE does not work here.
    pub fn delay(&mut self, each_way: Duration) {
        self.delay = None;
        let iptables = |words: &str| {
            let mut command = self.command("hub", "iptables");
            run(command.args(["-t", "mangle"]).args(words.split(' ')), PATIENCE).expect(0);
        };
        iptables("-F");
        let dcs: BTreeSet<usize> = self.machines.values().map(|machine| machine.dc).collect();
        for dc in dcs {
            // Packets within a bridge may come by here as well. While nobody listens to
            // the queue nothing is lost.
            let here = format!("{}/24", gateway(dc));
            let queue = format!("NFQUEUE --queue-num {QUEUE} --queue-bypass");
            iptables(&format!("-A FORWARD -s {here} ! -d {here} -j {queue}"));
        }
        let started = PacketDelay::start(Some(self.path("hub")), QUEUE, each_way);
        self.delay = Some(started.expect("NFQUEUE"));
    }

    /// The data center of a node, counted from 0 in the order of their names.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn dc(&self, node: &str) -> usize {
        self.machines.get(node).expect("a node with a machine").dc
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.delay = None;
        let names: Vec<String> = self.machines.keys().map(|node| self.name(node)).collect();
        for name in names.iter().chain([&self.name("hub")]) {
            // The next run tries again.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Does something in a namespace, on a thread of its own: a thread that has moved
/// stays there, with all the sockets that it opens.
///
/// # Errors
/// When the namespace cannot be entered.
///
/// # Panics
/// When what is done panics.
pub fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            enter(namespace)?;
            Ok(work())
        });
        thread.join().expect("the work in the namespace")
    })
}

/// Moves this thread into a namespace for good, and with it the threads that it
/// starts from now on.
///
/// # Errors
/// When there is none, or not for this user.
pub fn enter(namespace: &Path) -> io::Result<()> {
    let file = File::open(namespace)?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn gateway(dc: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, u8::try_from(dc + 1).expect("a few data centers"), 1)
}

#[track_caller]
fn ip(words: &str) -> Run {
    run(Command::new("ip").args(words.split(' ')), PATIENCE).expect(0)
}

/// Namespaces of runs that were killed.
fn remove_what_others_left() {
    let Ok(entries) = fs::read_dir(FOLDER) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let pid = rest.split('-').next().and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| !is_running(pid)) {
            // Another run may have removed it meanwhile.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn machines() -> Option<Namespaces> {
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return None;
        }
        let nodes = [("n1", "east"), ("n2", "west"), ("n3", "east")];
        Some(Namespaces::create(&nodes.map(|(node, dc)| (node.to_owned(), dc))))
    }

    /// Whether a datagram from one machine gets to another, and how long it took.
    fn passes(on: &Namespaces, from: &str, to: &str) -> Option<Duration> {
        let address = (on.address(to), 9);
        let receiver = within(&on.path(to), || UdpSocket::bind(address)).unwrap().unwrap();
        let sender = within(&on.path(from), || UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        let begun = std::time::Instant::now();
        sender.send_to(b"hello", address).expect("a cut is not an error of the sender");
        receiver.recv(&mut [0; 8]).ok().map(|_| begun.elapsed())
    }

    #[test]
    fn a_cut_loses_exactly_the_packets_of_its_direction_until_it_is_healed() {
        let Some(on) = machines() else { return };
        let passing = |from, to| passes(&on, from, to).is_some();
        assert!(passing("n1", "n3") && passing("n1", "n2") && passing("n2", "n1"));
        on.isolate("n1", Cut::Out);
        assert!(!passing("n1", "n3") && !passing("n1", "n2"));
        assert!(passing("n2", "n1") && passing("n3", "n1"));
        on.isolate("n1", Cut::In);
        assert!(passing("n1", "n3") && passing("n1", "n2"));
        assert!(!passing("n2", "n1") && !passing("n3", "n1"));
        on.cut("n1", &["n2"], Cut::Both);
        assert!(!passing("n1", "n2") && !passing("n2", "n1"));
        assert!(passing("n1", "n3") && passing("n3", "n1"));
        on.heal("n1");
        assert!(passing("n1", "n2") && passing("n2", "n1"));
    }

    #[test]
    fn packets_between_data_centers_take_as_long_as_asked_and_others_do_not() {
        let Some(mut on) = machines() else { return };
        on.delay(Duration::from_millis(100));
        let far = passes(&on, "n1", "n2").expect("it passes");
        assert!(far >= Duration::from_millis(99), "{far:?}");
        // Nobody is to be fast on a busy machine; but not every time as slow.
        let near = (0..5).filter_map(|_| passes(&on, "n1", "n3")).min().expect("they pass");
        assert!(near < Duration::from_millis(99), "{near:?}");
    }
}
