//! What the databases' clients on this node did, and how its copies are.

use rung_admin::prometheus::{counter, gauge};
use rung_proto::soft::{ArchiveStatus, CopyKind, CopyState, CopyStatus, ScrubStatus};
use rung_shard::ShardStatus;

use crate::node::Node;

/// What this node did for the clients that are connected to it.
pub fn clients(node: &Node, out: &mut String) {
    let Some(server) = node.sql.server() else { return };
    let done = server.statistics().counters();
    gauge(out, "rung_db_connections", "Connections of clients of databases.")
        .count(&[], server.connections() as u64);
    counter(out, "rung_db_connections_total", "Connections of clients of databases.")
        .count(&[("outcome", "accepted")], done.connections)
        .count(&[("outcome", "refused")], done.connections_refused)
        .count(&[("outcome", "login-failed")], done.logins_failed);
    counter(out, "rung_db_statements_total", "Statements of clients, those that failed included.")
        .count(&[], done.statements);
    counter(out, "rung_db_errors_total", "Statements that failed.").count(&[], done.errors);
    counter(out, "rung_db_client_writes_total", "Statements that wrote.").count(&[], done.writes);
    counter(out, "rung_db_client_reads_total", "Statements that read, by how fresh it had to be.")
        .count(&[("level", "any")], done.reads_any)
        .count(&[("level", "bounded")], done.reads_bounded)
        .count(&[("level", "session")], done.reads_session)
        .count(&[("level", "linearizable")], done.reads_linearizable)
        .count(&[("level", "primary")], done.reads_primary);
    counter(out, "rung_db_sent_total", "Operations that were executed on other nodes.")
        .count(&[], done.sent);
    counter(out, "rung_db_served_total", "Operations executed here for clients of other nodes.")
        .count(&[], done.served_for_others);
    counter(out, "rung_db_canceled_total", "Statements that were canceled.")
        .count(&[], done.canceled);
    counter(out, "rung_db_waited_total", "Statements that had to wait for a primary.")
        .count(&[], done.waited_for_primary);
    gauge(out, "rung_db_spooled_bytes", "Results that did not fit into memory.")
        .count(&[], server.spooled());
}

const KINDS: [(CopyKind, &str); 3] = [
    (CopyKind::Primary, "primary"),
    (CopyKind::Replica, "replica"),
    (CopyKind::Witness, "witness"),
];
const STATES: [(CopyState, &str); 4] = [
    (CopyState::Serving, "serving"),
    (CopyState::CatchingUp, "catching-up"),
    (CopyState::Stopped, "stopped"),
    (CopyState::Broken, "broken"),
];

/// The copies on this node.
pub fn copies(node: &Node, out: &mut String) {
    let told = node.soft.mine();
    if told.databases.is_empty() {
        return;
    }
    let labels =
        |copy: &rung_proto::soft::CopyStatus| (copy.database.clone(), copy.shard.to_string());
    let mut state = gauge(out, "rung_db_copy_state", "1 for what a copy is and does, else 0.");
    for copy in &told.databases {
        let (database, shard) = labels(copy);
        for (kind, kind_name) in KINDS {
            for (what, what_name) in STATES {
                let is = u64::from(copy.kind == kind && copy.state == what);
                let labels = [
                    ("database", database.as_str()),
                    ("shard", shard.as_str()),
                    ("kind", kind_name),
                    ("state", what_name),
                ];
                state = state.count(&labels, is);
            }
        }
    }
    let mut epoch = gauge(out, "rung_db_copy_epoch", "The term that a copy's group is in.");
    for copy in &told.databases {
        let (database, shard) = labels(copy);
        epoch = epoch.count(&[("database", &database), ("shard", &shard)], copy.epoch);
    }
    let mut lag = gauge(
        out,
        "rung_db_copy_lag_seconds",
        "Since a copy last had all that its primary had told.",
    );
    for copy in &told.databases {
        let (database, shard) = labels(copy);
        if let Some(ms) = copy.lag_ms {
            lag = lag.value(&[("database", &database), ("shard", &shard)], ms as f64 / 1e3);
        }
    }
    open_copies(node, out);
    archives(&told.databases, out);
    scrubs(&told.databases, out);
}

