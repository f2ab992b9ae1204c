//! The UDP endpoint: opening it, accepting and making connections, and watching
//! them until they end.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn::Runtime;
use ring::hmac;
use tokio::sync::Semaphore;

use crate::error::MeshError;
use crate::frame::LinkClass;
use crate::handshake::{self, Greeted};
use crate::lane::Lane;
use crate::link::{CloseCode, Link, close};
use crate::mesh::{Inner, MeshConfig, MeshLimits};
use crate::peer::Peer;
use crate::shape::{LinkShapes, ShapedSocket};
use crate::tls::{self, Credentials};
use crate::{join, serve};

/// Larger UDP payloads than this hang together with segmentation offload.
const MAX_MTU: u16 = 6500;
/// What a connection may send before it proved to come from a node.
const STRANGER_WINDOW: u32 = 256 * 1024;
const STRANGER_STREAMS: u32 = 4;
/// Frame lengths are `u32`; no limit may come near that.
const MAX_FRAME_LIMIT: usize = 64 * 1024 * 1024;

pub(crate) struct EndpointParts {
    pub endpoint: quinn::Endpoint,
    pub local_addr: SocketAddr,
    pub credentials: Arc<Credentials>,
    pub client_main: quinn::ClientConfig,
    pub client_bulk: quinn::ClientConfig,
}

pub(crate) fn open(
    config: &MeshConfig,
    shapes: &Arc<LinkShapes>,
    runtime: &tokio::runtime::Handle,
) -> Result<EndpointParts, MeshError> {
    if config.limits.max_frame > MAX_FRAME_LIMIT {
        return Err(MeshError::Limits(format!(
            "frames of {} bytes are over {MAX_FRAME_LIMIT}",
            config.limits.max_frame
        )));
    }
    let credentials = Credentials::new(&config.identity)?;
    let server = server_config(config, credentials.clone())?;
    let tls = Arc::new(tls::client_config(&config.identity, credentials.clone())?);
    let client = |class| -> Result<quinn::ClientConfig, MeshError> {
        let mut client = quinn::ClientConfig::new(tls.clone());
        client.transport_config(Arc::new(transport(&config.limits, Some(class))?));
        Ok(client)
    };
    let (client_main, client_bulk) = (client(LinkClass::Main)?, client(LinkClass::Bulk)?);
    let failed = |source| MeshError::Bind { address: config.bind, source };
    let socket = UdpSocket::bind(config.bind).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let socket = quinn::TokioRuntime.wrap_udp_socket(socket).map_err(failed)?;
    runtime.spawn(shapes.clone().pump(socket.clone()));
    let endpoint = quinn::Endpoint::new_with_abstract_socket(
        endpoint_config(config.identity.secret_key()),
        Some(server),
        Arc::new(ShapedSocket::new(socket, shapes.clone())),
        Arc::new(quinn::TokioRuntime),
    )
    .map_err(failed)?;
    let local_addr = endpoint.local_addr().map_err(failed)?;
    Ok(EndpointParts { endpoint, local_addr, credentials, client_main, client_bulk })
}

/// Random connection ids of eight bytes. Quinn's own generator recognises only
/// ids of its own process; after a restart it would stay silent where a reset
/// tells the peer at once that its connection is gone.
struct ConnectionIds;

impl quinn::ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn endpoint_config(secret_key: &[u8]) -> quinn::EndpointConfig {
    // Made from the node's key, so that a restarted node can reset the
    // connections of its former process (RFC 9000, section 10.3).
    let seed = hmac::Key::new(hmac::HMAC_SHA256, secret_key);
    let reset_key = hmac::sign(&seed, b"rung stateless reset");
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, reset_key.as_ref());
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(|| Box::new(ConnectionIds));
    config.max_udp_payload_size(MAX_MTU).expect("the constant is within QUIC's bounds");
    config
}

fn server_config(
    config: &MeshConfig,
    credentials: Arc<Credentials>,
) -> Result<quinn::ServerConfig, MeshError> {
    let tls = tls::server_config(&config.identity, credentials)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    server.transport_config(Arc::new(transport(&config.limits, None)?));
    // Nodes find each other by their address book; a connection does not move.
    server.migration(false);
    server.max_incoming(config.limits.max_handshakes);
    server.incoming_buffer_size(64 * 1024);
    server.incoming_buffer_size_total(4 * 1024 * 1024);
    Ok(server)
}

/// Without a class it is for one who has not yet said who he is.
fn transport(
    limits: &MeshLimits,
    class: Option<LinkClass>,
) -> Result<quinn::TransportConfig, MeshError> {
    let mut transport = quinn::TransportConfig::default();
    let idle = quinn::IdleTimeout::try_from(limits.idle_timeout)
        .map_err(|error| MeshError::Limits(error.to_string()))?;
    transport.max_idle_timeout(Some(idle));
    transport.stream_receive_window(limits.stream_window.into());
    transport.send_window(limits.send_window);
    transport.max_concurrent_uni_streams(0u32.into());
    transport.datagram_send_buffer_size(256 * 1024);
    transport.datagram_receive_buffer_size(Some(256 * 1024));
    // Nodes of a cluster are nearer than the usual guess of 333 ms, which would
    // make a lost first packet cost a second.
    transport.initial_rtt(Duration::from_millis(100));
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_MTU);
    transport.mtu_discovery_config(Some(discovery));
    // What is received is acknowledged with what is sent, and by itself no more often than
    // every tenth packet: nodes answer each other, and a packet costs as much as its content.
    let mut acknowledgements = quinn::AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(10u32.into());
    transport.ack_frequency_config(Some(acknowledgements));
    match class {
        Some(class) => {
            transport.receive_window(limits.connection_window.into());
            transport.max_concurrent_bidi_streams(stream_limit(limits, class).into());
            // One side is enough: the answers keep the other side alive too.
            transport.keep_alive_interval(Some(limits.keep_alive));
        }
        None => {
            transport.receive_window(STRANGER_WINDOW.into());
            transport.max_concurrent_bidi_streams(STRANGER_STREAMS.into());
        }
    }
    Ok(transport)
}

