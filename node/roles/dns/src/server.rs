//! The server: its sockets, threads and counters, and their start and stop.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use rung_proto::{Code, Failure};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use crate::cookie::CookieSecret;
use crate::metrics::{Counters, DnsMetrics};
use crate::mmsg;
use crate::rate_limit::{RateLimit, RateLimiter};
use crate::snapshot::Snapshot;
use crate::zones::{Zones, ZonesError};
use crate::{tcp, udp};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How often a port is chosen anew when the kernel's choice for TCP is taken for
/// UDP.
const PORT_TRIES: usize = 16;

/// How a server is set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// UDP threads; 0 is one for each core.
    pub threads: usize,
    /// What server cookies are made with, shared by the name servers of the
    /// cluster; `None` makes a secret of this server's own.
    pub cookie_secret: Option<CookieSecret>,
    /// The bounds of the server.
    pub limits: Limits,
}

impl DnsConfig {
    /// The usual configuration at an address.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, threads: 0, cookie_secret: None, limits: Limits::default() }
    }
}

/// The bounds of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// TCP connections in all.
    pub tcp_connections: usize,
    /// TCP connections of one client address.
    pub tcp_per_client: usize,
    /// How long a TCP connection may idle, and within what time a query must
    /// come whole.
    pub tcp_idle: Duration,
    /// Within what time a client must take its answers.
    pub tcp_write: Duration,
    /// Bytes that the kernel keeps for each UDP thread while it is busy.
    pub receive_buffer: usize,
    /// What one network may be sent a second over UDP.
    pub rate: RateLimit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tcp_connections: 1000,
            tcp_per_client: 50,
            tcp_idle: Duration::from_secs(10),
            tcp_write: Duration::from_secs(5),
            receive_buffer: 4 * 1024 * 1024,
            rate: RateLimit::default(),
        }
    }
}

/// Why a server did not start or take new zones.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address cannot be listened on.
    #[error("cannot listen for DNS on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// The process has no thread or runtime left.
    #[error("cannot start a DNS thread: {0}")]
    Thread(io::Error),
    /// The zones are not what can be served; the former ones stay.
    #[error("the zones cannot be served: {0}")]
    Zones(#[from] ZonesError),
}

impl From<DnsError> for Failure {
    fn from(error: DnsError) -> Self {
        match &error {
            DnsError::Listen { address, source } => {
                let what = format!("DNS cannot listen on {address}");
                let failure = match source.kind() {
                    io::ErrorKind::AddrInUse => Failure::new(Code::PortTaken, what).next(format!(
                        "see who has the port: ss -lnptu 'sport = {}'",
                        address.port()
                    )),
                    _ => Failure::new(Code::Config, what)
                        .next("choose an address of this machine, and a port that it may use"),
                };
                failure.because(source)
            }
            DnsError::Thread(_) | DnsError::Zones(_) => {
                Failure::new(Code::Internal, error.to_string())
            }
        }
    }
}

/// What the threads of a server share.
pub(crate) struct Shared {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// One for each UDP thread, and the last one for TCP.
    pub(crate) counters: Vec<Counters>,
    pub(crate) limiter: Option<RateLimiter>,
    pub(crate) limits: Limits,
    pub(crate) started: Instant,
    pub(crate) stopping: AtomicBool,
    cookies: CookieSecret,
    tcp_ticket: AtomicU64,
}

impl Shared {
    pub(crate) fn tcp_counters(&self) -> &Counters {
        &self.counters[self.counters.len() - 1]
    }

    pub(crate) fn next_tcp_ticket(&self) -> u64 {
        self.tcp_ticket.fetch_add(1, Ordering::Relaxed)
    }
}

/// Seconds since 1970, modulo 2^32, as cookies count time.
pub(crate) fn unix_seconds() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as u32)
}

/// A running name server. Dropping it stops it without waiting.
pub struct DnsServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    sockets: Vec<Arc<UdpSocket>>,
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    failed: watch::Receiver<Option<String>>,
}