/// The archives that this node writes.
fn archives(copies: &[CopyStatus], out: &mut String) {
    let archives: Vec<(&str, String, &ArchiveStatus)> = copies
        .iter()
        .filter_map(|copy| {
            Some((copy.database.as_str(), copy.shard.to_string(), copy.archive.as_ref()?))
        })
        .collect();
    if archives.is_empty() {
        return;
    }
    type Value = fn(&ArchiveStatus) -> u64;
    let series: [(&str, &str, Value); 4] = [
        ("rung_db_archive_position", "The last batch in an archive.", |it| it.sequence),
        (
            "rung_db_archive_complete_timestamp_ms",
            "When an archive last had everything, since 1970.",
            |it| it.complete_ms,
        ),
        ("rung_db_archive_gaps", "How often the log lacked what came next.", |it| it.gaps),
        ("rung_db_archive_failing", "1 while an archive cannot be written.", |it| {
            u64::from(it.problem.is_some())
        }),
    ];
    for (name, what, value) in series {
        let mut series = gauge(out, name, what);
        for (database, shard, status) in &archives {
            series = series.count(&[("database", database), ("shard", shard)], value(status));
        }
    }
}

/// The scrubs that this node runs as the primary.
fn scrubs(copies: &[CopyStatus], out: &mut String) {
    let scrubs: Vec<(&str, String, &ScrubStatus)> = copies
        .iter()
        .filter_map(|copy| {
            Some((copy.database.as_str(), copy.shard.to_string(), copy.scrub.as_ref()?))
        })
        .collect();
    if scrubs.is_empty() {
        return;
    }
    type Value = fn(&ScrubStatus) -> u64;
    let series: [(&str, &str, bool, Value); 3] = [
        ("rung_db_scrub_pages_total", "Pages compared between copies.", true, |it| it.total_pages),
        ("rung_db_scrub_damage_total", "Damage that scrubs found.", true, |it| it.total_damage),
        (
            "rung_db_scrub_complete_timestamp_ms",
            "When a scrub last compared everything, since 1970.",
            false,
            |it| it.complete_ms,
        ),
    ];
    for (name, what, grows, value) in series {
        let mut series = if grows { counter(out, name, what) } else { gauge(out, name, what) };
        for (database, shard, status) in &scrubs {
            series = series.count(&[("database", database), ("shard", shard)], value(status));
        }
    }
}

/// A series: its name, what it says, whether it only grows, and where it is from.
type Series = (&'static str, &'static str, bool, fn(&ShardStatus) -> u64);

const SERIES: [Series; 11] = [
    ("rung_db_copy_position", "The last batch that a copy shows.", false, |it| {
        it.position.sequence
    }),
    (
        "rung_db_copy_lag_entries",
        "Entries of the log that it has and does not show yet.",
        false,
        |it| it.lag,
    ),
    ("rung_db_copy_reads_total", "Reads that a copy executed.", true, |it| it.reads),
    ("rung_db_copy_writes_total", "Writes that it executed as primary.", true, |it| it.writes),
    ("rung_db_copy_batches_total", "Batches of writes that it proposed.", true, |it| it.batches),
    ("rung_db_copy_wal_bytes", "SQLite's log beside its file.", false, |it| it.wal_bytes),
    ("rung_db_copy_queued", "Writes that wait for the writer.", false, |it| it.queued as u64),
    ("rung_db_copy_in_flight", "Batches executed and not on a quorum yet.", false, |it| {
        it.in_flight as u64
    }),
    ("rung_db_copy_drafts", "Transactions that do not hold the writer.", false, |it| {
        it.drafts as u64
    }),
    (
        "rung_db_copy_conflicts_total",
        "Transactions whose commit failed because others had changed what they read.",
        true,
        |it| it.conflicts,
    ),
    ("rung_db_copy_reading", "Reads under way.", false, |it| it.reading as u64),
];

fn open_copies(node: &Node, out: &mut String) {
    let copies = node.databases.copies();
    let open = copies.iter().filter_map(|copy| {
        let status = copy.shard.as_ref()?.status();
        Some((copy.record.database.clone(), copy.record.shard.to_string(), status))
    });
    let open: Vec<_> = open.collect();
    for (name, what, grows, value) in SERIES {
        let mut series = if grows { counter(out, name, what) } else { gauge(out, name, what) };
        for (database, shard, status) in &open {
            series = series.count(&[("database", database), ("shard", shard)], value(status));
        }
    }
}
