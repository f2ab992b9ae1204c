//! Log lines of apps and roles, from every node to whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rung_admin::LogQuery;
use rung_proto::api::LogLine;
use rung_proto::{NodeId, Role, encoding};
use rung_transport::MeshStream;
use rung_web::Followed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock::now_ms;
use crate::node::Node;
use crate::protocol::{LogRequest, STREAM_LOGS};

const OPEN: Duration = Duration::from_secs(2);
/// What peers have not sent of the past after so long is left out.
const PAST: Duration = Duration::from_secs(5);
/// A reader that takes no line for so long is given up.
const WRITE: Duration = Duration::from_secs(10);
/// The most text of past lines that is held at once, in bytes.
const PAST_BYTES: usize = 16 << 20;
const LINES: usize = 256;
const MAX_FRAME: u32 = 64 << 10;
const MAX_LINES: u32 = 10_000;
const CODE_BAD_REQUEST: u32 = 1;
const CODE_TOO_SLOW: u32 = 2;

/// Collects the lines of all nodes that are asked for, the past ones in order
/// of time, then new ones as they come.
pub fn collect(node: Arc<Node>, query: LogQuery) -> mpsc::Receiver<LogLine> {
    let (sender, receiver) = mpsc::channel(LINES);
    tokio::spawn(async move {
        let request = LogRequest {
            app: query.app,
            role: query.role,
            lines: u32::try_from(query.lines).unwrap_or(MAX_LINES).min(MAX_LINES),
            follow: query.follow,
        };
        let state = node.control.state();
        let wanted =
            |id: &NodeId| query.node.as_ref().is_none_or(|name| state.node_name(*id) == *name);
        let view = node.membership.view();
        let nodes: Vec<NodeId> =
            view.active().map(|member| member.node).filter(|id| wanted(id)).collect();
        let mut sources = Vec::new();
        for id in nodes {
            let (lines, source) = mpsc::channel(LINES);
            if id == node.id {
                tokio::spawn(local(Arc::clone(&node), request.clone(), lines));
            } else {
                tokio::spawn(remote(Arc::clone(&node), id, request.clone(), lines));
            }
            sources.push(source);
        }
        let keep = request.lines as usize;
        merge(sources, sender, keep, Instant::now() + PAST).await;
    });
    receiver
}

/// What a source sends: lines, and a mark after the past ones.
enum Piece {
    Line(LogLine),
    PastEnds,
}

/// The newest lines of all sources, within bounds.
struct Newest {
    /// By time, then in the order in which they came.
    lines: BTreeMap<(u64, u64), LogLine>,
    next: u64,
    bytes: usize,
    max_lines: usize,
    max_bytes: usize,
}

impl Newest {
    fn new(max_lines: usize, max_bytes: usize) -> Self {
        Self { lines: BTreeMap::new(), next: 0, bytes: 0, max_lines, max_bytes }
    }

    fn add(&mut self, line: LogLine) {
        self.bytes += size(&line);
        self.lines.insert((line.at_ms, self.next), line);
        self.next += 1;
        while self.lines.len() > self.max_lines || self.bytes > self.max_bytes {
            let Some((_, oldest)) = self.lines.pop_first() else { return };
            self.bytes -= size(&oldest);
        }
    }
}

/// About what a line takes in memory.
fn size(line: &LogLine) -> usize {
    size_of::<LogLine>() + line.node.len() + line.source.len() + line.line.len()
}

/// Reads the past of all sources at once until `deadline`. Returns it with the
/// sources that have sent all of theirs, which alone are in step.
async fn past(
    sources: Vec<mpsc::Receiver<Piece>>,
    newest: Newest,
    deadline: Instant,
) -> (Newest, Vec<mpsc::Receiver<Piece>>) {
    let newest = Mutex::new(newest);
    let reading = sources.into_iter().map(|mut source| {
        let newest = &newest;
        async move {
            loop {
                match timeout_at(deadline, source.recv()).await {
                    Ok(Some(Piece::Line(line))) => {
                        newest.lock().unwrap_or_else(PoisonError::into_inner).add(line);
                    }
                    Ok(Some(Piece::PastEnds)) => return Some(source),
                    Ok(None) | Err(_) => return None,
                }
            }
        }
    });
    let following = join_all(reading).await.into_iter().flatten().collect();
    (newest.into_inner().unwrap_or_else(PoisonError::into_inner), following)
}

