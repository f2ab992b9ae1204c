//! The two listeners and their connections.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rung_proto::{Code, Failure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::backend::Backend;
use crate::follow::Streams;
use crate::respond::Reply;
use crate::session::Sessions;
use crate::{local, peer, public, socket, upload};

/// How much this server takes on. The defaults suit a node.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections on the unix socket, and as many on the TCP port.
    pub connections: usize,
    /// Streams that follow something.
    pub streams: usize,
    /// Changes that run at once; more are refused.
    pub changes: usize,
    /// Bundles uploaded at once; more are refused.
    pub uploads: usize,
    pub bundle_bytes: u64,
    /// Any other body.
    pub body_bytes: usize,
    /// From the opening of a connection, or its last answer, to a whole head.
    pub head: Duration,
    /// How long a connection to the TCP port may live; then it ends between two
    /// requests, or is cut off. Browsers connect again by themselves.
    pub lifetime: Duration,
    /// A client that neither sends nor takes anything for as long is cut off.
    pub stalled: Duration,
    /// A question to the backend.
    pub read: Duration,
    /// A change; after it the outcome is unknown.
    pub change: Duration,
    /// The checking and storing of a bundle that was received.
    pub store: Duration,
    /// A backup of a database, or a restore.
    pub backup: Duration,
    /// What connections get to finish when the server stops.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            streams: 64,
            changes: 32,
            uploads: 2,
            bundle_bytes: 512 * 1024 * 1024,
            body_bytes: 1024 * 1024,
            head: Duration::from_secs(10),
            lifetime: Duration::from_secs(60),
            stalled: Duration::from_secs(30),
            read: Duration::from_secs(10),
            change: Duration::from_secs(30),
            store: Duration::from_secs(5 * 60),
            backup: Duration::from_secs(2 * 3600),
            stop: Duration::from_secs(2),
        }
    }
}

/// Where the server listens.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// The directory that gets `admin.sock`: the data directory.
    pub socket_dir: PathBuf,
    /// Where uploaded bundles wait to be checked; on the file system of the
    /// bundle store, so that they can be moved there.
    pub upload_dir: PathBuf,
    /// The TCP address, port 7401 unless configured otherwise.
    pub tcp: SocketAddr,
    /// Names beside IP addresses and `localhost` that a browser may use for this
    /// node. Any other is refused, as a DNS rebinding attack would use it.
    pub names: Vec<String>,
    pub limits: Limits,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Socket(#[from] socket::SocketError),
    #[error("cannot listen on {address}: {source}")]
    Port { address: SocketAddr, source: io::Error },
    #[error("cannot use {path} for uploads: {source}")]
    Uploads { path: PathBuf, source: io::Error },
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let failure = match &error {
            StartError::Socket(socket::SocketError::InUse { .. }) => {
                Failure::new(Code::DataInUse, "another node runs on this data directory")
                    .next("stop it, or start this one on another directory")
            }
            StartError::Port { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Failure::new(Code::PortTaken, "the admin port is taken")
                    .next("stop what listens there, or choose another address with --bind")
            }
            _ => Failure::new(Code::Config, "the admin API cannot listen"),
        };
        failure.because(error)
    }
}

/// What every connection needs.
pub struct Shared {
    pub backend: Arc<dyn Backend>,
    pub config: AdminConfig,
    /// The TCP address as it was bound.
    pub tcp: SocketAddr,
    pub streams: Streams,
    pub changes: Arc<Semaphore>,
    pub uploads: Semaphore,
    sessions: Mutex<Sessions>,
    pub local_requests: AtomicU64,
    pub public_requests: AtomicU64,
}

impl Shared {
    /// Uses the sessions. A panic cannot leave them half changed.
    pub fn with_sessions<T>(&self, use_them: impl FnOnce(&mut Sessions) -> T) -> T {
        let mut sessions = self.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        use_them(&mut sessions)
    }
}

/// A running server.
pub struct AdminServer {
    tcp: SocketAddr,
    socket_dir: PathBuf,
    stop: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
}

