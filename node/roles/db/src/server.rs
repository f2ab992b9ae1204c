//! The listener, its threads, and what all connections share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use rung_proto::NodeId;
use rung_shard::Shard;
use rung_transport::{Mesh, MeshStream, PeerIdentity, StreamKind};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::backend::Cancellation;
use crate::directory::Directory;
use crate::rows::Spool;
use crate::statistics::{Statistics, count};
use crate::tls::ServerTls;
use crate::unfinished::Unfinished;
use crate::users::{UserRecord, Users};
use crate::{link, wire};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Connections over the limit that are let in far enough to be told so.
const BEYOND: usize = 100;
/// A pause after the process ran out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bits of a process number that are the connection's; those above are the node's.
const PROCESS_BITS: u32 = 19;

/// How the server is set up.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where programs on this machine connect, with or without TLS.
    pub listen: SocketAddr,
    /// Where others connect, with TLS only.
    pub listen_private: Option<SocketAddr>,
    /// Threads that serve clients; 0 means one for each processor.
    pub threads: usize,
    pub node: NodeId,
    /// The node's name as `inet` functions and metrics tell it.
    pub node_name: String,
    /// The node's data center.
    pub dc: String,
    /// Where the databases are.
    pub directory: watch::Receiver<Arc<Directory>>,
    /// To nodes that have the copies that this one lacks. Without it there are none.
    pub mesh: Option<Mesh>,
    /// The kind of the streams of links.
    pub stream_kind: StreamKind,
    /// Where large results are kept, in files without names.
    pub spool: PathBuf,
    pub limits: Limits,
}

/// Bounds of everything that clients can make grow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections from other machines that have not proved who they are.
    pub strangers: usize,
    /// For encryption, password and settings.
    pub startup: Duration,
    /// The longest time that a client takes no byte of what it asked for.
    pub slow_client: Duration,
    /// The longest time of a statement that has no `statement_timeout`.
    pub statement: Duration,
    /// How long what is not done yet waits for a primary.
    pub primary_wait: Duration,
    /// Bytes of one result, and of all results at a time, that go to files.
    pub spool_per_result: u64,
    pub spool_total: u64,
    /// Bytes of all messages over 1 MiB that are being received at a time.
    pub large_messages: usize,
    /// Statements that take so long are logged; none are without it.
    pub slow_statement: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            strangers: 1_000,
            startup: Duration::from_secs(10),
            slow_client: Duration::from_secs(60),
            statement: Duration::from_secs(3600),
            primary_wait: Duration::from_secs(10),
            spool_per_result: 1 << 30,
            spool_total: 4 << 30,
            large_messages: 256 << 20,
            slow_statement: Some(Duration::from_secs(1)),
        }
    }
}

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {source}; is another database running there?")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("a thread for clients of the database could not be started: {0}")]
    Thread(std::io::Error),
}

/// What all connections share.
pub(crate) struct Shared {
    pub config: ServerConfig,
    pub statistics: Statistics,
    pub spool: Arc<Spool>,
    pub large_messages: Arc<Semaphore>,
    /// True when everything ends.
    pub shutdown: watch::Sender<bool>,
    /// Makes the salts of users who do not exist.
    pub secret: [u8; 32],
    users: ArcSwap<Users>,
    tls: ArcSwapOption<ServerTls>,
    places: Mutex<HashMap<i32, (i32, Cancellation)>>,
    next_process: AtomicI32,
}

/// The part of a process number that says which node it is of.
fn node_bits(node: NodeId) -> i32 {
    let hash = node.0 ^ (node.0 >> 32);
    let hash = (hash ^ (hash >> 16)) & 0xfff;
    (hash as i32) << PROCESS_BITS
}

impl Shared {
    fn new(config: ServerConfig) -> Self {
        let limits = &config.limits;
        Self {
            statistics: Statistics::new(limits.slow_statement),
            spool: Spool::new(config.spool.clone(), limits.spool_per_result, limits.spool_total),
            large_messages: Arc::new(Semaphore::new(limits.large_messages / 1024)),
            shutdown: watch::Sender::new(false),
            secret: rand::random(),
            users: ArcSwap::default(),
            tls: ArcSwapOption::empty(),
            places: Mutex::default(),
            next_process: AtomicI32::new(0),
            config,
        }
    }

    pub fn users(&self) -> Arc<Users> {
        self.users.load_full()
    }

    /// What is shown to clients that ask for TLS now.
    pub fn tls(&self) -> Option<Arc<ServerTls>> {
        self.tls.load_full()
    }

