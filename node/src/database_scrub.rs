//! Scrubs: every page of every copy of a database is read and compared, once a day, or
//! how often the node's settings say, and when somebody asks.
//!
//! The primary puts marks into the log; at each, every copy hashes the same pages of the
//! same position (see `rung_shard`). Who is alone with what it has stops serving and is
//! made anew, the primary included. What cannot be decided is reported.

mod compare;
mod judge;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rung_proto::soft::ScrubStatus;
use rung_proto::{Code, Failure, GroupId};
use rung_runtime::TaskResult;
use rung_shard::{CopyState, Shard};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use self::compare::Scrub;
use crate::clock::now_ms;
use crate::databases::LocalCopy;
use crate::node::Node;

pub use service::{serve, start};

const LOOK: Duration = Duration::from_millis(250);
/// A primary that knows of no scrub begins one so long after it came to lead, or sooner
/// where they are made more often.
const FIRST: Duration = Duration::from_secs(600);
/// A scrub that somebody asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub id: u64,
    /// Bytes that each copy reads in a second.
    pub rate: u64,
}

/// What is known of scrubs on this node.
#[derive(Default)]
pub struct Scrubs {
    pub asked: BTreeMap<GroupId, Asked>,
    pub status: BTreeMap<GroupId, ScrubStatus>,
}

/// Runs for as long as the node does.
pub async fn run(node: Arc<Node>) -> TaskResult {
    let mut running: BTreeMap<GroupId, JoinHandle<()>> = BTreeMap::new();
    let mut leads_since: BTreeMap<GroupId, Instant> = BTreeMap::new();
    loop {
        running.retain(|_, task| !task.is_finished());
        let mut leads = BTreeSet::new();
        for copy in node.databases.copies() {
            let group = copy.record.group;
            let is_primary = |shard: &Shard| shard.state().borrow().is_primary();
            let Some(shard) = copy.shard.clone().filter(is_primary) else { continue };
            leads.insert(group);
            let since = *leads_since.entry(group).or_insert_with(Instant::now);
            if running.contains_key(&group) {
                continue;
            }
            let asked = node.databases.scrubs().asked.remove(&group);
            let Some(asked) = asked.or_else(|| due(&node, group, since)) else { continue };
            let scrub = Scrub::new(Arc::clone(&node), copy, shard, asked);
            running.insert(group, tokio::spawn(scrub.run()));
        }
        leads_since.retain(|group, _| leads.contains(group));
        sleep(LOOK).await;
    }
}

/// A scrub for which it is time.
fn due(node: &Node, group: GroupId, leads_since: Instant) -> Option<Asked> {
    let told = node.soft.all().into_values().flat_map(|soft| soft.databases);
    let scrubs = told.filter(|copy| copy.group == group).filter_map(|copy| copy.scrub);
    let last = scrubs.map(|scrub| scrub.id.max(scrub.complete_ms)).max().unwrap_or(0);
    let every = node.settings.scrub_every_ms?;
    let is_due = match last {
        0 => leads_since.elapsed() >= FIRST.min(Duration::from_millis(every)),
        last => now_ms().saturating_sub(last) >= every,
    };
    is_due.then(|| Asked { id: now_ms(), rate: bytes_per_second(node) })
}

/// Bytes that each copy reads in a second, when nobody says another number.
fn bytes_per_second(node: &Node) -> u64 {
    node.settings.scrub_rate << 20
}

/// Whether this copy is what a scrub of another primary speaks of.
fn stops(copy: &LocalCopy) -> bool {
    let state = |shard: &Shard| matches!(*shard.state().borrow(), CopyState::Stopped(_));
    copy.shard.as_ref().is_none_or(state)
}

fn group_of(node: &Node, database: &str, shard: u32) -> Result<GroupId, Failure> {
    let state = node.control.state();
    let record = state.databases.get(database).and_then(|record| record.shards.get(&shard));
    record.map(|shard| shard.group).ok_or_else(|| {
        Failure::new(Code::NotFound, format!("there is no database {database}"))
            .next("`ctl db ls` lists them")
    })
}
