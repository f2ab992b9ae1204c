//! A cluster's databases, as `ctl` shows and changes them.

use std::time::Duration;

use rung_proto::api::{DatabaseReplica, DatabaseShard, DatabaseUrl, Status};

use crate::cluster::{Cluster, SOON};
use crate::process::run;
use crate::sql::Door;
use crate::wait::{eventually, until};
use crate::workload::Doors;

/// Longer than `ctl` waits for a node that does not answer.
const ASK: Duration = Duration::from_secs(30);

impl Cluster {
    /// Creates a database with so many copies beside the primary's, and waits until
    /// all of them serve.
    #[track_caller]
    pub fn create_database(&self, database: &str, replicas: usize) {
        self.ctl(&["db", "create", database]).expect(0);
        if replicas > 0 {
            self.ctl(&["scale", "replicas", &replicas.to_string()]).expect(0);
        }
        self.wait_serving(database, replicas);
    }

    /// The first shard of a database in the eyes of a node.
    #[track_caller]
    fn shard_of(&self, node: &str, database: &str) -> Option<DatabaseShard> {
        let asked = run(&mut self.ctl_command(node, &["status", "-o", "json"]), ASK);
        let status: Status = serde_json::from_str(&asked.stdout).ok()?;
        status.db.into_iter().find(|shard| shard.database == database && shard.shard == 0)
    }

    /// The first shard of a database, in the eyes of whoever knows the latest of the
    /// nodes that run, but for those that are not to be asked.
    #[track_caller]
    pub fn shard(&self, database: &str, except: &[&str]) -> Option<DatabaseShard> {
        let asked = self.running().into_iter().filter(|node| !except.contains(&node.as_str()));
        let known = asked.filter_map(|node| self.shard_of(&node, database));
        known.max_by_key(|shard| (shard.epoch, shard.position))
    }

    /// The node whose copy takes writes, once there is one.
    #[track_caller]
    pub fn primary(&self, database: &str, except: &[&str]) -> String {
        until("the database has a primary", SOON, || {
            let primary = self.shard(database, except)?.primary?;
            (self.is_up(&primary) && !except.contains(&primary.as_str())).then_some(primary)
        })
    }

    /// Until there is a primary and so many copies beside it that serve.
    #[track_caller]
    pub fn wait_serving(&self, database: &str, replicas: usize) -> Duration {
        // Of an even number of copies beyond two, one does not vote.
        let voting = if replicas % 2 == 1 && replicas > 1 { replicas - 1 } else { replicas };
        eventually(&format!("{database} has a primary and {replicas} replicas"), SOON, || {
            let Some(shard) = self.shard(database, &[]) else { return false };
            let serving: Vec<_> = shard.replicas.iter().filter(serves).collect();
            let votes = serving.iter().filter(|replica| replica.votes).count();
            shard.primary.is_some() && serving.len() >= replicas && votes >= voting
        })
    }

    /// Until every copy has all that the primary has, which nobody writes to any
    /// more, and gives the nodes of the replicas.
    #[track_caller]
    pub fn wait_level(&self, database: &str) -> Vec<String> {
        until("the replicas have all that the primary has", SOON, || {
            let shard = self.shard(database, &[])?;
            let level =
                |replica: &DatabaseReplica| serves(&replica) && replica.position == shard.position;
            let all = shard.primary.is_some() && shard.replicas.iter().all(level);
            all.then(|| shard.replicas.into_iter().map(|replica| replica.node).collect())
        })
    }

    /// A node's doors to a database.
    ///
    /// # Panics
    /// When it does not tell the URLs.
    #[track_caller]
    pub fn doors(&self, node: &str, database: &str) -> Doors {
        let urls = until("the node knows the database's URLs", SOON, || {
            let asked = self.ctl_of(node, &["db", "url", database, "-o", "json"]);
            serde_json::from_str::<DatabaseUrl>(&asked.stdout).ok()
        });
        let write = Door::new(node, &urls.url, self.namespace(node));
        let read = write.with_url(&urls.replica_url);
        Doors { write, read }
    }
}

fn serves(replica: &&DatabaseReplica) -> bool {
    replica.state == "serving"
}
