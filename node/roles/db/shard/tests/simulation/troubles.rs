//! What befalls the nodes and the links.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rung_consensus::simulation::Weather;
use rung_pages::simulation::Failure;
use rung_proto::NodeId;
use tokio::time::sleep;

use crate::cluster::{Cluster, End, NODES};

/// Everything that goes wrong in a run, by chance.
pub struct Troubles {
    pub cluster: Arc<Cluster>,
    pub rng: StdRng,
}

impl Troubles {
    fn time(&mut self, longest_ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(5..longest_ms))
    }

    /// Half of the time the primary, if there is one.
    fn node(&mut self) -> NodeId {
        let primary = self.cluster.primary().filter(|_| self.rng.random_bool(0.5));
        primary.map_or_else(|| NodeId(self.rng.random_range(1..=NODES)), |(id, _)| id)
    }

    pub async fn next(&mut self) {
        sleep(self.time(600)).await;
        match self.rng.random_range(0..17) {
            0..4 => self.crash().await,
            4 => self.crash_all().await,
            5 | 6 => self.fail_files().await,
            7 => self.fail_log().await,
            8 | 9 => self.cut_off(),
            10 => self.cut_one_way(),
            11 => {
                let (node, time) = (self.node(), self.time(500));
                self.cluster.note(format!("node {} is paused for {time:?}", node.0));
                self.cluster.links.pause(node, time);
            }
            12 => self.bad_weather(),
            13 => self.cluster.links.set_weather(Weather::FAIR),
            14 => self.hand_over().await,
            15 => self.suspect().await,
            _ => self.replace().await,
        }
    }

    fn end(&mut self) -> End {
        if self.rng.random_bool(0.7) { End::PowerLoss } else { End::Kill }
    }

    async fn crash(&mut self) {
        let (node, end, time) = (self.node(), self.end(), self.time(500));
        self.cluster.crash(node, end).await;
        self.start_later(node, time);
    }

    /// The power of the whole house, say.
    async fn crash_all(&mut self) {
        let end = self.end();
        let all = self.cluster.ids();
        let crashes = all.iter().map(|id| self.cluster.crash(*id, end));
        futures_util::future::join_all(crashes).await;
        for id in all {
            let time = self.time(200);
            self.start_later(id, time);
        }
    }

    fn start_later(&self, node: NodeId, time: Duration) {
        let cluster = Arc::clone(&self.cluster);
        tokio::spawn(async move {
            sleep(time).await;
            cluster.start(node).await;
        });
    }

    /// Within the next operations on SQLite's files the power goes, a sync fails, or
    /// the disk is full for a while; whoever watches the node starts it again.
    async fn fail_files(&mut self) {
        let (node, after) = (self.node(), self.rng.random_range(1..60));
        let failure = match self.rng.random_range(0..4) {
            0 => Failure::Sync,
            1 => Failure::Full(self.rng.random_range(1..40)),
            _ => Failure::PowerCut,
        };
        self.cluster.note(format!("{failure:?} of the files of node {} after {after}", node.0));
        self.cluster.with_node(node, |node| node.fail_files(after, failure)).await;
    }

    async fn fail_log(&mut self) {
        let (node, after) = (self.node(), self.rng.random_range(0..6));
        self.cluster.note(format!("a sync of the log of node {} fails after {after}", node.0));
        self.cluster.with_node(node, |node| node.fail_log_sync(after)).await;
    }

    /// Cuts and pauses end after a while, all at once.
    fn mend_later(&mut self) {
        let time = self.time(700);
        let cluster = Arc::clone(&self.cluster);
        tokio::spawn(async move {
            sleep(time).await;
            cluster.note("links are mended".to_owned());
            cluster.links.mend();
        });
    }

    fn cut_off(&mut self) {
        let node = self.node();
        self.cluster.note(format!("node {} is cut off", node.0));
        for other in self.cluster.ids() {
            self.cluster.links.cut(node, other);
            self.cluster.links.cut(other, node);
        }
        self.mend_later();
    }

    fn cut_one_way(&mut self) {
        let (node, outwards) = (self.node(), self.rng.random_bool(0.5));
        self.cluster.note(format!("node {} is cut off, outwards: {outwards}", node.0));
        for other in self.cluster.ids() {
            let (from, to) = if outwards { (node, other) } else { (other, node) };
            self.cluster.links.cut(from, to);
        }
        self.mend_later();
    }

    fn bad_weather(&mut self) {
        let weather = Weather {
            loss: self.rng.random_range(0.0..0.1),
            doubling: self.rng.random_range(0.0..0.2),
            delay: (Duration::from_micros(self.rng.random_range(100..2000)), self.time(60)),
        };
        self.cluster.links.set_weather(weather);
    }

    async fn hand_over(&mut self) {
        let to = NodeId(self.rng.random_range(1..=NODES));
        let Some((_, life)) = self.cluster.primary() else { return };
        self.cluster.note(format!("it is handed over to node {}", to.0));
        tokio::select! {
            biased;
            () = life.crash() => {}
            // It may fail for many reasons; what must hold is checked elsewhere.
            _ = life.shard.hand_over(to, Duration::from_millis(400)) => {}
        }
    }

    /// Some believe that the primary's process has ended, rightly or not.
    async fn suspect(&mut self) {
        for (node, life) in self.cluster.running() {
            let group = life.shard.group();
            if let Some((leader, _)) = group.silent_leader()
                && self.rng.random_bool(0.6)
            {
                self.cluster.note(format!("node {} suspects node {}", node.0, leader.0));
                group.suspect_leader(leader, true).await;
            }
        }
    }

    async fn replace(&mut self) {
        let node = NodeId(self.rng.random_range(1..=NODES));
        self.cluster.replace_copy(node, Duration::from_millis(500)).await;
    }
}
