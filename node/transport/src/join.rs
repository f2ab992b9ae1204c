//! Joining: one request and one answer with a node that has no certificate yet.
//!
//! The joining side sends its request and ends its direction; the answer is a
//! byte (0 accepted, 1 refused) and the handler's bytes or a [`Failure`].

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use rung_proto::{Code, Failure, encoding};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::JoinError;
use crate::link::{CloseCode, close};
use crate::mesh::{Inner, MeshLimits};
use crate::sync::lock;
use crate::tls::{PinFailure, PinVerifier, explain, join_config};

/// The largest join request, in bytes.
pub const MAX_JOIN_REQUEST: usize = 64 * 1024;
/// The largest answer to a join request, in bytes. It holds certificates and
/// the address book of the cluster.
pub const MAX_JOIN_ANSWER: usize = 1024 * 1024;

const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;
/// The seed may be any node, so the name in TLS says nothing.
const SEED_NAME: &str = "seed.rung";

/// Bounds joins in number and rate: a stranger can cause them.
pub(crate) struct JoinGate {
    /// Connections of joining nodes, also those that have not asked yet.
    connections: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    bucket: Mutex<TokenBucket>,
}

impl JoinGate {
    pub(crate) fn new(limits: &MeshLimits) -> Self {
        let bucket = TokenBucket::new(limits.joins_per_second, Instant::now());
        Self {
            connections: Arc::new(Semaphore::new(limits.max_joins.saturating_mul(4))),
            slots: Arc::new(Semaphore::new(limits.max_joins)),
            bucket: Mutex::new(bucket),
        }
    }

    fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let slot = self.slots.clone().try_acquire_owned().ok()?;
        lock(&self.bucket).take(Instant::now()).then_some(slot)
    }
}

