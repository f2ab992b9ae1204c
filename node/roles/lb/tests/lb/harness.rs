//! Raw clients and raw instances around a real balancer.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rung_lb::{AppRoute, Balancer, LbConfig, Place, RoutingTable, Target, TargetState};
use rung_proto::{InstanceId, NodeId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Looks again until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An instance: each connection is given to a handler.
pub struct Instance {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Instance {
    pub async fn start<H, F>(handler: H) -> Instance
    where
        H: Fn(Upstream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, SeqCst);
                serving.spawn(handler(Upstream { stream, buffer: Vec::new() }));
            }
        });
        Instance { address, connections, accepting }
    }

    /// Answers every request with `body` and keeps the connection.
    pub async fn answering(body: &'static str) -> Instance {
        Instance::start(move |mut upstream| async move {
            while let Some(_head) = upstream.read_head().await {
                let response =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                upstream.send(response.as_bytes()).await;
            }
        })
        .await
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Closes the listener and all connections, as kill -9 does.
    pub async fn kill(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
    }
}

/// The instance's end of a connection.
pub struct Upstream {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

impl Upstream {
    /// The head of the next request; `None` at the end.
    pub async fn read_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub async fn read_body(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                break;
            }
        }
        self.buffer.drain(..length.min(self.buffer.len())).collect()
    }

    /// Everything up to and including `end`.
    pub async fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = find(&self.buffer, end) {
                return self.buffer.drain(..at + end.len()).collect();
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return std::mem::take(&mut self.buffer);
            }
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The balancer may have gone away, which is for the test to notice.
        let _ = self.stream.write_all(bytes).await;
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub fn config() -> LbConfig {
    let any = "127.0.0.1:0".parse().unwrap();
    LbConfig { threads: 2, ..LbConfig::new(NodeId(1), "here", any) }
}

pub fn local(id: u64, address: SocketAddr) -> Target {
    Target {
        id: InstanceId(id),
        node: NodeId(1),
        dc: "here".into(),
        place: Place::Local { address },
        state: TargetState::Ready,
        since_ms: 0,
    }
}

/// A table of one app with these instances, numbered from 1.
pub fn one_app(addresses: &[SocketAddr]) -> RoutingTable {
    let targets = addresses.iter().zip(1..).map(|(address, id)| local(id, *address)).collect();
    RoutingTable {
        version: 1,
        apps: vec![AppRoute::new("shop", vec!["shop.test".into()], targets)],
    }
}

pub async fn balancer(config: LbConfig, addresses: &[SocketAddr]) -> Balancer {
    let balancer = Balancer::start(config, None).unwrap();
    balancer.update(one_app(addresses)).await;
    balancer
}

/// What a client got.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// The lines of the head, names in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&prefix))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A raw client.
pub struct Client<S = TcpStream> {
    pub stream: S,
    pub buffer: Vec<u8>,
}

impl Client {
    pub async fn connect(balancer: &Balancer) -> Client {
        let stream = TcpStream::connect(balancer.http_address()).await.unwrap();
        Client { stream, buffer: Vec::new() }
    }
}

impl<S: AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The balancer may close while we send; what it said is then read.
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// A GET of `path` and its response.
    pub async fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n")).await;
        self.response().await.expect("a response")
    }

    async fn more(&mut self) -> bool {
        within(self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0) > 0
    }

    /// The next head, with its names in lower case; `None` at the end of the
    /// connection.
    pub async fn head(&mut self) -> Option<(u16, String)> {
        let end = loop {
            match find(&self.buffer, b"\r\n\r\n") {
                Some(end) => break end,
                None if self.more().await => {}
                None if self.buffer.is_empty() => return None,
                None => panic!("half a head: {:?}", String::from_utf8_lossy(&self.buffer)),
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let status = head[9..12].parse().unwrap();
        let lower = |line: &str| match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}\n", name.to_ascii_lowercase()),
            None => format!("{line}\n"),
        };
        Some((status, head.lines().map(lower).collect()))
    }

    pub async fn response(&mut self) -> Option<Response> {
        self.response_to(false).await
    }

    /// The next final response; `None` at the end of the connection.
    pub async fn response_to(&mut self, head_only: bool) -> Option<Response> {
        let (status, head) = self.head().await?;
        let mut response = Response { status, head, body: Vec::new() };
        if head_only || matches!(status, 100..200 | 204 | 304) {
            return Some(response);
        }
        if response.header("transfer-encoding") == Some("chunked") {
            response.body = self.chunked().await;
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().unwrap();
            while self.buffer.len() < length {
                assert!(self.more().await, "the body was cut off");
            }
            response.body = self.buffer.drain(..length).collect();
        } else {
            while self.more().await {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Some(response)
    }

    async fn chunked(&mut self) -> Vec<u8> {
        loop {
            let decoded =
                rung_lb::body::decode_body(&self.buffer, rung_lb::head::BodyLength::Chunked);
            if let Some((body, length)) = decoded.unwrap() {
                self.buffer.drain(..length);
                return body;
            }
            assert!(self.more().await, "the chunked body was cut off");
        }
    }

    /// Whether the balancer closes the connection without saying more.
    pub async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.more().await
    }
}
