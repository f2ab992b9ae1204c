//! A data-plane thread: its listeners, its connections and its upkeep.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use crate::config::LbError;
use crate::instance::Instance;
use crate::metrics::count;
use crate::proxy::Session;
use crate::rewrite::ForwardedBy;
use crate::shared::{Shared, Worker};
use crate::stream::Stream;
use crate::upstream::Connection;
use crate::{http1_front, http2_front};

/// Upkeep: lines of the log are handed over, idle connections looked after.
const UPKEEP: Duration = Duration::from_millis(500);
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
/// A pause after the process ran out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the handle asks of a thread.
pub(crate) enum Command {
    /// These get no new requests: close what is kept for them, then say so.
    Retire(Arc<Vec<Arc<Instance>>>, oneshot::Sender<()>),
    /// Accept nothing more.
    StopListening(oneshot::Sender<()>),
    /// End; what is still open is cut off.
    End,
}

/// The listeners of one thread.
pub(crate) struct Listeners {
    pub http: std::net::TcpListener,
    pub https: Option<std::net::TcpListener>,
}

/// Binds `address` once for each thread, so that the kernel spreads connections
/// over them.
pub(crate) fn listen(
    address: SocketAddr,
    threads: usize,
) -> Result<Vec<std::net::TcpListener>, LbError> {
    let error = |source| LbError::Listen { address, source };
    // Sockets that share a port do not notice another program that shares it
    // too. One that does not share it does.
    let probe = bind(address, false).map_err(error)?;
    let bound = probe.local_addr().map_err(error)?.as_socket().unwrap_or(address);
    drop(probe);
    (0..threads)
        .map(|_| {
            let socket = bind(bound, true).map_err(error)?;
            socket.listen(BACKLOG).map_err(error)?;
            Ok(socket.into())
        })
        .collect()
}

fn bind(address: SocketAddr, shared: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Runs a thread until it is told to end.
pub(crate) async fn run(
    worker: Arc<Worker>,
    listeners: Listeners,
    tls: Option<TlsAcceptor>,
    mut commands: mpsc::Receiver<Command>,
) -> std::io::Result<()> {
    let mut http = Some(TcpListener::from_std(listeners.http)?);
    let mut https = listeners.https.map(TcpListener::from_std).transpose()?;
    let mut upkeep = tokio::time::interval(UPKEEP);
    upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Retire(instances, done)) => {
                    for instance in instances.iter() {
                        instance.prune_idle(worker.index, |_| false);
                    }
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                }
                Some(Command::StopListening(done)) => {
                    (http, https) = (None, None);
                    let _ = done.send(());
                }
                Some(Command::End) | None => {
                    hand_over_log(&worker);
                    return Ok(());
                }
            },
            accepted = accept(&http), if http.is_some() => {
                take(&worker, accepted, None).await;
            }
            accepted = accept(&https), if https.is_some() => {
                take(&worker, accepted, tls.clone()).await;
            }
            _ = upkeep.tick() => {
                hand_over_log(&worker);
                let now = Instant::now();
                for instance in worker.shared.instances() {
                    instance.prune_idle(worker.index, |idle| !Connection::is_over(idle, now));
                }
            }
        }
    }
}

async fn accept(listener: &Option<TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn hand_over_log(worker: &Worker) {
    if let Some(sender) = &worker.shared.log {
        worker.log.lock().unwrap_or_else(PoisonError::into_inner).hand_over(sender);
    }
}

async fn take(
    worker: &Arc<Worker>,
    accepted: std::io::Result<(TcpStream, SocketAddr)>,
    tls: Option<TlsAcceptor>,
) {
    let shared = &worker.shared;
    match accepted {
        Ok((stream, client)) => {
            count(&shared.totals.accepted);
            let Some(slot) = ConnectionSlot::take(shared) else {
                count(&shared.totals.refused);
                return;
            };
            // Without it a small response would wait for an acknowledgement; a
            // client that is already gone does not mind.
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve_connection(worker.clone(), stream, client, tls, slot));
        }
        Err(error) => {
            // Out of file descriptors or memory: accepting again at once would
            // only spin.
            tracing::warn!(role = "lb", %error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn serve_connection(
    worker: Arc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    tls: Option<TlsAcceptor>,
    _slot: ConnectionSlot,
) {
    let forwarded = Arc::new(ForwardedBy::new(client.ip(), tls.is_some()));
    let Some(acceptor) = tls else {
        let session = Session::new(client.ip(), forwarded, None);
        return http1_front::run(worker, session, Stream::Tcp(stream)).await;
    };
    let limit = worker.shared.config.timeouts.client_head;
    let Ok(Ok(stream)) = tokio::time::timeout(limit, acceptor.accept(stream)).await else {
        count(&worker.shared.totals.tls_failures);
        return;
    };
    let (_, connection) = stream.get_ref();
    let server_name = connection.server_name().map(|name| Arc::from(name.to_ascii_lowercase()));
    let http2 = connection.alpn_protocol() == Some(b"h2");
    let stream = Stream::Tls(Box::new(stream));
    if http2 {
        Box::pin(http2_front::run(worker, client.ip(), forwarded, server_name, stream)).await;
    } else {
        let session = Session::new(client.ip(), forwarded, server_name);
        http1_front::run(worker, session, stream).await;
    }
}

/// One of the connections that are allowed at once.
struct ConnectionSlot(Arc<Shared>);

impl ConnectionSlot {
    fn take(shared: &Arc<Shared>) -> Option<ConnectionSlot> {
        let slot = ConnectionSlot(shared.clone());
        let before = shared.connections.fetch_add(1, Relaxed);
        // Too many: dropping the slot counts back.
        (before < shared.config.limits.connections).then_some(slot)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}