impl AdminServer {
    /// Listens and serves, on the current tokio runtime.
    ///
    /// # Errors
    /// When one of the two addresses cannot be listened on.
    pub async fn start(config: AdminConfig, backend: Arc<dyn Backend>) -> Result<Self, StartError> {
        upload::prepare(&config.upload_dir)
            .map_err(|source| StartError::Uploads { path: config.upload_dir.clone(), source })?;
        let port = |source| StartError::Port { address: config.tcp, source };
        let tcp_listener = TcpListener::bind(config.tcp).await.map_err(port)?;
        let tcp = tcp_listener.local_addr().map_err(port)?;
        let unix_listener = socket::listen(&config.socket_dir)?;
        let unix_listener = UnixListener::from_std(unix_listener).map_err(|source| {
            socket::SocketError::Io { path: config.socket_dir.join(socket::FILE_NAME), source }
        })?;
        let (stop, stopped) = watch::channel(false);
        let limits = &config.limits;
        let shared = Arc::new(Shared {
            backend,
            tcp,
            streams: Streams::new(limits.streams, limits.stalled, stopped.clone()),
            changes: Arc::new(Semaphore::new(limits.changes)),
            uploads: Semaphore::new(limits.uploads),
            sessions: Mutex::new(Sessions::new()),
            local_requests: AtomicU64::new(0),
            public_requests: AtomicU64::new(0),
            config: config.clone(),
        });
        let listeners = vec![
            tokio::spawn(serve_unix(unix_listener, Arc::clone(&shared), stopped.clone())),
            tokio::spawn(serve_tcp(tcp_listener, shared, stopped)),
        ];
        tracing::info!(%tcp, socket = %config.socket_dir.display(), "admin API listens");
        Ok(Self { tcp, socket_dir: config.socket_dir, stop, listeners })
    }

    /// The TCP address that strangers and browsers use.
    pub fn tcp_addr(&self) -> SocketAddr {
        self.tcp
    }

    /// Takes no more connections, lets the running requests finish for a moment,
    /// and removes the socket.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for listener in self.listeners {
            // A listener that panicked has no connections left to wait for.
            let _ = listener.await;
        }
        if let Err(error) = socket::remove(&self.socket_dir) {
            tracing::warn!(%error, "the admin socket could not be removed");
        }
    }
}

/// The address under which a browser on this machine or network finds the port.
pub fn browser_address(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

/// Awaits an answer of the backend, but not for ever.
///
/// # Errors
/// The backend's own, or [`Code::Unreachable`] when it takes too long.
pub async fn within<T>(
    deadline: Duration,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| {
        Err(Failure::new(Code::Unreachable, "the node did not answer in time")
            .because(format!("waited {} s", deadline.as_secs()))
            .next("try again, or ask another node"))
    })
}

/// Returns when the server stops or was dropped.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve_unix(listener: UnixListener, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        let user = peer::user_of(&stream);
        Ok((stream, user))
    };
    // Operators' streams last as long as they look.
    let limits = Limits { lifetime: Duration::MAX, ..shared.config.limits.clone() };
    let handle = move |user: String, request| {
        let shared = Arc::clone(&shared);
        async move {
            shared.local_requests.fetch_add(1, Ordering::Relaxed);
            local::handle(&shared, &user, request).await
        }
    };
    accept_loop(accept, handle, &limits, stop).await;
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        Ok((stream, ()))
    };
    let limits = shared.config.limits.clone();
    let handle = move |(): (), request| {
        let shared = Arc::clone(&shared);
        async move {
            shared.public_requests.fetch_add(1, Ordering::Relaxed);
            public::handle(&shared, request).await
        }
    };
    accept_loop(accept, handle, &limits, stop).await;
}

/// Accepts connections, each with what is known of its peer, and serves them.
async fn accept_loop<S, P, A, AF, H, HF>(
    accept: A,
    handle: H,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Clone + Send + Sync + 'static,
    A: Fn() -> AF,
    AF: Future<Output = io::Result<(S, P)>>,
    H: Fn(P, Request<Incoming>) -> HF + Clone + Send + Sync + 'static,
    HF: Future<Output = Reply> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = stopped(&mut stop) => break,
        };
        let Ok(permit) = permit else { break };
        match accepted {
            Ok((stream, peer)) => {
                let handle = handle.clone();
                let answer = move |request| handle(peer.clone(), request);
                connections.spawn(serve(stream, answer, limits.clone(), stop.clone(), permit));
            }
            Err(error) => {
                // Out of descriptors, most likely: give connections time to end.
                tracing::warn!(%error, "the admin API cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(accept);
    let finish = async { while connections.join_next().await.is_some() {} };
    // Dropping the set ends what did not finish.
    let _ = tokio::time::timeout(limits.stop, finish).await;
}

async fn serve<S, H, HF>(
    stream: S,
    answer: H,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> HF,
    HF: Future<Output = Reply> + Send + 'static,
{
    let service = service_fn(|request| {
        let reply = answer(request);
        async move { Ok::<_, std::convert::Infallible>(reply.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(64)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = stopped(&mut stop) => None,
        () = tokio::time::sleep(limits.lifetime) => None,
    };
    let result = match ended {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            let rest = tokio::time::timeout(limits.stalled, connection).await;
            rest.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an admin connection ended early");
    }
}
