//! The machine under a node, read from `/proc` (`proc(5)`) and `statvfs(3)`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rung_proto::soft::HostStatus;

/// Reads the state of the machine again and again. The processor's share is that
/// of the time since the sample before, and of the time since boot at first.
pub struct Sampler {
    /// Its file system is the one that is told about.
    data_dir: PathBuf,
    cores: u32,
    last: CpuTimes,
}

/// Clock ticks of all processors since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuTimes {
    pub busy: u64,
    pub total: u64,
}

/// Bytes of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    pub total: u64,
    pub available: u64,
}

/// Bytes since boot over all interfaces but loopback.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Network {
    pub received: u64,
    pub sent: u64,
}

impl Sampler {
    pub fn new(data_dir: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            data_dir: data_dir.to_owned(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            last: CpuTimes::default(),
        }
    }

    /// Reads everything. It takes some hundred microseconds and does not wait
    /// for a disk, except for a network file system that hangs.
    ///
    /// # Errors
    /// When `/proc` is not there or is not what Linux documents.
    pub fn sample(&mut self) -> io::Result<HostStatus> {
        let times = read("/proc/stat", cpu_times)?;
        let memory = read("/proc/meminfo", memory)?;
        let network = read("/proc/net/dev", network)?;
        let resident = read("/proc/self/status", resident_bytes)?;
        let disk = rustix::fs::statvfs(&self.data_dir)?;
        let cpu = busy_share(self.last, times);
        self.last = times;
        Ok(HostStatus {
            cpu,
            cores: self.cores,
            memory_total: memory.total,
            memory_available: memory.available,
            disk_total: disk.f_blocks.saturating_mul(disk.f_frsize),
            disk_available: disk.f_bavail.saturating_mul(disk.f_frsize),
            network_received: network.received,
            network_sent: network.sent,
            process_memory: resident,
        })
    }
}

fn read<T>(path: &str, parse: impl Fn(&str) -> Option<T>) -> io::Result<T> {
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {path}: {error}")))?;
    parse(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not as proc(5) describes it"))
    })
}

/// The busy share between two samples, 0.0 to 1.0.
pub fn busy_share(before: CpuTimes, after: CpuTimes) -> f64 {
    let total = after.total.saturating_sub(before.total);
    let busy = after.busy.saturating_sub(before.busy).min(total);
    if total == 0 { 0.0 } else { busy as f64 / total as f64 }
}

/// The first line of `/proc/stat`. Guest time is part of user time already; time
/// that the host gave to others (steal) counts as busy: it cannot be used.
pub fn cpu_times(text: &str) -> Option<CpuTimes> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> =
        line.split_ascii_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = fields.get(3)?.saturating_add(fields.get(4).copied().unwrap_or(0));
    let total = fields.iter().fold(0u64, |sum, field| sum.saturating_add(*field));
    Some(CpuTimes { busy: total.saturating_sub(idle), total })
}

/// `/proc/meminfo`, of Linux 3.14 and later.
pub fn memory(text: &str) -> Option<Memory> {
    Some(Memory {
        total: kilobytes(text, "MemTotal")?,
        available: kilobytes(text, "MemAvailable")?,
    })
}

/// The resident memory in `/proc/self/status`, in bytes.
pub fn resident_bytes(text: &str) -> Option<u64> {
    kilobytes(text, "VmRSS")
}

/// A line `Name:   123 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

/// `/proc/net/dev`.
pub fn network(text: &str) -> Option<Network> {
    let mut sum = Network::default();
    for line in text.lines().skip(2) {
        let (name, numbers) = line.split_once(':')?;
        if name.trim() == "lo" {
            continue;
        }
        let mut fields = numbers.split_ascii_whitespace();
        let received: u64 = fields.next()?.parse().ok()?;
        let sent: u64 = fields.nth(7)?.parse().ok()?;
        sum.received = sum.received.saturating_add(received);
        sum.sent = sum.sent.saturating_add(sent);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 10 50 800 40 5 5 10 20 0\ncpu0 100 10 50 800 40 5 5 10 20 0\n\
                        intr 12345 0 9\nctxt 42\nbtime 1700000000\n";
    const MEMINFO: &str = "MemTotal:       24500000 kB\nMemFree:        20000000 kB\n\
                           MemAvailable:   22000000 kB\nBuffers:          100000 kB\n";
    const NET_DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
        lo: 9999999    1000    0    0    0     0          0         0  9999999    1000    0    0    0     0       0          0\n  \
        eth0: 1000       10    0    0    0     0          0         0     2000      20    0    0    0     0       0          0\n  \
        eth1:    5        1    0    0    0     0          0         0        7       1    0    0    0     0       0          0\n";

    #[test]
    fn the_processor_is_busy_when_it_is_neither_idle_nor_waiting() {
        let times = cpu_times(STAT).unwrap();
        assert_eq!(times, CpuTimes { busy: 180, total: 1020 });
        let later = CpuTimes { busy: 230, total: 1120 };
        assert!((busy_share(times, later) - 0.5).abs() < 1e-9);
        assert_eq!(busy_share(times, times), 0.0);
        assert_eq!(busy_share(later, times), 0.0);
    }

    #[test]
    fn memory_is_given_in_bytes() {
        let expected = Memory { total: 24_500_000 * 1024, available: 22_000_000 * 1024 };
        assert_eq!(memory(MEMINFO), Some(expected));
        assert_eq!(memory("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn loopback_is_not_counted() {
        assert_eq!(network(NET_DEV), Some(Network { received: 1005, sent: 2007 }));
        assert_eq!(network("a\nb\nnonsense\n"), None);
    }

    #[test]
    fn resident_memory_is_given_in_bytes() {
        assert_eq!(resident_bytes("Name:\trungd\nVmRSS:\t    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(resident_bytes("Name:\tVmRSS\n"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let mut sampler = Sampler::new(Path::new("/"));
        let first = sampler.sample().unwrap();
        let second = sampler.sample().unwrap();
        assert!(first.cores >= 1 && first.memory_total > first.memory_available);
        assert!(first.disk_total > first.disk_available && first.process_memory > 0);
        assert!((0.0..=1.0).contains(&second.cpu));
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_the_parsers(text in "[\\PC\n\t]{0,200}") {
            let _ = (cpu_times(&text), memory(&text), network(&text), resident_bytes(&text));
        }
    }
}