impl DnsServer {
    /// Listens and answers; until the first `update` with REFUSED, since no zone
    /// is known.
    ///
    /// # Errors
    /// When the address is taken or not ours, or no thread can be started.
    pub fn start(config: DnsConfig) -> Result<Self, DnsError> {
        let listen_error = |source| DnsError::Listen { address: config.listen, source };
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let (listener, sockets) =
            open(config.listen, threads, config.limits.receive_buffer).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let cookies = config.cookie_secret.unwrap_or_else(CookieSecret::random);
        let empty = Snapshot::new(Zones::default(), cookies.clone(), config.limits.tcp_idle)?;
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(empty),
            counters: (0..=threads).map(|_| Counters::default()).collect(),
            limiter: RateLimiter::new(config.limits.rate.clone()),
            limits: config.limits,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            cookies,
            tcp_ticket: AtomicU64::new(rand::random()),
        });
        let (failure, failed) = watch::channel(None);
        let (stop, stopping) = watch::channel(false);
        let mut server = Self { shared, address, sockets, threads: Vec::new(), stop, failed };
        server.start_threads(listener, &failure, stopping).map_err(DnsError::Thread)?;
        tracing::info!(role = "dns", %address, threads, "DNS listens");
        Ok(server)
    }

    fn start_threads(
        &mut self,
        listener: TcpListener,
        failure: &watch::Sender<Option<String>>,
        stopping: watch::Receiver<bool>,
    ) -> io::Result<()> {
        for (index, socket) in self.sockets.iter().enumerate() {
            let (shared, socket) = (self.shared.clone(), socket.clone());
            let body = move || udp::run(&shared, index, &socket);
            self.threads.push(spawn(format!("dns-udp-{index}"), failure.clone(), body)?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let shared = self.shared.clone();
        let body = move || {
            runtime.block_on(tcp::run(shared, listener, stopping));
            Ok(())
        };
        self.threads.push(spawn("dns-tcp".to_owned(), failure.clone(), body)?);
        Ok(())
    }

    /// The address that it listens on, with the port that the kernel chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers from these zones from now on. Queries that are being answered
    /// finish with the former ones.
    ///
    /// # Errors
    /// When the zones cannot be served; then the former ones stay.
    pub fn update(&self, zones: Zones) -> Result<(), DnsError> {
        let snapshot =
            Snapshot::new(zones, self.shared.cookies.clone(), self.shared.limits.tcp_idle)?;
        self.shared.snapshot.store(Arc::new(snapshot));
        Ok(())
    }

    /// What it has done since its start.
    pub fn metrics(&self) -> DnsMetrics {
        let zones_version = self.shared.snapshot.load().version;
        let mut report = DnsMetrics { zones_version, ..DnsMetrics::default() };
        let tcp = self.shared.counters.len() - 1;
        for (index, counters) in self.shared.counters.iter().enumerate() {
            let queries = counters.queries.load(Ordering::Relaxed);
            if index == tcp {
                report.tcp_queries = queries;
            } else {
                report.udp_queries += queries;
            }
            counters.add_to(&mut report);
        }
        report
    }

    /// Waits until a thread ends that should not, and says why. The others go on
    /// meanwhile, but a part of the queries is lost, so the server should be
    /// started anew.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "all DNS threads have ended".to_owned(),
        }
    }

    /// Stops and waits until all threads have ended and the port is free.
    pub async fn stop(mut self) {
        self.signal();
        let threads = std::mem::take(&mut self.threads);
        self.sockets.clear();
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count()
        });
        match joined.await {
            Ok(0) => {}
            Ok(panicked) => tracing::error!(role = "dns", panicked, "DNS threads had panicked"),
            Err(error) => tracing::error!(role = "dns", %error, "DNS threads were not awaited"),
        }
    }

    fn signal(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        for socket in &self.sockets {
            mmsg::wake(socket.as_fd());
        }
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.signal();
    }
}

/// Starts a thread that reports when it fails or panics.
fn spawn(
    name: String,
    failure: watch::Sender<Option<String>>,
    body: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let watched = Watched { name: name.clone(), failure };
    std::thread::Builder::new().name(name).spawn(move || {
        let watched = watched;
        if let Err(reason) = body() {
            watched.report(reason);
        }
    })
}

struct Watched {
    name: String,
    failure: watch::Sender<Option<String>>,
}

impl Watched {
    fn report(&self, reason: String) {
        tracing::error!(role = "dns", thread = self.name, reason, "a DNS thread failed");
        self.failure.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(reason);
            is_first
        });
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report(format!("the thread {} panicked", self.name));
        }
    }
}

/// Opens the TCP listener and a UDP socket for each thread on one port.
fn open(
    address: SocketAddr,
    threads: usize,
    receive_buffer: usize,
) -> io::Result<(TcpListener, Vec<Arc<UdpSocket>>)> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        // TCP comes first: it alone notices another server on the port, since
        // UDP sockets of one user share it.
        let listener = open_tcp(address)?;
        let chosen = SocketAddr::new(address.ip(), listener.local_addr()?.port());
        let sockets: io::Result<Vec<_>> =
            (0..threads).map(|_| udp::open(chosen, receive_buffer).map(Arc::new)).collect();
        tries -= 1;
        match sockets {
            Ok(sockets) => return Ok((listener, sockets)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason_of(body: impl FnOnce() -> Result<(), String> + Send + 'static) -> Option<String> {
        let (failure, failed) = watch::channel(None);
        // The outcome of a panicking thread is an error here too.
        let _ = spawn("dns-test".to_owned(), failure, body).unwrap().join();
        failed.borrow().clone()
    }

    #[test]
    fn a_thread_that_fails_or_panics_says_why_and_one_that_ends_says_nothing() {
        assert_eq!(reason_of(|| Ok(())), None);
        assert_eq!(reason_of(|| Err("no memory".to_owned())), Some("no memory".to_owned()));
        let reason = reason_of(|| panic!("a bug"));
        assert_eq!(reason, Some("the thread dns-test panicked".to_owned()));
    }

    #[test]
    fn an_address_that_is_not_ours_is_an_error_that_says_so() {
        let config = DnsConfig::new("192.0.2.1:0".parse().unwrap());
        let failure = Failure::from(DnsServer::start(config).err().unwrap());
        assert_eq!(failure.code, Code::Config);
        assert!(failure.to_string().contains("192.0.2.1"), "{failure}");
    }
}
