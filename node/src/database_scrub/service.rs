//! What nodes ask each other about scrubs.

use std::time::Duration;

use bytes::Bytes;
use rung_proto::api::{ScrubRequested, ScrubStarted};
use rung_proto::{Code, Failure, GroupId, NodeId, encoding};
use rung_shard::{Cancel, CopyState, ReadLevel, ScrubPart, Shard};
use rung_transport::{CallRefusal, IncomingCall, Lane};
use serde::{Deserialize, Serialize};

use super::judge::Found;
use super::{Asked, bytes_per_second, group_of};
use crate::clock::now_ms;
use crate::node::Node;
use crate::protocol::service;

/// How long a check of a whole copy may take.
pub const CHECK: Duration = Duration::from_secs(120);
const START: Duration = Duration::from_secs(5);

/// One node's question to another, or to itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubRequest {
    /// To the primary: begin one.
    Start { group: GroupId, rate: u64 },
    /// What it found of the pages of a mark.
    Part { group: GroupId, scrub: u64, first: u32 },
    /// Whether its copy is sound by itself.
    Check { group: GroupId },
    /// From the primary: its copy is damaged, which the mark with this number showed.
    Condemn { group: GroupId, scrub: u64, first: u32, what: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubReply {
    Started(u64),
    Part(Option<PartForm>),
    Checked(Option<bool>),
    Done,
}

/// What a copy found, on the wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartForm {
    #[serde(with = "serde_bytes")]
    position: Vec<u8>,
    /// Nothing: the pages cannot be read.
    #[serde(with = "serde_bytes")]
    hash: Option<Vec<u8>>,
    is_damage: bool,
}

impl PartForm {
    fn of(part: &ScrubPart) -> Self {
        let is_damage = part.hash.as_ref().is_err_and(|unread| unread.is_damage);
        let hash = part.hash.as_ref().ok().map(|hash| hash.to_vec());
        Self { position: part.position.to_vec(), hash, is_damage }
    }

    /// Who sends nonsense says nothing.
    pub fn found(self) -> Found {
        let position = <[u8; 32]>::try_from(self.position);
        let hash = self.hash.map(<[u8; 32]>::try_from);
        match (position, hash) {
            (Ok(position), Some(Ok(hash))) => Found::Pages { position, hash },
            (_, None) if self.is_damage => Found::Unreadable,
            _ => Found::Silent,
        }
    }
}

/// Asks another node, or this one.
///
/// # Errors
/// It did not answer, or refused.
pub async fn ask(
    node: &Node,
    to: NodeId,
    request: &ScrubRequest,
    deadline: Duration,
) -> Result<ScrubReply, Failure> {
    let body = Bytes::from(encoding::encode(request));
    let answer = node.mesh.call(to, Lane::Calls, service::DATABASE_SCRUB, body, deadline).await;
    let answer = answer.map_err(|error| {
        Failure::new(Code::Unreachable, "the node did not answer about a scrub").because(error)
    })?;
    encoding::decode(&answer)
        .map_err(|error| Failure::new(Code::Internal, "an answer cannot be read").because(error))
}

/// Has the primary of a database begin a scrub.
///
/// # Errors
/// There is no such database, or no primary.
pub async fn start(
    node: &Node,
    database: &str,
    request: ScrubRequested,
) -> Result<ScrubStarted, Failure> {
    let group = group_of(node, database, 0)?;
    let rate = request.bytes_per_second.unwrap_or_else(|| bytes_per_second(node)).max(1);
    let leader = node.consensus.group(group).and_then(|group| group.status().borrow().leader);
    let told = node.soft.all().into_values().flat_map(|soft| {
        let primary = soft
            .databases
            .into_iter()
            .find(|copy| copy.group == group && copy.kind == rung_proto::soft::CopyKind::Primary);
        primary.map(|copy| (copy.epoch, soft.node))
    });
    let primary = leader.or_else(|| told.max().map(|(_, node)| node)).ok_or_else(|| {
        Failure::new(Code::Unreachable, format!("{database} has no primary")).next("`ctl status`")
    })?;
    match ask(node, primary, &ScrubRequest::Start { group, rate }, START).await? {
        ScrubReply::Started(id) => Ok(ScrubStarted { id }),
        _ => Err(Failure::new(Code::Internal, "the primary answered something else")),
    }
}

/// Answers another node.
///
/// # Errors
/// This node has no such copy, or is not to be asked this.
pub async fn serve(node: &Node, call: IncomingCall) -> Result<Bytes, CallRefusal> {
    let request = encoding::decode(&call.body).map_err(|error| {
        Failure::new(Code::Usage, "a question about a scrub cannot be read").because(error)
    })?;
    let reply = answer(node, call.from.node, request).await?;
    Ok(Bytes::from(encoding::encode(&reply)))
}

async fn answer(node: &Node, from: NodeId, request: ScrubRequest) -> Result<ScrubReply, Failure> {
    let group = match &request {
        ScrubRequest::Start { group, .. }
        | ScrubRequest::Part { group, .. }
        | ScrubRequest::Check { group }
        | ScrubRequest::Condemn { group, .. } => *group,
    };
    let shard = node.databases.copy(group).and_then(|copy| copy.shard);
    let shard = shard.ok_or_else(|| Failure::new(Code::Precondition, "there is no copy here"))?;
    Ok(match request {
        ScrubRequest::Start { rate, .. } => {
            if !shard.state().borrow().is_primary() {
                return Err(Failure::new(Code::Precondition, "this node is not the primary"));
            }
            let id = now_ms();
            node.databases.scrubs().asked.insert(group, Asked { id, rate });
            ScrubReply::Started(id)
        }
        ScrubRequest::Part { scrub, first, .. } => {
            ScrubReply::Part(shard.scrubbed(scrub, first).as_ref().map(PartForm::of))
        }
        ScrubRequest::Check { .. } => ScrubReply::Checked(is_sound(&shard).await),
        ScrubRequest::Condemn { scrub, first, what, .. } => {
            // Only whom the log follows may say so, and only of what was compared here.
            let leader = shard.group().status().borrow().leader;
            if leader != Some(from) || shard.scrubbed(scrub, first).is_none() {
                return Err(Failure::new(Code::Precondition, "that was not compared here"));
            }
            if !matches!(*shard.state().borrow(), CopyState::Stopped(_)) {
                shard.condemn(what);
            }
            ScrubReply::Done
        }
    })
}

/// Whether SQLite finds the whole copy in order; nothing when it could not look.
async fn is_sound(shard: &Shard) -> Option<bool> {
    let cancel = Cancel::new();
    let check = shard.read(ReadLevel::Any, CHECK, &cancel, |executor, turn| {
        if !turn.may_block() {
            turn.move_to_thread();
            return None;
        }
        let check = executor
            .connection()
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        match check {
            Ok(found) => Some(found == "ok"),
            Err(error) => match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                    Some(false)
                }
                _ => None,
            },
        }
    });
    check.await.ok().and_then(|(sound, _)| sound)
}