    fn places(&self) -> MutexGuard<'_, HashMap<i32, (i32, Cancellation)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection, if one is left.
    pub fn place(self: &Arc<Self>) -> Option<Place> {
        let mut places = self.places();
        if places.len() >= self.config.limits.connections {
            return None;
        }
        let (secret, cancellation) = (rand::random(), Cancellation::default());
        let process = loop {
            let next = self.next_process.fetch_add(1, Ordering::Relaxed);
            let number = next & ((1 << PROCESS_BITS) - 1);
            let process = node_bits(self.config.node) | number;
            // Zero would say that there is no such process.
            if process != 0 && !places.contains_key(&process) {
                break process;
            }
        };
        places.insert(process, (secret, cancellation.clone()));
        drop(places);
        Some(Place { shared: self.clone(), process, secret, cancellation })
    }

    /// The copy on this node of a database's shard.
    pub fn local_shard(&self, database: &str) -> Option<Shard> {
        let directory = self.config.directory.borrow();
        directory.databases.get(database)?.shards.get(&0)?.local.clone()
    }

    /// Cancels what a connection does, here or on the node that it is on.
    pub async fn cancel(&self, process: i32, secret: i32) {
        let bits = process & !((1 << PROCESS_BITS) - 1);
        if bits == node_bits(self.config.node) {
            self.cancel_here(process, secret);
        }
        let directory = self.config.directory.borrow().clone();
        let others = directory.nodes.iter().filter(|node| **node != self.config.node);
        for node in others.filter(|node| node_bits(**node) == bits) {
            link::forward_cancel(&self.config, *node, process, secret).await;
        }
    }

    pub fn cancel_here(&self, process: i32, secret: i32) {
        let found = self.places().get(&process).cloned();
        if let Some((expected, cancellation)) = found
            && expected == secret
        {
            cancellation.cancel();
        }
    }
}

/// A connection's place among those that are allowed.
pub(crate) struct Place {
    shared: Arc<Shared>,
    process: i32,
    secret: i32,
    cancellation: Cancellation,
}

impl Place {
    pub fn process(&self) -> i32 {
        self.process
    }

    pub fn secret(&self) -> i32 {
        self.secret
    }

    pub fn cancellation(&self) -> Cancellation {
        self.cancellation.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.places().remove(&self.process);
    }
}

/// A thread that serves clients.
struct Worker {
    runtime: Handle,
    /// Connections that it serves now.
    load: Arc<AtomicUsize>,
    /// Ends the thread when dropped.
    _ends: oneshot::Sender<()>,
}

/// A running server. Dropping it ends it at once; see [`Server::stop`].
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    private: Option<SocketAddr>,
    workers: Arc<Vec<Worker>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Ends accepting when dropped.
    accepting: Mutex<Option<watch::Sender<()>>>,
}

impl Server {
    /// Listens and starts the threads. Nobody gets in before
    /// [`Server::set_users`], and TLS is declined before [`Server::set_tls`].
    ///
    /// # Errors
    /// A port that is taken, or no threads.
    pub fn start(config: ServerConfig) -> Result<Server, ServerError> {
        let limits = &config.limits;
        let doors = [
            (Some(config.listen), false, limits.connections + BEYOND),
            (config.listen_private, true, limits.strangers),
        ];
        let doors = doors.into_iter().filter_map(|(address, require_tls, unfinished)| {
            Some(Door::open(address?, require_tls, unfinished))
        });
        let doors = doors.collect::<Result<Vec<Door>, ServerError>>()?;
        let address = doors[0].address;
        let private = doors.get(1).map(|door| door.address);
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let count = if config.threads == 0 { cores() } else { config.threads };
        let shared = Arc::new(Shared::new(config));
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count {
            let (worker, thread) = start_worker(index).map_err(ServerError::Thread)?;
            workers.push(worker);
            threads.push(thread);
        }
        let workers = Arc::new(workers);
        let accepting = watch::Sender::new(());
        for door in doors {
            let (address, tls) =
                (door.address, if door.require_tls { "required" } else { "offered" });
            tracing::info!(role = "db", %address, tls, threads = count, "the database listens");
            // The task must not keep the workers whose thread it runs on.
            let loads = workers.iter().map(|w| (w.runtime.clone(), w.load.clone())).collect();
            let accepting = accept(shared.clone(), door, loads, accepting.subscribe());
            workers[0].runtime.spawn(accepting);
        }
        Ok(Server {
            shared,
            address,
            private,
            workers,
            threads: Mutex::new(threads),
            accepting: Mutex::new(Some(accepting)),
        })
    }

