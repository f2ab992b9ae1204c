//! Receiving a snapshot on a stream.

use std::io::{self, Write as _};
use std::time::Duration;

use openraft::Snapshot;
use tokio::io::AsyncReadExt;

use crate::error::Refusal;
use crate::group::Group;
use crate::message::{Answer, SnapshotHeader};
use crate::network::ByteStream;
use crate::raft_types::RaftSnapshotMeta;
use crate::replica::{LandedState, SnapshotData};
use crate::snapshot_format::SnapshotDecoder;
use crate::snapshot_store::{SnapshotFile, UnfinishedFile, blocking};
use crate::state_machine::{Arrival, Landed};
use crate::status::GroupRole;

/// A snapshot's stream that stands still for so long is given up.
const STREAM_IDLE: Duration = Duration::from_secs(30);
const PIECE: usize = 256 << 10;

/// Receives a snapshot and has the protocol take it over, or drop it.
pub(crate) async fn snapshot(
    group: &Group,
    header: &SnapshotHeader,
    stream: &mut ByteStream,
) -> Result<Answer, Refusal> {
    let refused = |error: io::Error| Refusal::Snapshot(error.to_string());
    let inner = &group.0;
    let Some(landing) = &inner.landing else {
        let file = inner.store.create().map_err(refused)?;
        let path = file.path().to_owned();
        let installed = to_file(group, file, header, stream).await;
        inner.store.discard(&path);
        return installed;
    };
    let stopped = || Refusal::Stopped("it was closed".to_owned());
    // The state machine is opened again only when nothing lands any more.
    let machine = inner.machine_in_use.upgrade().ok_or_else(stopped)?;
    let arrival = blocking(|| landing.begin()).map_err(refused)?;
    let mut landing = LandingSnapshot { group, decoder: SnapshotDecoder::new(), arrival };
    let received = receive(group, stream, header.bytes, |piece| landing.write(piece)).await;
    received.map_err(refused)?;
    let (meta, landed) = landing.finish().map_err(refused)?;
    let data = SnapshotData::Landed(LandedState { landed, machine });
    install(group, header, meta, data).await
}

async fn to_file(
    group: &Group,
    mut file: UnfinishedFile,
    header: &SnapshotHeader,
    stream: &mut ByteStream,
) -> Result<Answer, Refusal> {
    let refused = |error: io::Error| Refusal::Snapshot(error.to_string());
    let received = receive(group, stream, header.bytes, |piece| file.write_all(piece)).await;
    received.map_err(refused)?;
    let file: SnapshotFile = file.finish().map_err(refused)?;
    let meta = group.0.store.verify(&file).map_err(refused)?;
    install(group, header, meta, SnapshotData::File(file)).await
}

/// The protocol drops a snapshot that is overtaken.
async fn install(
    group: &Group,
    header: &SnapshotHeader,
    meta: RaftSnapshotMeta,
    data: SnapshotData,
) -> Result<Answer, Refusal> {
    let snapshot = Snapshot { meta, snapshot: data };
    let installed = group.0.raft.install_full_snapshot(header.ballot.into(), snapshot);
    let response = installed.await.map_err(|fatal| Refusal::Stopped(fatal.to_string()))?;
    Ok(Answer::SnapshotInstalled((&response.vote).into()))
}

/// A snapshot on its way beside the state machine's state.
struct LandingSnapshot<'a> {
    group: &'a Group,
    decoder: SnapshotDecoder,
    arrival: Box<dyn Arrival>,
}

impl LandingSnapshot<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let Self { group, decoder, arrival } = self;
        blocking(|| decoder.push(piece, &mut |content| arrival.write(content)))?;
        group.0.store.note_handled(piece.len());
        Ok(())
    }

    fn finish(self) -> io::Result<(RaftSnapshotMeta, Landed)> {
        let Self { group, decoder, arrival } = self;
        let header =
            decoder.header().filter(|_| decoder.is_whole()).ok_or_else(|| decoder.cut())?;
        if header.group != group.id() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is of another group"));
        }
        Ok((header.meta()?, blocking(|| arrival.finish())?))
    }
}

/// Gives to `write` what comes, until the stream ends or the group does.
async fn receive(
    group: &Group,
    stream: &mut ByteStream,
    bytes: Option<u64>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut status = group.status();
    let is_stopped = |status: &crate::GroupStatus| matches!(status.role, GroupRole::Stopped(_));
    let mut left = bytes.unwrap_or(u64::MAX);
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = tokio::select! {
            biased;
            _ = status.wait_for(is_stopped) => {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the group was closed"));
            }
            read = fill(stream, &mut piece[..size]) => read?,
        };
        if read > 0 {
            write(&piece[..read])?;
            left -= read as u64;
        }
        if read < size {
            break;
        }
    }
    // Whether one of unknown length is whole is verified with its content.
    match bytes {
        Some(_) if left > 0 => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the stream ended {left} bytes too early"),
        )),
        _ => Ok(()),
    }
}

/// Reads until the buffer is full or the stream ends.
async fn fill(stream: &mut ByteStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let read = stream.receive.read(&mut buffer[filled..]);
        let read = tokio::time::timeout(STREAM_IDLE, read)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the stream stands still"))??;
        if read == 0 {
            break;
        }
        filled += read;
    }
    Ok(filled)
}
