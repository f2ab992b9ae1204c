//! Calls a second between two nodes, and how long calls take beside a bulk
//! transfer: `cargo bench -p rung-transport`. It takes about ten seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rung_proto::{ClusterId, Generation, Incarnation, NodeId};
use rung_transport::{
    CertificateAuthority, Handlers, IncomingCall, KeyPair, Lane, Mesh, MeshConfig, MeshLimits,
    MeshStream, NodeIdentity, StreamKind,
};
use tokio::sync::mpsc;

const PHASE: Duration = Duration::from_millis(2500);
const IN_FLIGHT: usize = 128;
const DEADLINE: Duration = Duration::from_secs(5);

/// What the called node counted, so that a figure rests on its word too.
#[derive(Default)]
struct Counted {
    calls: AtomicU64,
    stream_bytes: AtomicU64,
}

fn node(ca: &CertificateAuthority, id: u64, counted: Arc<Counted>) -> Mesh {
    let key = KeyPair::generate().unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let hour = Duration::from_secs(3600);
    let csr = key.to_csr().unwrap();
    let certificate = ca.sign(&csr, NodeId(id), "bench", hour, now_ms).unwrap();
    let identity = NodeIdentity::new(&key, certificate, ca.certificate_der().to_vec()).unwrap();
    let config = MeshConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        identity,
        incarnation: Incarnation(1),
        generation: Generation(1),
        authorise: Arc::new(|_| Ok(())),
        limits: MeshLimits::default(),
    };
    let calls = counted.clone();
    let handlers = Handlers {
        call: Arc::new(move |call: IncomingCall| {
            calls.calls.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(Ok(call.body)))
        }),
        stream: Arc::new(move |_, _, _, stream| {
            tokio::spawn(drain(stream, counted.clone()));
        }),
        datagram: mpsc::channel(1).0,
        join: Arc::new(|request, _| Box::pin(std::future::ready(Ok(request)))),
        closed: mpsc::channel(1).0,
    };
    Mesh::start(config, handlers).unwrap()
}

async fn drain(mut stream: MeshStream, counted: Arc<Counted>) {
    while let Ok(Some(chunk)) = stream.recv.read_chunk(usize::MAX, true).await {
        counted.stream_bytes.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Calls one after the other until the time is over, and returns how long each
/// took.
async fn call_for(mesh: Mesh, time: Duration) -> Vec<Duration> {
    let body = Bytes::from_static(&[7; 64]);
    let until = Instant::now() + time;
    let mut took = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        mesh.call(NodeId(2), Lane::Calls, 1, body.clone(), DEADLINE).await.unwrap();
        took.push(begun.elapsed());
    }
    took
}

fn report(what: &str, mut took: Vec<Duration>, time: Duration) {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "{what}: {:.0} calls/s, p50 {} us, p99 {} us, p99.9 {} us",
        took.len() as f64 / time.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999)
    );
}

async fn run() {
    let ca = CertificateAuthority::create(ClusterId(1)).unwrap();
    let counted = Arc::new(Counted::default());
    let a = node(&ca, 1, Arc::default());
    let b = node(&ca, 2, counted.clone());
    a.set_peer(NodeId(2), b.local_addr());
    a.call(NodeId(2), Lane::Calls, 1, Bytes::new(), DEADLINE).await.unwrap();

    report("one at a time", call_for(a.clone(), PHASE).await, PHASE);

    let handled_before = counted.calls.load(Ordering::Relaxed);
    let wire_before = a.peers()[0].bytes_sent;
    let callers: Vec<_> =
        (0..IN_FLIGHT).map(|_| tokio::spawn(call_for(a.clone(), PHASE))).collect();
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await.unwrap());
    }
    let handled = counted.calls.load(Ordering::Relaxed) - handled_before;
    let wire = a.peers()[0].bytes_sent - wire_before;
    assert_eq!(handled, took.len() as u64, "the called node counted other calls than the callers");
    report("128 in flight", took, PHASE);
    println!("  {handled} counted by the called node, {} UDP bytes sent a call", wire / handled);

    let stream = a.open_stream(NodeId(2), StreamKind(1), Bytes::new(), DEADLINE).await;
    let mut stream = stream.unwrap();
    let transfer = tokio::spawn(async move {
        let chunk = Bytes::from(vec![0; 1024 * 1024]);
        while stream.send.write_chunk(chunk.clone()).await.is_ok() {}
    });
    let before = counted.stream_bytes.load(Ordering::Relaxed);
    let took = call_for(a.clone(), PHASE).await;
    let moved = counted.stream_bytes.load(Ordering::Relaxed) - before;
    transfer.abort();
    report("one at a time beside a bulk transfer", took, PHASE);
    let rate = moved as f64 * 8.0 / PHASE.as_secs_f64() / 1e9;
    println!("the bulk transfer meanwhile: {rate:.2} Gbit/s");
    tokio::join!(a.close(), b.close());
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::spawn(run()).await.unwrap() });
}
