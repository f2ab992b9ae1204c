//! Room on the disk of a copy that no other copy could take over from.
//!
//! A primary with replicas stops when its disk is full, and another goes on. An only
//! copy could then not even be read: opening it writes. So it takes no more writes while
//! there is still room for what its node must write anyway.

use rung_consensus::Consensus;
use rung_proto::GroupId;

use super::Databases;

/// An only copy takes no more writes when its disk has less room than this, in bytes: a
/// checkpoint, the next segment of the node's log, and what a start needs, fit in it.
const ROOM: u64 = 64 << 20;

impl Databases {
    /// Looks how much room there is.
    pub(super) fn keep_room(&self) {
        let disk = match rustix::fs::statvfs(self.data.path()) {
            Ok(disk) => disk,
            Err(error) => {
                tracing::debug!(%error, "the room on the disk is not known");
                return;
            }
        };
        let left = disk.f_bavail.saturating_mul(disk.f_frsize);
        for copy in self.copies() {
            let Some(shard) = &copy.shard else { continue };
            let keep = left < ROOM && is_only(&self.consensus, copy.record.group);
            if shard.keep_room(keep) {
                let database = &copy.record.database;
                let takes = if keep { "no writes" } else { "writes again" };
                tracing::warn!(database, left, "an only copy takes {takes}");
            }
        }
    }
}

fn is_only(consensus: &Consensus, group: GroupId) -> bool {
    consensus.group(group).is_some_and(|group| group.status().borrow().voters.len() == 1)
}
