//! Streams: the second connection.

use std::time::Duration;

use bytes::Bytes;
use rung_transport::{
    CallError, Lane, MAX_STREAM_HEADER, MeshLimits, MeshStream, StreamKind, abort_code,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

const KIND: StreamKind = StreamKind(3);

async fn next_stream(node: &mut Node) -> MeshStream {
    let received = tokio::time::timeout(LONG, node.streams.recv()).await;
    received.expect("no stream arrived").unwrap().3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_carries_its_kind_and_header_and_bytes_both_ways() {
    let cluster = Cluster::new();
    let (a, mut b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    let header = Bytes::from(vec![9; MAX_STREAM_HEADER]);
    let mut ours = a.mesh.open_stream(b.id, KIND, header.clone(), LONG).await.unwrap();
    let (from, kind, seen, mut theirs) =
        tokio::time::timeout(LONG, b.streams.recv()).await.unwrap().unwrap();
    assert_eq!((from.node, kind, seen), (a.id, KIND, header));
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut text = String::new();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    text.clear();
    ours.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_over_the_limit_is_refused() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    let header = Bytes::from(vec![9; MAX_STREAM_HEADER + 1]);
    let error = a.mesh.open_stream(b.id, KIND, header, LONG).await.unwrap_err();
    let expected = CallError::TooLarge { size: MAX_STREAM_HEADER + 1, limit: MAX_STREAM_HEADER };
    assert_eq!(error, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_a_stream_up_tells_the_peer_the_code() {
    let cluster = Cluster::new();
    let (a, mut b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    let mut ours = a.mesh.open_stream(b.id, KIND, Bytes::new(), LONG).await.unwrap();
    let mut theirs = next_stream(&mut b).await;
    theirs.abort(42);
    let error = ours.read_u8().await.unwrap_err();
    assert_eq!(abort_code(&error), Some(42));
    let error = loop {
        // The first writes may be taken before the news arrives.
        if let Err(error) = ours.write_all(&[0; 1000]).await {
            break error;
        }
    };
    assert_eq!(abort_code(&error), Some(42));
}

#[test]
fn streams_are_opened_and_used_from_another_runtime_than_the_mesh_s() {
    let core = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let core = core.unwrap();
    let cluster = Cluster::new();
    let (a, mut b) = core.block_on(async { (cluster.node(1), cluster.node(2)) });
    a.knows(&b);
    core.spawn(async move {
        while let Some((.., stream)) = b.streams.recv().await {
            tokio::spawn(async move {
                let (mut send, mut recv) = stream.into_parts();
                let _ = tokio::io::copy(&mut recv, &mut send).await;
            });
        }
    });
    let plane = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    plane.block_on(async {
        for round in 0..3u8 {
            let mut streams = Vec::new();
            for _ in 0..200 {
                let open = a.mesh.open_stream(b_id(), KIND, Bytes::from_static(b"h"), LONG);
                streams.push(open.await.unwrap());
            }
            for stream in &mut streams {
                stream.write_all(&[round; 100]).await.unwrap();
            }
            for stream in &mut streams {
                let mut echoed = [0; 100];
                stream.read_exact(&mut echoed).await.unwrap();
                assert_eq!(echoed, [round; 100]);
            }
        }
        let answer = a.mesh.call(b_id(), Lane::Calls, ECHO, "from there".into(), LONG).await;
        assert_eq!(answer.unwrap(), "from there");
    });
}

fn b_id() -> rung_proto::NodeId {
    rung_proto::NodeId(2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_hold_up_neither_calls_nor_other_streams() {
    let cluster = Cluster::new();
    let limits = MeshLimits { stream_window: 64 * 1024, ..MeshLimits::default() };
    let a = cluster.node(1);
    let mut b = cluster.node_with(2, Setup { limits, ..Setup::default() });
    a.knows(&b);
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut stream = a.mesh.open_stream(b.id, KIND, Bytes::new(), LONG).await.unwrap();
        let filling = async {
            loop {
                stream.write_all(&[0; 16 * 1024]).await.unwrap();
            }
        };
        let filled: Result<(), _> = tokio::time::timeout(Duration::from_millis(50), filling).await;
        assert!(filled.is_err());
        stuck.push((stream, next_stream(&mut b).await));
    }
    a.echo(&b).await.unwrap();
    let mut stream = a.mesh.open_stream(b.id, KIND, Bytes::new(), LONG).await.unwrap();
    let mut theirs = next_stream(&mut b).await;
    stream.write_u8(7).await.unwrap();
    assert_eq!(theirs.read_u8().await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_beside_a_bulk_transfer() {
    const SIZE: u64 = 64 * 1024 * 1024;
    let cluster = Cluster::new();
    let (a, mut b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    let mut stream = a.mesh.open_stream(b.id, KIND, Bytes::new(), LONG).await.unwrap();
    let mut theirs = next_stream(&mut b).await;
    let sending = tokio::spawn(async move {
        let chunk = Bytes::from(vec![1; 1024 * 1024]);
        for _ in 0..SIZE / chunk.len() as u64 {
            stream.send.write_chunk(chunk.clone()).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    });
    let receiving =
        tokio::spawn(async move { tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await });
    let mut calls = 0;
    while !receiving.is_finished() {
        a.echo(&b).await.unwrap();
        calls += 1;
    }
    sending.await.unwrap();
    assert_eq!(receiving.await.unwrap().unwrap(), SIZE);
    assert!(calls > 10, "only {calls} calls got through beside the transfer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_open_streams_is_bounded() {
    let cluster = Cluster::new();
    let limits = MeshLimits { max_streams: 10, ..MeshLimits::default() };
    let a = cluster.node(1);
    let mut b = cluster.node_with(2, Setup { limits, ..Setup::default() });
    a.knows(&b);
    let mut open = Vec::new();
    let short = Duration::from_millis(200);
    let error = loop {
        match a.mesh.open_stream(b.id, KIND, Bytes::new(), short).await {
            Ok(stream) => open.push(stream),
            Err(error) => break error,
        }
        assert!(open.len() < 100, "streams are not bounded");
    };
    assert!(matches!(error, CallError::Unreachable(_)) && !error.outcome_unknown(), "{error}");
    // As soon as some are over, there is room again.
    open.clear();
    while let Ok(Some(_)) = tokio::time::timeout(short, b.streams.recv()).await {}
    a.mesh.open_stream(b.id, KIND, Bytes::new(), LONG).await.unwrap();
}