fn stream_limit(limits: &MeshLimits, class: LinkClass) -> u32 {
    match class {
        LinkClass::Main => STRANGER_STREAMS,
        LinkClass::Bulk => limits.max_streams,
    }
}

/// Accepts connections until the endpoint is closed.
pub(crate) async fn accept_all(mesh: Arc<Inner>) {
    let handshakes = Arc::new(Semaphore::new(mesh.limits.max_handshakes));
    while let Some(incoming) = mesh.endpoint.accept().await {
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            mesh.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
            incoming.ignore();
            continue;
        };
        let mesh = mesh.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let address = incoming.remote_address();
            if let Err(why) = accept_one(&mesh, incoming).await {
                mesh.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(node = %mesh.me.node, peer = %address, %why, "connection refused");
            }
        });
    }
}

async fn accept_one(mesh: &Arc<Inner>, incoming: quinn::Incoming) -> Result<(), String> {
    let limit = mesh.limits.connect_timeout;
    let too_slow = |_| "it took too long".to_owned();
    let connecting = incoming.accept().map_err(|error| tls::explain(&error))?;
    let connection = tokio::time::timeout(limit, connecting)
        .await
        .map_err(too_slow)?
        .map_err(|error| tls::explain(&error))?;
    match handshake::alpn(&connection).as_deref() {
        Some(tls::ALPN_JOIN) => {
            // It runs under its own bounds, not under that of handshakes.
            tokio::spawn(join::serve(mesh.clone(), connection));
            return Ok(());
        }
        Some(tls::ALPN_MESH) => {}
        _ => return Err("no protocol was agreed on".to_owned()),
    }
    let greeted = tokio::time::timeout(limit, handshake::accept(mesh, &connection)).await;
    let greeted = greeted.map_err(too_slow).and_then(|greeted| greeted);
    let adopted = greeted.and_then(|greeted| {
        connection.set_receive_window(mesh.limits.connection_window.into());
        let streams = stream_limit(&mesh.limits, greeted.link.class);
        connection.set_max_concurrent_bi_streams(streams.into());
        let peer =
            mesh.peer_or_new(greeted.link.identity.node).ok_or("there are too many nodes")?;
        adopt(mesh, &peer, greeted)
    });
    if let Err(why) = &adopted {
        close(&connection, CloseCode::Refused, why);
    }
    adopted
}

/// Connects to a peer, after the pause that earlier failures demand.
pub(crate) async fn dial(mesh: Arc<Inner>, peer: Arc<Peer>, class: LinkClass) {
    tokio::time::sleep_until(peer.next_attempt(class).into()).await;
    let Some(address) = peer.dial_target(class) else {
        return;
    };
    let limit = mesh.limits.connect_timeout;
    let connecting = handshake::connect(&mesh, peer.node, address, class);
    let greeted = tokio::time::timeout(limit, connecting)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
    let adopted = greeted.and_then(|greeted| {
        let link = greeted.link.clone();
        adopt(&mesh, &peer, greeted).inspect_err(|why| link.close(CloseCode::Refused, why))
    });
    if let Err(why) = adopted {
        tracing::debug!(node = %mesh.me.node, peer = %peer.node, %address, %why, "no connection");
        peer.dial_failed(class, &format!("{address}: {why}"), &mesh.limits);
    }
}

/// Takes a connection into use.
fn adopt(mesh: &Arc<Inner>, peer: &Arc<Peer>, greeted: Greeted) -> Result<(), String> {
    let Greeted { link, lanes } = greeted;
    mesh.shapes.learn(link.connection.remote_address(), &link.identity.dc);
    mesh.meet_generation(link.generation);
    for old in peer.install(&link)? {
        old.close(CloseCode::Superseded, "another connection took its place");
    }
    mesh.connections.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(
        node = %mesh.me.node, peer = %peer.node, incarnation = %link.incarnation,
        class = ?link.class, dialled = link.dialled, "connected"
    );
    for (lane, (send, recv)) in Lane::ALL.into_iter().zip(lanes) {
        let writer = link.clone();
        tokio::spawn(async move { writer.outbox(lane).write_to(send).await });
        tokio::spawn(serve::read_lane(mesh.clone(), peer.clone(), link.clone(), lane, recv));
    }
    match link.class {
        LinkClass::Main => tokio::spawn(serve::read_datagrams(mesh.clone(), link.clone())),
        LinkClass::Bulk => tokio::spawn(serve::accept_streams(mesh.clone(), link.clone())),
    };
    tokio::spawn(watch(mesh.clone(), peer.clone(), link));
    Ok(())
}

/// Waits for the end of a connection and cleans up after it.
async fn watch(mesh: Arc<Inner>, peer: Arc<Peer>, link: Arc<Link>) {
    let reason = link.connection.closed().await;
    mesh.connections.fetch_sub(1, Ordering::Relaxed);
    let was_last = peer.link_ended(&link);
    tracing::debug!(
        node = %mesh.me.node, peer = %peer.node, class = ?link.class,
        why = %tls::explain(&reason), "connection ended"
    );
    if was_last && link.class == LinkClass::Main {
        // It is a hint; whoever is too busy to take it has others.
        let _ = mesh.handlers.closed.try_send(link.identity.clone());
    }
}
