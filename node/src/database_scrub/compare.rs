//! One scrub, as the primary runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rung_proto::NodeId;
use rung_proto::soft::ScrubStatus;
use rung_shard::{ScrubPart, Shard};
use tokio::time::{Instant, sleep};

use super::judge::{Found, Verdict, judge, judge_checked};
use super::service::{self, ScrubReply, ScrubRequest};
use super::{Asked, stops};
use crate::clock::now_ms;
use crate::databases::LocalCopy;
use crate::node::Node;

/// Pages that are compared at once: 1 MiB.
const PART: u32 = 256;
const PART_BYTES: u64 = PART as u64 * 4096;
const MARK: Duration = Duration::from_secs(10);
/// How long a copy may take to come to a mark before the scrub goes on without it.
const BEHIND: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// Lines about damage that are kept.
const MOST_LINES: usize = 8;

pub struct Scrub {
    node: Arc<Node>,
    copy: LocalCopy,
    shard: Shard,
    asked: Asked,
    status: ScrubStatus,
    /// Those that were found damaged, or too slow, and are left out.
    without: BTreeSet<NodeId>,
}

impl Scrub {
    pub fn new(node: Arc<Node>, copy: LocalCopy, shard: Shard, asked: Asked) -> Self {
        let before = node.databases.scrubs().status.remove(&copy.record.group);
        let before = before.unwrap_or_default();
        let status = ScrubStatus {
            id: asked.id,
            running: true,
            complete_ms: before.complete_ms,
            total_pages: before.total_pages,
            total_damage: before.total_damage,
            ..ScrubStatus::default()
        };
        let scrub = Self { node, copy, shard, asked, status, without: BTreeSet::new() };
        scrub.tell();
        scrub
    }

    fn tell(&self) {
        let (group, status) = (self.copy.record.group, self.status.clone());
        self.node.databases.scrubs().status.insert(group, status);
    }

    pub async fn run(mut self) {
        let database = self.copy.record.database.clone();
        tracing::info!(role = "db", database, "a scrub begins");
        let ended = self.compare_all().await;
        self.status.running = false;
        match ended {
            Ok(()) => self.status.complete_ms = now_ms(),
            Err(why) => self.status.problem = Some(why),
        }
        let status = &self.status;
        let (pages, problem, damage) = (status.pages_done, &status.problem, &status.damage);
        tracing::info!(role = "db", database, pages, ?problem, ?damage, "a scrub has ended");
        self.tell();
    }

    async fn compare_all(&mut self) -> Result<(), String> {
        let mut first = 1;
        loop {
            let began = Instant::now();
            let mine = self.shard.scrub(self.asked.id, first, PART, MARK).await;
            let mine = mine.map_err(|error| format!("it ended early: {error}"))?;
            self.compare(first, &mine).await;
            if stops(&self.copy) {
                return Err("the primary's own copy is damaged; another takes over".to_owned());
            }
            let last = (first - 1 + PART).min(mine.size);
            self.status.total_pages += u64::from(last.saturating_sub(first - 1));
            (self.status.pages_done, self.status.pages) = (last.into(), mine.size.into());
            self.tell();
            if last >= mine.size {
                return Ok(());
            }
            first += PART;
            let rest = Duration::from_micros(PART_BYTES * 1_000_000 / self.asked.rate.max(1));
            sleep(rest.saturating_sub(began.elapsed())).await;
        }
    }

    /// The other copies of the group that hold pages.
    fn others(&self) -> Vec<NodeId> {
        let Some(group) = self.node.consensus.group(self.copy.record.group) else {
            return Vec::new();
        };
        let status = group.status();
        let status = status.borrow();
        let all = status.voters.iter().chain(&status.learners).copied();
        all.filter(|other| *other != self.node.id && !self.without.contains(other)).collect()
    }

