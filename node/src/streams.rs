//! What other nodes may open streams for.

use std::sync::Arc;

use rung_consensus::ByteStream;
use rung_transport::StreamHandler;

use crate::node::{NodeCell, found};
use crate::protocol::{
    STREAM_BUNDLE, STREAM_FOLLOW, STREAM_HTTP, STREAM_LOGS, STREAM_SNAPSHOT, STREAM_SQL,
};
use crate::{follow, logs};

/// The node is starting or knows no such kind of stream.
const CODE_REFUSED: u32 = 1;

/// Hands each stream to what serves it.
pub fn handler(cell: NodeCell) -> StreamHandler {
    Arc::new(move |peer, kind, header, mut stream| {
        let Some(node) = found(&cell) else {
            stream.abort(CODE_REFUSED);
            return;
        };
        match kind {
            STREAM_HTTP => node.web.serve_stream(&header, stream),
            STREAM_SNAPSHOT => {
                tokio::spawn(async move {
                    let stream = ByteStream::from(stream);
                    let served = node.consensus.serve_stream(peer.node, header, stream).await;
                    if let Err(refusal) = served {
                        tracing::warn!(peer = %peer.node, %refusal, "a snapshot was not taken");
                    }
                });
            }
            STREAM_BUNDLE => {
                tokio::spawn(async move { node.bundles.serve(header, stream).await });
            }
            STREAM_FOLLOW => {
                tokio::spawn(follow::serve(node.control.clone(), stream));
            }
            STREAM_LOGS => {
                tokio::spawn(async move { logs::serve(&node, &header, stream).await });
            }
            STREAM_SQL => match node.sql.server() {
                Some(server) => server.serve_stream(peer, header, stream),
                None => stream.abort(CODE_REFUSED),
            },
            _ => stream.abort(CODE_REFUSED),
        }
    })
}