    /// Where it listens for programs on this machine; tells the port where 0 was
    /// asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for others.
    pub fn private_address(&self) -> Option<SocketAddr> {
        self.private
    }

    /// This is shown to clients that ask for TLS from now on. Connections that there
    /// are stay as they are.
    pub fn set_tls(&self, tls: ServerTls) {
        self.shared.tls.store(Some(Arc::new(tls)));
    }

    /// These may connect from now on. Connections of users who are gone stay.
    pub fn set_users(&self, records: Vec<UserRecord>) {
        self.shared.users.rcu(|users| users.replaced_by(records.clone()));
    }

    /// Counters and statements, for metrics and `ctl db top`.
    pub fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }

    /// Clients that are connected now.
    pub fn connections(&self) -> usize {
        self.shared.places().len()
    }

    /// Bytes of results that are in files now.
    pub fn spooled(&self) -> u64 {
        self.shared.spool.used()
    }

    /// Serves a stream of the kind of links that another node has opened.
    pub fn serve_stream(&self, peer: PeerIdentity, header: Bytes, stream: MeshStream) {
        let shared = self.shared.clone();
        let Some(worker) = self.workers.iter().min_by_key(|w| w.load.load(Ordering::Relaxed))
        else {
            return;
        };
        let load = worker.load.clone();
        load.fetch_add(1, Ordering::Relaxed);
        worker.runtime.spawn(async move {
            link::serve(shared, peer, header, stream).await;
            load.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Accepts nobody any more, tells the clients that the server ends, and waits
    /// until they are gone, at most for `patience`. Statements that run are waited
    /// for within it.
    pub async fn stop(self, patience: Duration) {
        drop(self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.shared.shutdown.send_replace(true);
        let until = Instant::now() + patience;
        while self.connections() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let Server { workers, threads, .. } = self;
        drop(workers);
        let threads = threads.into_inner().unwrap_or_else(PoisonError::into_inner);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        let _ = joined.await;
    }
}

/// An address that clients connect to.
struct Door {
    listener: std::net::TcpListener,
    address: SocketAddr,
    require_tls: bool,
    unfinished: Arc<Unfinished>,
}

impl Door {
    fn open(
        address: SocketAddr,
        require_tls: bool,
        unfinished: usize,
    ) -> Result<Self, ServerError> {
        let listener = listen(address).map_err(|source| ServerError::Listen { address, source })?;
        let address = listener.local_addr().unwrap_or(address);
        Ok(Self { listener, address, require_tls, unfinished: Unfinished::new(unfinished) })
    }
}

fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn start_worker(index: usize) -> std::io::Result<(Worker, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (ends, ended) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name(format!("rung-db-{index}")).spawn(move || {
        // An error says that the sender is gone, which is the end.
        let _ = runtime.block_on(ended);
        runtime.shutdown_background();
    })?;
    Ok((Worker { runtime: handle, load: Arc::default(), _ends: ends }, thread))
}

/// Accepts connections and gives each to the thread that has fewest. Connections
/// live long: sharing the port by SO_REUSEPORT would skew them for good.
async fn accept(
    shared: Arc<Shared>,
    door: Door,
    workers: Vec<(Handle, Arc<AtomicUsize>)>,
    mut ends: watch::Receiver<()>,
) {
    let Door { listener, unfinished, require_tls, .. } = door;
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(role = "db", %error, "the listener cannot be used");
            return;
        }
    };
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Only the end of the sender ends this.
            _ = ends.changed() => return,
        };
        let stream = match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => stream,
            Err(error) => {
                // Once for each time that it begins, since it may go on for long.
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(role = "db", %error, "connections are not accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        is_failing = false;
        let Some((worker, load)) =
            workers.iter().min_by_key(|(_, load)| load.load(Ordering::Relaxed))
        else {
            return;
        };
        // Those who have not proved who they are must not pile up either.
        let limit = shared.config.limits.connections + shared.config.limits.strangers + BEYOND;
        let all: usize = workers.iter().map(|(_, load)| load.load(Ordering::Relaxed)).sum();
        if all >= limit {
            count(&shared.statistics.counters.connections_refused);
            continue;
        }
        let entry = tokio::select! {
            entry = unfinished.enter() => entry,
            _ = ends.changed() => return,
        };
        load.fetch_add(1, Ordering::Relaxed);
        let (shared, load) = (shared.clone(), Load(load.clone()));
        worker.spawn(async move {
            let _load = load;
            let served =
                stream.set_nodelay(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
            if let Ok(stream) = served {
                wire::serve(shared, stream, entry, require_tls).await;
            }
        });
    }
}

/// Counts a connection for as long as it lives.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
