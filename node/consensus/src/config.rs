//! Limits and timeouts of a group.

use std::time::Duration;

use rung_proto::GroupId;

/// How one group behaves. All its replicas should use the same timeouts.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Which group.
    pub group: GroupId,
    /// A name for logs, for example `control` or `db/orders/0`.
    pub name: String,
    /// How often a leader that has nothing else to say tells its followers that
    /// it lives. Where an answer takes longer, as often as answers come.
    pub heartbeat: Duration,
    /// A follower that hears nothing waits at least the first, at most the
    /// second, before it asks for votes. The first must exceed twice the heartbeat, and
    /// round trips between voters must take less than three quarters of it.
    pub election: (Duration, Duration),
    /// A snapshot is made after this many entries since the last one.
    pub snapshot_entries: u64,
    /// And after this many bytes of entries since the last one.
    pub snapshot_bytes: u64,
    /// How many entries that are in a snapshot stay in the log, so that a
    /// replica that was away for a moment needs no snapshot.
    pub keep_entries: u64,
    /// The largest proposal, in bytes. At most 3 MiB, so that one entry fits a
    /// frame of the mesh.
    pub max_payload: usize,
    /// How many bytes of entries one message carries; a larger single entry
    /// still travels, alone.
    pub append_bytes: usize,
    /// How many messages with entries may be under way to one follower.
    pub append_window: usize,
    /// How many proposals may wait for their answer at once; more are refused
    /// as overloaded.
    pub max_waiting: usize,
    /// How many bytes of proposals may wait for their answer at once.
    pub max_waiting_bytes: usize,
    /// How long one transfer of a snapshot may take.
    pub snapshot_deadline: Duration,
}

impl GroupConfig {
    /// The defaults: 250 ms heartbeats, elections after 1 to 2 s, a snapshot
    /// every 10,000 entries or 64 MiB, proposals up to 1 MiB.
    pub fn new(group: GroupId, name: impl Into<String>) -> Self {
        Self {
            group,
            name: name.into(),
            heartbeat: Duration::from_millis(250),
            election: (Duration::from_secs(1), Duration::from_secs(2)),
            snapshot_entries: 10_000,
            snapshot_bytes: 64 << 20,
            keep_entries: 1_000,
            max_payload: 1 << 20,
            append_bytes: 256 << 10,
            append_window: 8,
            max_waiting: 4_096,
            max_waiting_bytes: 64 << 20,
            snapshot_deadline: Duration::from_secs(600),
        }
    }

    pub(crate) fn election_max(&self) -> Duration {
        self.election.1
    }

    /// How long the answer to a heartbeat may take. The protocol has one number for
    /// this and for the time between two: were it that time, no leader could be sure of
    /// followers that are further away than that.
    fn heartbeat_deadline(&self) -> Duration {
        self.election.0 * 3 / 4
    }

    /// The settings of the protocol itself.
    pub(crate) fn to_raft(&self) -> Result<openraft::Config, String> {
        if self.max_payload > MAX_PAYLOAD {
            return Err(format!(
                "max_payload is {} bytes; it may be at most {MAX_PAYLOAD}",
                self.max_payload
            ));
        }
        if self.heartbeat * 2 > self.election.0 {
            return Err(format!(
                "elections begin after {:?}, which is less than two heartbeats of {:?}",
                self.election.0, self.heartbeat
            ));
        }
        if self.append_window == 0 || self.max_waiting == 0 || self.append_bytes == 0 {
            return Err("append_window, append_bytes and max_waiting must not be zero".to_owned());
        }
        let config = openraft::Config {
            cluster_name: self.name.clone(),
            heartbeat_interval: millis(self.heartbeat_deadline()),
            election_timeout_min: millis(self.election.0),
            election_timeout_max: millis(self.election.1),
            install_snapshot_timeout: millis(self.snapshot_deadline),
            max_payload_entries: 4_096,
            // Without a snapshot nothing is purged, so a follower that lags is
            // served from the log for as long as the log has what it needs.
            replication_lag_threshold: u64::MAX,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_entries.max(1)),
            max_in_snapshot_log_to_keep: self.keep_entries,
            api_channel_size: Some(u64::try_from(self.max_waiting).unwrap_or(u64::MAX).max(64)),
            notification_channel_size: Some(1_024),
            state_machine_channel_size: Some(256),
            // A leader that restarts asks for votes like everybody else: what it
            // remembers as committed may be older than what it has answered.
            enable_leader_restore: Some(false),
            enable_pre_vote: Some(true),
            // Until it is known that the replica has forgotten nothing; see
            // `returning`.
            enable_elect: false,
            allow_log_reversion: Some(false),
            // A leader that is heard but hears nobody falls silent from time to
            // time, so that its followers may elect another.
            quorum_loss_probe_interval: Some(2 * millis(self.election.1)),
            backoff: "20ms 40ms 80ms ...500ms".to_owned(),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| error.to_string())
    }
}

/// The largest payload that any group may allow.
pub const MAX_PAYLOAD: usize = 3 << 20;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
