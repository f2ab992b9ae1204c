//! Requests that balancers on other nodes send to an instance here.
//!
//! One stream of the mesh is one TCP connection to the instance. The balancer
//! pools streams and sends requests on them one after the other, never before
//! the answer to the last one. So when the last bytes went from the instance to
//! the balancer, the next ones from the balancer begin a new request, and while
//! the instance drains they are refused before any of them is forwarded.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quinn::{ReadError, RecvStream, SendStream, WriteError};
use rung_proto::InstanceId;
use rung_transport::MeshStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::gate::{Door, Gate};

/// The stream was refused before anything was forwarded; another instance may
/// be tried.
pub const REFUSED: u32 = 0x21;
/// The instance accepted no connection; nothing was forwarded.
pub const UNREACHABLE: u32 = 0x22;
/// The instance broke the connection off. What it did with the request is not
/// known.
pub const BROKEN: u32 = 0x23;

/// Length of the header of a stream.
pub const HEADER_LENGTH: usize = 9;
/// In the flags of the header: the stream carries one long exchange (an upgraded
/// connection), in which bytes from the balancer are no new request.
pub const LONG_LIVED: u8 = 1;

const CONNECT: Duration = Duration::from_secs(2);
/// How long the balancer may go on sending to an instance that has closed.
const AFTER_END: Duration = Duration::from_secs(10);
const BUFFER: usize = 16 * 1024;

/// Writes the header of a stream: the instance id, big-endian, and the flags.
pub fn stream_header(id: InstanceId, long_lived: bool) -> [u8; HEADER_LENGTH] {
    let mut header = [0; HEADER_LENGTH];
    header[..8].copy_from_slice(&id.0.to_be_bytes());
    header[8] = if long_lived { LONG_LIVED } else { 0 };
    header
}

/// Reads the header of a stream. Unknown flags and lengths are refused.
pub fn parse_stream_header(bytes: &[u8]) -> Option<(InstanceId, bool)> {
    let (id, flags) = bytes.split_first_chunk::<8>()?;
    match flags {
        [0] => Some((InstanceId(u64::from_be_bytes(*id)), false)),
        [LONG_LIVED] => Some((InstanceId(u64::from_be_bytes(*id)), true)),
        _ => None,
    }
}

/// Counts over all streams.
#[derive(Debug, Default)]
pub(crate) struct RelayCounters {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub unreachable: AtomicU64,
    pub to_instances: AtomicU64,
    pub from_instances: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// How a direction, or the whole stream, ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Each side said all it had to say.
    Complete,
    /// A new request came while the instance drains.
    Refused,
    /// The balancer gave the stream up, or its node is gone.
    Abandoned,
    /// The instance broke the connection off.
    Broken,
}

/// Serves one stream to its end.
pub(crate) async fn relay(
    mut stream: MeshStream,
    gate: &Gate,
    long_lived: bool,
    counters: &RelayCounters,
) {
    let _entered = gate.enter();
    let Door::Open(address) = gate.door() else {
        add(&counters.refused, 1);
        stream.abort(REFUSED);
        return;
    };
    let Some(instance) = connect(address).await else {
        add(&counters.unreachable, 1);
        stream.abort(UNREACHABLE);
        return;
    };
    add(&counters.accepted, 1);
    let (reader, writer) = instance.into_split();
    let (send, recv) = (&mut stream.send, &mut stream.recv);
    // Whether the next bytes from the balancer begin a request.
    let quiet = AtomicBool::new(true);
    let up = to_instance(recv, writer, gate, &quiet, long_lived, counters);
    let down = from_instance(send, reader, &quiet, counters);
    match join(up, down).await {
        // Dropping the receiving half tells the balancer to stop sending.
        End::Complete => {}
        End::Refused => {
            add(&counters.refused, 1);
            stream.abort(REFUSED);
        }
        End::Abandoned => stream.abort(0),
        End::Broken => stream.abort(BROKEN),
    }
}

async fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = timeout(CONNECT, TcpStream::connect(address)).await.ok()?.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

async fn join(up: impl Future<Output = End>, down: impl Future<Output = End>) -> End {
    tokio::pin!(up, down);
    tokio::select! {
        end = &mut up => match end {
            // The answer may still be on its way, also from an instance that
            // reads no more.
            End::Complete | End::Broken => down.await,
            end => end,
        },
        end = &mut down => match end {
            End::Complete => match timeout(AFTER_END, up).await {
                Ok(End::Abandoned) => End::Abandoned,
                _ => End::Complete,
            },
            end => end,
        },
    }
}

async fn to_instance(
    recv: &mut RecvStream,
    mut writer: OwnedWriteHalf,
    gate: &Gate,
    quiet: &AtomicBool,
    long_lived: bool,
    counters: &RelayCounters,
) -> End {
    let mut door = gate.watch();
    let mut begun = false;
    loop {
        let chunk = tokio::select! {
            chunk = recv.read_chunk(BUFFER, true) => chunk,
            // A stream that carried nothing yet can be refused at once.
            () = not_open(&mut door), if !begun => return End::Refused,
        };
        let bytes = match chunk {
            Ok(Some(chunk)) => chunk.bytes,
            Ok(None) => {
                return match writer.shutdown().await {
                    Ok(()) => End::Complete,
                    Err(_) => End::Broken,
                };
            }
            Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => return End::Abandoned,
            Err(_) => return End::Abandoned,
        };
        let new_request = quiet.load(Ordering::Acquire) && !(long_lived && begun);
        if new_request && !matches!(*door.borrow(), Door::Open(_)) {
            return End::Refused;
        }
        begun = true;
        quiet.store(false, Ordering::Release);
        add(&counters.to_instances, bytes.len() as u64);
        if writer.write_all(&bytes).await.is_err() {
            return End::Broken;
        }
    }
}

async fn not_open(door: &mut tokio::sync::watch::Receiver<Door>) {
    // The sender lives as long as the gate that this stream holds.
    let _ = door.wait_for(|door| !matches!(door, Door::Open(_))).await;
}

async fn from_instance(
    send: &mut SendStream,
    mut reader: OwnedReadHalf,
    quiet: &AtomicBool,
    counters: &RelayCounters,
) -> End {
    let stopped = send.stopped();
    tokio::pin!(stopped);
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = tokio::select! {
            count = reader.read(&mut buffer) => count,
            _ = &mut stopped => return End::Abandoned,
        };
        let count = match count {
            Ok(0) => {
                // Fails only if the balancer has stopped the stream already.
                let _ = send.finish();
                return End::Complete;
            }
            Ok(count) => count,
            Err(_) => return End::Broken,
        };
        // Before the bytes can reach the balancer, whose next request follows
        // upon them.
        quiet.store(true, Ordering::Release);
        add(&counters.from_instances, count as u64);
        match send.write_all(&buffer[..count]).await {
            Ok(()) => {}
            Err(WriteError::Stopped(_) | WriteError::ConnectionLost(_)) => return End::Abandoned,
            Err(_) => return End::Abandoned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_nothing_else_is_one() {
        for long_lived in [false, true] {
            let header = stream_header(InstanceId(7), long_lived);
            assert_eq!(parse_stream_header(&header), Some((InstanceId(7), long_lived)));
            assert_eq!(parse_stream_header(&header[..8]), None);
        }
        assert_eq!(parse_stream_header(&[0, 0, 0, 0, 0, 0, 0, 1, 2]), None);
        assert_eq!(parse_stream_header(&[0; 10]), None);
    }
}
