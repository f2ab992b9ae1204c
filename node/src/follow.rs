//! How nodes without a replica follow the control state, and how voters serve them.
//!
//! A follower opens a stream to a voter and gets the whole state, then one delta
//! an entry. It keeps the last state on disk, so that a restart with no voter
//! alive goes on with what was known.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::seq::SliceRandom;
use rung_control_plane::State;
use rung_proto::{NodeId, encoding};
use rung_transport::{Mesh, MeshStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use crate::control::Control;
use crate::protocol::{FollowFrame, STREAM_FOLLOW};

/// The largest frame a follower reads: the whole state of a large cluster.
const MAX_FRAME: u32 = 64 << 20;
/// A stream that says nothing for so long is given up; voters repeat who leads.
const SILENCE: Duration = Duration::from_secs(3);
const REPEAT: Duration = Duration::from_secs(1);
const OPEN: Duration = Duration::from_secs(2);
/// Where the followed state is kept.
pub const STATE_FILE: &str = "control/state";
/// The stream ended because the voter is none any more.
const CODE_NOT_A_VOTER: u32 = 1;

/// Follows the control state for as long as this node has no replica of it.
/// `known` names nodes to try when nobody is known to vote.
pub async fn run(control: Control, mesh: Mesh, me: NodeId, known: impl Fn() -> Vec<NodeId>) {
    let mut leadership = control.watch_leadership();
    loop {
        if control.group().is_none() {
            for source in sources(&control, me, &known) {
                if control.group().is_some() {
                    break;
                }
                if let Err(why) = follow_one(&control, &mesh, source).await {
                    tracing::debug!(%source, why, "following the control state ended");
                }
            }
        }
        // Whatever comes first: the loop looks again at everything.
        let _ = timeout(Duration::from_millis(300), leadership.changed()).await;
    }
}

/// Voters first, the leader last among them so that it has the least to do,
/// then anybody who is alive.
fn sources(control: &Control, me: NodeId, known: impl Fn() -> Vec<NodeId>) -> Vec<NodeId> {
    let leadership = control.leadership();
    let mut voters = leadership.voters.clone();
    voters.shuffle(&mut rand::rng());
    voters.sort_by_key(|voter| Some(*voter) == leadership.leader);
    let mut others = known();
    others.shuffle(&mut rand::rng());
    let mut seen = BTreeSet::from([me]);
    let each = voters.into_iter().chain(others);
    each.filter(|node| seen.insert(*node) && control.answers(*node)).collect()
}

async fn follow_one(control: &Control, mesh: &Mesh, source: NodeId) -> Result<(), String> {
    let mut stream = mesh
        .open_stream(source, STREAM_FOLLOW, Bytes::new(), OPEN)
        .await
        .map_err(|error| error.to_string())?;
    let mut state: Option<State> = None;
    while control.group().is_none() {
        let frame = tokio::select! {
            frame = timeout(SILENCE, read_frame(&mut stream)) => match frame {
                Ok(frame) => frame?,
                Err(_) => return Err("it fell silent".to_owned()),
            },
            () = control.stops_answering(source) => {
                return Err("it is suspected to be down".to_owned());
            }
        };
        match frame {
            FollowFrame::Leadership(leadership) => control.learn_leadership(leadership),
            FollowFrame::State(whole) => state = Some(*whole),
            FollowFrame::Delta(delta) => {
                let Some(state) = state.as_mut() else {
                    return Err("a change came before the state".to_owned());
                };
                // A delta from before the state that was sent is already in it.
                if delta.index > state.index {
                    let followed = state.follow(delta);
                    followed.map_err(|index| format!("entry {index} came out of order"))?;
                }
            }
        }
        if let Some(state) = &state {
            publish(control, state);
        }
    }
    Ok(())
}

fn publish(control: &Control, state: &State) {
    control.published().state.send_if_modified(|known| {
        let newer = state.is_newer_than(known);
        if newer {
            *known = Arc::new(state.clone());
        }
        newer
    });
}

async fn read_frame(stream: &mut MeshStream) -> Result<FollowFrame, String> {
    let length = stream.read_u32().await.map_err(|error| error.to_string())?;
    if length > MAX_FRAME {
        return Err(format!("a frame of {length} bytes"));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
    encoding::decode(&bytes).map_err(|error| error.to_string())
}

async fn write_frame(stream: &mut MeshStream, frame: &FollowFrame) -> std::io::Result<()> {
    let bytes = encoding::encode(frame);
    let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_u32(length).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Serves a follower from this node's replica, until either has enough.
pub async fn serve(control: Control, mut stream: MeshStream) {
    if serve_frames(&control, &mut stream).await.is_err() || control.group().is_none() {
        stream.abort(CODE_NOT_A_VOTER);
    }
}

async fn serve_frames(control: &Control, stream: &mut MeshStream) -> std::io::Result<()> {
    let mut leadership = control.watch_leadership();
    // Who asks the wrong node still learns whom to ask.
    let now = leadership.borrow_and_update().clone();
    write_frame(stream, &FollowFrame::Leadership(now)).await?;
    if control.group().is_none() {
        return Ok(());
    }
    let mut deltas = control.published().deltas.subscribe();
    let whole = control.state();
    let mut sent = whole.index;
    write_frame(stream, &FollowFrame::State(Box::new((*whole).clone()))).await?;
    while control.group().is_some() {
        tokio::select! {
            delta = deltas.recv() => match delta {
                Ok(delta) if delta.index <= sent => {}
                Ok(delta) if delta.previous == sent => {
                    sent = delta.index;
                    write_frame(stream, &FollowFrame::Delta((*delta).clone())).await?;
                }
                // Something between was missed: a snapshot was restored, or the
                // state was taken before its deltas were subscribed to. What is
                // published follows what is applied at once.
                Ok(delta) => {
                    let mut state = control.watch_state();
                    let published = state.wait_for(|state| state.index >= delta.index);
                    let whole = match timeout(SILENCE, published).await {
                        Ok(Ok(whole)) => whole.clone(),
                        _ => return Ok(()),
                    };
                    sent = whole.index;
                    write_frame(stream, &FollowFrame::State(Box::new((*whole).clone()))).await?;
                }
                Err(RecvError::Lagged(_)) => {
                    let whole = control.state();
                    sent = whole.index;
                    write_frame(stream, &FollowFrame::State(Box::new((*whole).clone()))).await?;
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            changed = leadership.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let now = leadership.borrow_and_update().clone();
                write_frame(stream, &FollowFrame::Leadership(now)).await?;
            }
            () = tokio::time::sleep(REPEAT) => {
                // A replica that was restored from a snapshot has no deltas for it.
                let whole = control.state();
                if whole.index > sent && deltas.is_empty() {
                    sent = whole.index;
                    write_frame(stream, &FollowFrame::State(Box::new((*whole).clone()))).await?;
                }
                let now = control.leadership();
                write_frame(stream, &FollowFrame::Leadership(now)).await?;
            }
        }
    }
    Ok(())
}