/// Lets through `rate` a second, and one second's worth at once.
struct TokenBucket {
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    fn new(rate: f64, now: Instant) -> Self {
        let rate = rate.max(0.0);
        Self { rate, tokens: rate.max(1.0), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.at = now;
        self.tokens = (self.tokens + gained).min(self.rate.max(1.0));
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// Answers one join request.
pub(crate) async fn serve(mesh: Arc<Inner>, connection: quinn::Connection) {
    let Ok(_place) = mesh.joins.connections.clone().try_acquire_owned() else {
        close(&connection, CloseCode::Refused, "too many nodes are joining at this moment");
        return;
    };
    let limit = mesh.limits.join_timeout;
    if tokio::time::timeout(limit, exchange(&mesh, &connection)).await.is_err() {
        let address = connection.remote_address();
        tracing::debug!(node = %mesh.me.node, peer = %address, "a join took too long");
    }
    close(&connection, CloseCode::Done, "the exchange is over");
}

async fn exchange(mesh: &Inner, connection: &quinn::Connection) {
    let limit = mesh.limits.connect_timeout;
    let Ok(Ok((mut send, mut recv))) = tokio::time::timeout(limit, connection.accept_bi()).await
    else {
        return;
    };
    let request = tokio::time::timeout(limit, recv.read_to_end(MAX_JOIN_REQUEST)).await;
    let answer = match request {
        Ok(Ok(request)) => decide(mesh, request.into(), connection.remote_address()).await,
        Ok(Err(error)) => {
            Err(Failure::new(Code::Usage, "the join request is not readable").because(error))
        }
        Err(_) => Err(Failure::new(Code::Usage, "the join request did not arrive in time")),
    };
    if send.write_chunk(encode_answer(&answer)).await.is_ok() {
        // Fails only when the stream was reset, and then nobody listens.
        let _ = send.finish();
        let _ = send.stopped().await;
    }
}

async fn decide(mesh: &Inner, request: Bytes, address: SocketAddr) -> Result<Bytes, Failure> {
    let Some(_slot) = mesh.joins.enter() else {
        return Err(Failure::new(Code::Overloaded, "too many nodes are joining at this moment")
            .next("try again in a few seconds"));
    };
    let answer = (mesh.handlers.join)(request, address).await?;
    if answer.len() >= MAX_JOIN_ANSWER {
        let why = format!("it has {} bytes, more than {MAX_JOIN_ANSWER}", answer.len());
        return Err(Failure::new(Code::Internal, "the answer does not fit").because(why));
    }
    Ok(answer)
}

fn encode_answer(answer: &Result<Bytes, Failure>) -> Bytes {
    let mut out = BytesMut::new();
    match answer {
        Ok(body) => {
            out.put_u8(ACCEPTED);
            out.put_slice(body);
        }
        Err(failure) => {
            out.put_u8(REFUSED);
            out.put_slice(&encoding::encode(failure));
        }
    }
    out.freeze()
}

/// Reads the answer to a join request.
///
/// # Errors
/// [`JoinError::Refused`] when that is what it says, [`JoinError::NoAnswer`]
/// when it cannot be read.
pub fn parse_join_answer(bytes: &[u8]) -> Result<Bytes, JoinError> {
    match bytes.split_first() {
        Some((&ACCEPTED, body)) => Ok(Bytes::copy_from_slice(body)),
        Some((&REFUSED, body)) => match encoding::decode::<Failure>(body) {
            Ok(failure) => Err(JoinError::Refused(failure)),
            Err(error) => Err(JoinError::NoAnswer(error.to_string())),
        },
        _ => Err(JoinError::NoAnswer("its answer is malformed".into())),
    }
}

/// Asks a node of the cluster to be let in, before we have a certificate. The
/// request is sent only after the seed has proved to belong to the cluster whose
/// CA certificate has that SHA-256.
///
/// # Errors
/// See [`JoinError`].
pub async fn join_request(
    seed: SocketAddr,
    ca_hash: [u8; 32],
    request: Bytes,
    deadline: Duration,
) -> Result<Bytes, JoinError> {
    if request.len() > MAX_JOIN_REQUEST {
        return Err(JoinError::TooLarge { size: request.len(), limit: MAX_JOIN_REQUEST });
    }
    let until = tokio::time::Instant::now() + deadline;
    let verifier = PinVerifier::new(ca_hash);
    let endpoint = client_endpoint(seed, verifier.clone()).map_err(JoinError::Unreachable)?;
    let connecting = connect(&endpoint, seed, &verifier);
    let connection = tokio::time::timeout_at(until, connecting)
        .await
        .map_err(|_| JoinError::Unreachable(format!("no answer within {deadline:?}")))??;
    let answer = tokio::time::timeout_at(until, ask(&connection, request))
        .await
        .map_err(|_| JoinError::NoAnswer(format!("nothing came within {deadline:?}")))?;
    close(&connection, CloseCode::Done, "the exchange is over");
    // So that the close is sent before the socket goes.
    let _ = tokio::time::timeout(Duration::from_millis(200), endpoint.wait_idle()).await;
    answer
}

fn client_endpoint(
    seed: SocketAddr,
    verifier: Arc<PinVerifier>,
) -> Result<quinn::Endpoint, String> {
    let any = match seed {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let mut endpoint = quinn::Endpoint::client(any).map_err(|error| error.to_string())?;
    let tls = join_config(verifier).map_err(|error| error.to_string())?;
    let mut transport = quinn::TransportConfig::default();
    transport.initial_rtt(Duration::from_millis(100));
    transport.max_concurrent_bidi_streams(0u32.into());
    transport.max_concurrent_uni_streams(0u32.into());
    transport.keep_alive_interval(Some(Duration::from_secs(2)));
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

async fn connect(
    endpoint: &quinn::Endpoint,
    seed: SocketAddr,
    verifier: &PinVerifier,
) -> Result<quinn::Connection, JoinError> {
    let connecting = endpoint
        .connect(seed, SEED_NAME)
        .map_err(|error| JoinError::Unreachable(error.to_string()))?;
    connecting.await.map_err(|error| match verifier.failure() {
        Some(PinFailure::Cluster(why)) => JoinError::WrongCluster(why),
        Some(PinFailure::Clock(why)) => JoinError::Clock(why),
        None => JoinError::Unreachable(explain(&error)),
    })
}

async fn ask(connection: &quinn::Connection, request: Bytes) -> Result<Bytes, JoinError> {
    let (mut send, mut recv) =
        connection.open_bi().await.map_err(|error| JoinError::Unreachable(explain(&error)))?;
    let lost = |error: &dyn std::fmt::Display| JoinError::NoAnswer(error.to_string());
    send.write_chunk(request).await.map_err(|error| lost(&error))?;
    send.finish().map_err(|error| lost(&error))?;
    let answer = recv.read_to_end(MAX_JOIN_ANSWER).await.map_err(|error| lost(&error))?;
    parse_join_answer(&answer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_lets_through_its_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(2.0, start);
        assert!(bucket.take(start) && bucket.take(start) && !bucket.take(start));
        let later = start + Duration::from_millis(500);
        assert!(bucket.take(later) && !bucket.take(later));
        let much_later = start + Duration::from_secs(100);
        let taken = (0..10).filter(|_| bucket.take(much_later)).count();
        assert_eq!(taken, 2);
    }

    #[test]
    fn answers_come_through() {
        let body = Bytes::from_static(b"certificate");
        assert_eq!(parse_join_answer(&encode_answer(&Ok(body.clone()))), Ok(body));
        let failure = Failure::new(Code::TokenSpent, "the token was used already");
        let refused = encode_answer(&Err(failure.clone()));
        assert_eq!(parse_join_answer(&refused), Err(JoinError::Refused(failure)));
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_join_answer(&bytes);
        }
    }
}
