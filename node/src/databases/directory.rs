//! What those who route statements are told.

use std::collections::HashMap;
use std::sync::Arc;

use rung_control_plane::{State, View};
use rung_db::{Copy, Database, Directory, ShardPlace};
use rung_proto::soft::{CopyKind, CopyState};

use super::{Databases, LocalCopy};

impl Databases {
    /// Tells it if it changed.
    pub(super) fn publish_directory(&self, state: &State, view: &View) {
        let local = self.lock().clone();
        let mut databases = HashMap::new();
        for record in state.databases.values() {
            let mut database = Database::default();
            for (number, shard) in record.shards.iter().filter(|(_, shard)| shard.founded) {
                let primary = view.primary(shard.group);
                let copies = state.nodes.values().filter_map(|node| {
                    let copy = view.copy(node.id, shard.group)?;
                    // A witness is there for votes; reads go to those that are wanted.
                    let reads = copy.kind != CopyKind::Witness && copy.state == CopyState::Serving;
                    let serves = reads && view.is_up(node.id);
                    Some(Copy { node: node.id, dc: node.dc.clone(), serves })
                });
                let here = local.get(&shard.group);
                let place = ShardPlace {
                    primary: primary
                        .filter(|(_, copy)| copy.state == CopyState::Serving)
                        .map(|(node, _)| node),
                    copies: copies.collect(),
                    local: here.and_then(LocalCopy::usable),
                };
                database.shards.insert(u16::try_from(*number).unwrap_or(u16::MAX), place);
            }
            databases.insert(record.name.clone(), database);
        }
        let nodes = state.nodes.keys().copied().filter(|node| view.is_up(*node)).collect();
        let directory = Directory { databases, nodes };
        self.directory.send_if_modified(|known| {
            // A shard handle cannot be compared; what it says of itself can.
            let differs = format!("{known:?}") != format!("{directory:?}");
            if differs {
                *known = Arc::new(directory);
            }
            differs
        });
    }
}

impl LocalCopy {
    fn usable(&self) -> Option<rung_shard::Shard> {
        self.shard.clone().filter(|_| self.problem.is_none())
    }
}
