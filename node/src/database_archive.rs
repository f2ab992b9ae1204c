//! Archives of databases: who writes them, from what, and the way back.
//!
//! A replica writes the archive of a database, so that neither a base nor the entries
//! cost the primary anything; where there is none the primary does. Any copy could, and
//! two at once do no harm: what is applied is the same everywhere. The log of every copy
//! keeps what is not archived, up to a bound, so that who goes on has it.

mod archiver;
mod restore;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rung_control_plane::{State, View};
use rung_pages::archive::ArchiveId;
use rung_proto::GroupId;
use rung_proto::api::ArchiveSetting;
use rung_runtime::TaskResult;
use rung_shard::Shard;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use self::archiver::Archiver;
use crate::databases::LocalCopy;
use crate::node::Node;
use crate::observe;

pub use restore::{content, restore};

/// How often what is new is archived: what a disaster may cost at most.
const LOOK: Duration = Duration::from_millis(500);
/// A directory that failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// Where the files of a shard are in the directory of its database's archive.
fn shard_dir(dir: &Path, shard: u32) -> PathBuf {
    dir.join(format!("shard-{shard}"))
}

/// What this node does for the archive of a shard.
#[derive(Default)]
struct Work {
    setting: Option<ArchiveSetting>,
    archiver: Option<Archiver>,
    step: Option<JoinHandle<Result<Archiver, String>>>,
    again: Option<Instant>,
}

/// Runs for as long as the node does.
pub async fn run(node: Arc<Node>) -> TaskResult {
    let mut works: BTreeMap<GroupId, Work> = BTreeMap::new();
    loop {
        let state = node.control.state();
        let leadership = node.control.leadership();
        let view = observe::view(&state, &node.membership.view(), &node.soft, &leadership);
        for copy in node.databases.copies() {
            let Some(shard) = copy.shard.clone() else { continue };
            let work = works.entry(copy.record.group).or_default();
            work.look(&node, &copy, shard, &state, &view).await;
        }
        let has = |group: &GroupId| node.databases.copy(*group).is_some();
        works.retain(|group, _| has(group));
        sleep(LOOK).await;
    }
}

impl Work {
    /// Takes in what a step has come to, and begins the next if this node writes.
    async fn look(
        &mut self,
        node: &Arc<Node>,
        copy: &LocalCopy,
        shard: Shard,
        state: &State,
        view: &View,
    ) {
        let group = copy.record.group;
        let record = state.databases.get(&copy.record.database);
        let setting = record.and_then(|record| record.archive.clone());
        let told = view.archive(group).map_or(0, |(_, archive)| archive.log_index);
        shard.keep_log_after(setting.as_ref().map(|_| told));
        if self.step.as_ref().is_some_and(|step| !step.is_finished()) {
            return;
        }
        if let Some(step) = self.step.take() {
            match step.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(archiver) => {
                    node.databases.archives().insert(group, archiver.status());
                    self.archiver = Some(archiver);
                }
                Err(problem) => self.failed(node, copy, problem),
            }
        }
        let writes = setting.is_some() && view.archiver(group) == Some(node.id);
        if !writes || self.setting != setting {
            if let Some(archiver) = self.archiver.take() {
                archiver.end();
            }
            node.databases.archives().remove(&group);
            self.setting = setting.filter(|_| writes);
            self.again = None;
        }
        let Some(setting) = &self.setting else { return };
        if self.again.is_none_or(|again| again <= Instant::now()) {
            let writer = format!("{}x{}", node.name(), node.incarnation.0);
            let id = identity(copy, state);
            let (archiver, setting) = (self.archiver.take(), setting.clone());
            let number = copy.record.shard;
            self.step = Some(tokio::spawn(async move {
                let archiver = match archiver {
                    Some(archiver) => archiver,
                    None => Archiver::open(setting, number, id, writer).await?,
                };
                archiver.step(&shard).await
            }));
        }
    }

    fn failed(&mut self, node: &Node, copy: &LocalCopy, problem: String) {
        self.again = Some(Instant::now() + AGAIN);
        let dir = self.setting.as_ref().map(|setting| setting.dir.clone()).unwrap_or_default();
        let mut archives = node.databases.archives();
        let status = archives.entry(copy.record.group).or_default();
        if status.problem.as_ref() != Some(&problem) {
            let database = &copy.record.database;
            tracing::error!(role = "db", database, problem, "an archive cannot be written");
        }
        (status.dir, status.problem) = (dir, Some(problem));
    }
}

/// Whose archive it is.
fn identity(copy: &LocalCopy, state: &State) -> ArchiveId {
    let record = &copy.record;
    ArchiveId::of(&format!("{:?} {} {}", state.cluster.id, record.group, record.shard))
}