async fn merge(
    sources: Vec<mpsc::Receiver<Piece>>,
    out: mpsc::Sender<LogLine>,
    keep: usize,
    deadline: Instant,
) {
    let newest = Newest::new(keep, PAST_BYTES);
    let reading = past(sources, newest, deadline);
    let (newest, following) = tokio::select! {
        read = reading => read,
        () = out.closed() => return,
    };
    for line in newest.lines.into_values() {
        if out.send(line).await.is_err() {
            return;
        }
    }
    for mut source in following {
        let out = out.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    piece = source.recv() => match piece {
                        Some(Piece::Line(line)) => {
                            if out.send(line).await.is_err() {
                                return;
                            }
                        }
                        Some(Piece::PastEnds) => {}
                        None => return,
                    },
                    () = out.closed() => return,
                }
            }
        });
    }
}

async fn remote(node: Arc<Node>, peer: NodeId, request: LogRequest, out: mpsc::Sender<Piece>) {
    let header = Bytes::from(encoding::encode(&request));
    let Ok(mut stream) = node.mesh.open_stream(peer, STREAM_LOGS, header, OPEN).await else {
        return;
    };
    loop {
        let piece = tokio::select! {
            piece = read_piece(&mut stream) => piece,
            () = out.closed() => break,
        };
        let Some(piece) = piece else { break };
        if out.send(piece).await.is_err() {
            break;
        }
    }
    stream.abort(0);
}

