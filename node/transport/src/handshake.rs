//! From a UDP address to an authenticated link, on both sides.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::HandshakeData;
use rung_proto::NodeId;
use rustls_pki_types::CertificateDer;

use crate::frame::{
    Hello, LinkClass, MAX_HELLO, OLDEST_PROTOCOL, PROTOCOL, decode_hello, encode_hello,
};
use crate::identity::PeerIdentity;
use crate::lane::Lane;
use crate::link::{CloseCode, Link, LinkFacts, close};
use crate::mesh::Inner;
use crate::tls::explain;

/// A connection that both sides agreed to, with the streams of its lanes.
pub(crate) struct Greeted {
    pub link: Arc<Link>,
    /// In the order of [`Lane::index`]; empty on a bulk connection.
    pub lanes: Vec<(quinn::SendStream, quinn::RecvStream)>,
}

/// Connects to a node. Whoever answers at that address must prove to be it.
pub(crate) async fn connect(
    mesh: &Inner,
    node: NodeId,
    address: SocketAddr,
    class: LinkClass,
) -> Result<Greeted, String> {
    let config = mesh.client_config(class);
    let connecting = mesh
        .endpoint
        .connect_with(config, address, &PeerIdentity::server_name(node))
        .map_err(|error| error.to_string())?;
    let connection = connecting.await.map_err(|error| explain(&error))?;
    let greeted = greet(mesh, &connection, node, class).await;
    if let Err(why) = &greeted {
        close(&connection, CloseCode::Refused, why);
    }
    greeted
}

async fn greet(
    mesh: &Inner,
    connection: &quinn::Connection,
    node: NodeId,
    class: LinkClass,
) -> Result<Greeted, String> {
    let identity = identify(mesh, connection)?;
    if identity.node != node {
        return Err(format!("it is node {}, not {node}", identity.node));
    }
    mesh.authorise(&identity)?;
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| explain(&error))?;
    send.write_chunk(encode_hello(&mesh.hello(class, None)))
        .await
        .map_err(|error| explain_write(connection, &error))?;
    let answer = read_hello(connection, &mut recv).await?;
    if let Some(why) = answer.refused {
        return Err(format!("it refused us: {}", why.chars().take(300).collect::<String>()));
    }
    answer.check_protocol()?;
    let mut lanes = Vec::new();
    if class == LinkClass::Main {
        for lane in Lane::ALL {
            let (mut send, recv) = connection.open_bi().await.map_err(|error| explain(&error))?;
            // The peer does not see a stream before there are bytes in it.
            send.write_all(&[lane.index() as u8])
                .await
                .map_err(|error| explain_write(connection, &error))?;
            lanes.push((send, recv));
        }
    }
    Ok(Greeted { link: new_link(mesh, connection, identity, &answer, class, true), lanes })
}

/// Answers one who connected to us.
pub(crate) async fn accept(
    mesh: &Inner,
    connection: &quinn::Connection,
) -> Result<Greeted, String> {
    let identity = identify(mesh, connection)?;
    let (mut send, mut recv) = connection.accept_bi().await.map_err(|error| explain(&error))?;
    let hello = read_hello(connection, &mut recv).await?;
    let agreed = hello.check_protocol().and_then(|()| mesh.admit(&identity, hello.incarnation));
    let answer = mesh.hello(hello.class, agreed.clone().err());
    send.write_chunk(encode_hello(&answer))
        .await
        .map_err(|error| explain_write(connection, &error))?;
    // It fails only when the peer has reset the stream.
    let _ = send.finish();
    if let Err(why) = agreed {
        // The answer says more than a close could, so it must arrive first.
        connection.closed().await;
        return Err(why);
    }
    let lanes = match hello.class {
        LinkClass::Main => accept_lanes(connection).await?,
        LinkClass::Bulk => Vec::new(),
    };
    Ok(Greeted { link: new_link(mesh, connection, identity, &hello, hello.class, false), lanes })
}

async fn accept_lanes(
    connection: &quinn::Connection,
) -> Result<Vec<(quinn::SendStream, quinn::RecvStream)>, String> {
    let mut lanes = [None, None];
    for _ in Lane::ALL {
        let (send, mut recv) = connection.accept_bi().await.map_err(|error| explain(&error))?;
        let mut tag = [0; 1];
        recv.read_exact(&mut tag).await.map_err(|error| format!("a lane broke: {error}"))?;
        match lanes.get_mut(usize::from(tag[0])) {
            Some(place @ None) => *place = Some((send, recv)),
            _ => return Err(format!("lane {} is unknown or there already", tag[0])),
        }
    }
    Ok(lanes.into_iter().flatten().collect())
}

fn new_link(
    mesh: &Inner,
    connection: &quinn::Connection,
    identity: PeerIdentity,
    hello: &Hello,
    class: LinkClass,
    dialled: bool,
) -> Arc<Link> {
    let facts = LinkFacts {
        identity,
        incarnation: hello.incarnation,
        generation: hello.generation,
        class,
        dialled,
    };
    Link::new(connection.clone(), facts, mesh.limits.queue_bytes)
}

/// Who the certificate says the peer is. TLS has verified the certificate.
fn identify(mesh: &Inner, connection: &quinn::Connection) -> Result<PeerIdentity, String> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or("a certificate of the cluster is required")?;
    let leaf = chain.first().ok_or("a certificate of the cluster is required")?;
    let identity = PeerIdentity::from_certificate(leaf).map_err(|error| error.to_string())?;
    if identity.cluster != mesh.me.cluster {
        return Err(format!(
            "it belongs to cluster {}, this node to {}",
            identity.cluster, mesh.me.cluster
        ));
    }
    if identity.node == mesh.me.node {
        return Err(format!(
            "node {} is this node itself: a copy of its data directory may be running",
            identity.node
        ));
    }
    Ok(identity)
}

/// The protocol that both sides agreed on in TLS.
pub(crate) fn alpn(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

async fn read_hello(
    connection: &quinn::Connection,
    recv: &mut quinn::RecvStream,
) -> Result<Hello, String> {
    let broken = |error: quinn::ReadExactError| match error {
        quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error)) => {
            explain(&error)
        }
        other => connection.close_reason().map_or(other.to_string(), |reason| explain(&reason)),
    };
    let mut length = [0; 2];
    recv.read_exact(&mut length).await.map_err(broken)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_HELLO {
        return Err(format!("a greeting of {length} bytes is over the limit of {MAX_HELLO}"));
    }
    let mut bytes = vec![0; length];
    recv.read_exact(&mut bytes).await.map_err(broken)?;
    decode_hello(&bytes).map_err(|error| error.to_string())
}

fn explain_write(connection: &quinn::Connection, error: &quinn::WriteError) -> String {
    connection.close_reason().map_or(error.to_string(), |reason| explain(&reason))
}

impl Inner {
    fn hello(&self, class: LinkClass, refused: Option<String>) -> Hello {
        Hello {
            protocol: PROTOCOL,
            oldest_protocol: OLDEST_PROTOCOL,
            class,
            incarnation: self.incarnation,
            generation: self.generation(),
            refused,
        }
    }
}