    /// Compares what all copies found of some pages, and has those that are damaged made
    /// anew.
    async fn compare(&mut self, first: u32, mine: &ScrubPart) {
        let others = self.others();
        let answers = join_all(others.iter().map(|other| self.ask(*other, first))).await;
        let mut found: BTreeMap<NodeId, Found> = others.iter().copied().zip(answers).collect();
        found.insert(self.node.id, found_of(mine));
        for (node, _) in found.iter().filter(|(_, found)| **found == Found::Silent) {
            let name = self.node.control.state().node_name(*node);
            self.status.problem = Some(format!("{name} did not answer and was not compared"));
            self.without.insert(*node);
        }
        let damaged = match judge(&found) {
            Verdict::Equal => return,
            Verdict::Damaged(damaged) => damaged,
            Verdict::Undecided(nodes) => match judge_checked(&self.check(&nodes).await) {
                Some(damaged) => damaged,
                None => return self.report_undecided(first, &nodes),
            },
        };
        // The primary's own copy last: it ends the scrub.
        let (own, others): (Vec<_>, Vec<_>) =
            damaged.into_iter().partition(|node| *node == self.node.id);
        for node in others.into_iter().chain(own) {
            self.condemn(node, first, mine.size).await;
        }
    }

    /// What another copy found, once it has come to the mark.
    async fn ask(&self, other: NodeId, first: u32) -> Found {
        let until = Instant::now() + BEHIND;
        let request =
            ScrubRequest::Part { group: self.copy.record.group, scrub: self.asked.id, first };
        loop {
            match service::ask(&self.node, other, &request, BEHIND).await {
                Ok(ScrubReply::Part(Some(part))) => return part.found(),
                Ok(ScrubReply::Part(None)) if Instant::now() < until => sleep(ASK_AGAIN).await,
                _ => return Found::Silent,
            }
        }
    }

    /// Has copies check themselves: whether each is sound, if it could tell.
    async fn check(&self, nodes: &[NodeId]) -> BTreeMap<NodeId, Option<bool>> {
        let request = ScrubRequest::Check { group: self.copy.record.group };
        let checks = nodes.iter().map(|node| async {
            match service::ask(&self.node, *node, &request, service::CHECK).await {
                Ok(ScrubReply::Checked(sound)) => (*node, sound),
                _ => (*node, None),
            }
        });
        join_all(checks).await.into_iter().collect()
    }

    fn note_damage(&mut self, line: String) {
        let database = &self.copy.record.database;
        tracing::error!(role = "db", database, line, "a scrub found damage");
        self.status.total_damage += 1;
        if self.status.damage.len() < MOST_LINES {
            self.status.damage.push(line);
        }
        self.tell();
    }

    fn report_undecided(&mut self, first: u32, nodes: &[NodeId]) {
        let state = self.node.control.state();
        let names: Vec<String> = nodes.iter().map(|node| state.node_name(*node)).collect();
        let pages = format!("pages {first} to {}", first - 1 + PART);
        self.status.undecided = true;
        self.note_damage(format!(
            "{pages} differ between {}, and nothing tells who is right",
            names.join(" and ")
        ));
    }

    async fn condemn(&mut self, node: NodeId, first: u32, size: u32) {
        let name = self.node.control.state().node_name(node);
        let last = (first - 1 + PART).min(size);
        let line = format!("pages {first} to {last} on {name} are damaged; its copy is made anew");
        self.without.insert(node);
        self.note_damage(line);
        let what = format!("a scrub found that pages {first} to {last} differ from other copies'");
        let request = ScrubRequest::Condemn {
            group: self.copy.record.group,
            scrub: self.asked.id,
            first,
            what,
        };
        if let Err(error) = service::ask(&self.node, node, &request, MARK).await {
            self.status.problem = Some(format!("{name} was not told that it is damaged: {error}"));
        }
    }
}

fn found_of(part: &ScrubPart) -> Found {
    match &part.hash {
        Ok(hash) => Found::Pages { position: part.position, hash: *hash },
        Err(unread) if unread.is_damage => Found::Unreadable,
        Err(_) => Found::Silent,
    }
}