async fn read_piece(stream: &mut MeshStream) -> Option<Piece> {
    let length = stream.read_u32().await.ok()?;
    if length == 0 {
        return Some(Piece::PastEnds);
    }
    if length > MAX_FRAME {
        return None;
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await.ok()?;
    encoding::decode(&bytes).ok().map(Piece::Line)
}

/// Serves a peer that asks for this node's lines.
pub async fn serve(node: &Arc<Node>, header: &[u8], mut stream: MeshStream) {
    let Ok(request) = encoding::decode::<LogRequest>(header) else {
        stream.abort(CODE_BAD_REQUEST);
        return;
    };
    let (sender, mut lines) = mpsc::channel(LINES);
    let follow = request.follow;
    tokio::spawn(local(Arc::clone(node), request, sender));
    loop {
        let piece = tokio::select! {
            piece = lines.recv() => piece,
            // The reader is gone, and no line may come for long.
            _ = stream.send.stopped() => return,
        };
        let Some(piece) = piece else { break };
        let bytes = match &piece {
            Piece::Line(line) => encoding::encode(line),
            Piece::PastEnds => Vec::new(),
        };
        let Ok(length) = u32::try_from(bytes.len()) else { continue };
        let written = async {
            stream.write_u32(length).await?;
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        match timeout(WRITE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                stream.abort(CODE_TOO_SLOW);
                return;
            }
        }
    }
    if !follow {
        // The reader sees the end; an error means that it is gone already.
        let _ = timeout(WRITE, stream.shutdown()).await;
    }
}

async fn local(node: Arc<Node>, request: LogRequest, out: mpsc::Sender<Piece>) {
    match (request.app.clone(), request.role) {
        (Some(app), _) => app_lines(&node, &app, &request, &out).await,
        (None, Some(role)) => role_lines(&node, role, &request, &out).await,
        (None, None) => {}
    }
}

async fn app_lines(node: &Node, app: &str, request: &LogRequest, out: &mpsc::Sender<Piece>) {
    let Some(log) = node.web.logs(app) else {
        // An app that never ran here may be placed here while it is followed,
        // which the next `ctl logs -f` shows.
        let _ = out.send(Piece::PastEnds).await;
        return;
    };
    let line = |line: rung_web::LogLine| LogLine {
        at_ms: line.at_ms,
        node: node.name().to_owned(),
        source: app.to_owned(),
        instance: Some(line.instance),
        line: line.text,
    };
    let mut new = log.follow();
    let count = request.lines as usize;
    let past = tokio::task::spawn_blocking(move || log.tail(count, None)).await;
    for past in past.unwrap_or_default() {
        if out.send(Piece::Line(line(past))).await.is_err() {
            return;
        }
    }
    if out.send(Piece::PastEnds).await.is_err() || !request.follow {
        return;
    }
    loop {
        let followed = tokio::select! {
            followed = new.next() => followed,
            () = out.closed() => return,
        };
        let piece = match followed {
            Some(Followed::Line(new)) => line((*new).clone()),
            Some(Followed::Lost(count)) => LogLine {
                at_ms: now_ms(),
                node: node.name().to_owned(),
                source: app.to_owned(),
                instance: None,
                line: format!("({count} lines were lost: the reader was too slow)"),
            },
            None => return,
        };
        if out.send(Piece::Line(piece)).await.is_err() {
            return;
        }
    }
}

async fn role_lines(node: &Node, role: Role, request: &LogRequest, out: &mpsc::Sender<Piece>) {
    let line = |at_ms: u64, text: String| LogLine {
        at_ms,
        node: node.name().to_owned(),
        source: role.name().to_owned(),
        instance: None,
        line: text,
    };
    let mut new = node.role_log.follow();
    for past in node.role_log.tail(role, request.lines as usize) {
        if out.send(Piece::Line(line(past.at_ms, past.text.clone()))).await.is_err() {
            return;
        }
    }
    if out.send(Piece::PastEnds).await.is_err() || !request.follow {
        return;
    }
    loop {
        let piece = tokio::select! {
            received = new.recv() => match received {
                Ok(received) if received.role == role => line(received.at_ms, received.text.clone()),
                Ok(_) => continue,
                Err(RecvError::Lagged(count)) => line(now_ms(), format!("({count} lines were lost)")),
                Err(RecvError::Closed) => return,
            },
            () = out.closed() => return,
        };
        if out.send(Piece::Line(piece)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at_ms: u64, text: &str) -> LogLine {
        LogLine {
            at_ms,
            node: "n1".to_owned(),
            source: "app".to_owned(),
            instance: None,
            line: text.to_owned(),
        }
    }

    /// A source that has sent these, and then that the past ends if `ends`.
    async fn source(times: &[u64], ends: bool) -> (mpsc::Sender<Piece>, mpsc::Receiver<Piece>) {
        let (sender, source) = mpsc::channel(LINES);
        for at_ms in times {
            sender.send(Piece::Line(line(*at_ms, "past"))).await.unwrap();
        }
        if ends {
            sender.send(Piece::PastEnds).await.unwrap();
        }
        (sender, source)
    }

    #[test]
    fn the_newest_lines_are_kept_by_number_and_by_size() {
        let times = |newest: &Newest| newest.lines.keys().map(|key| key.0).collect::<Vec<_>>();
        let mut newest = Newest::new(3, usize::MAX);
        [5, 1, 4, 2, 4].into_iter().for_each(|at_ms| newest.add(line(at_ms, "text")));
        assert_eq!(times(&newest), [4, 4, 5]);
        let mut newest = Newest::new(100, 2 * size(&line(0, "text")));
        [5, 1, 4].into_iter().for_each(|at_ms| newest.add(line(at_ms, "text")));
        assert_eq!(times(&newest), [4, 5]);
        // One that alone is too large leaves nothing, and the count goes on.
        newest.add(line(6, &"x".repeat(10_000)));
        assert_eq!((times(&newest), newest.bytes), (vec![], 0));
        newest.add(line(7, "text"));
        assert_eq!(times(&newest), [7]);
    }

    #[tokio::test]
    async fn silent_sources_share_one_deadline_and_the_others_are_merged_by_time() {
        let (mut senders, mut sources) = (Vec::new(), Vec::new());
        for (times, ends) in [([1, 4], true), ([2, 5], false), ([3, 6], true), ([0, 7], false)] {
            let (sender, source) = source(&times, ends).await;
            senders.push(sender);
            sources.push(source);
        }
        let (out, mut lines) = mpsc::channel(LINES);
        merge(sources, out, 6, Instant::now() + Duration::from_millis(200)).await;
        senders[2].send(Piece::Line(line(8, "new"))).await.unwrap();
        assert!(senders[1].send(Piece::Line(line(9, "late"))).await.is_err());
        drop(senders);
        let mut times = Vec::new();
        while let Some(line) = lines.recv().await {
            times.push(line.at_ms);
        }
        assert_eq!(times, [2, 3, 4, 5, 6, 7, 8]);
    }
}
