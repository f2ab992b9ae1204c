//! Databases and their copies.

use rung_proto::api::{ArchiveContent, DatabaseReplica, DatabaseShard, DatabaseTop};

use super::table::{Cell, Table, Tone};
use super::text::{bytes, words};
use super::time;

fn primary(shard: &DatabaseShard) -> Cell {
    match &shard.primary {
        Some(node) => node.as_str().into(),
        None => Cell::toned("none", Tone::Bad),
    }
}

fn state(replica: &DatabaseReplica) -> Cell {
    let tone = match replica.state.as_str() {
        "serving" => Tone::Good,
        "catching-up" => Tone::Warning,
        _ => Tone::Bad,
    };
    Cell::toned(replica.state.clone(), tone)
}

fn lag(replica: &DatabaseReplica) -> String {
    replica.lag_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"))
}

/// A row for each shard.
pub fn list(shards: &[DatabaseShard]) -> Table {
    let mut table = Table::new(&["DATABASE", "SHARD", "PRIMARY", "EPOCH", "REPLICAS", "WITNESS"]);
    for shard in shards {
        let replicas = shard.replicas.iter().map(|replica| match replica.state.as_str() {
            "serving" if replica.votes => replica.node.clone(),
            "serving" => format!("{} (no vote)", replica.node),
            state => format!("{} ({state})", replica.node),
        });
        table.row(vec![
            shard.database.as_str().into(),
            shard.shard.to_string().into(),
            primary(shard),
            shard.epoch.to_string().into(),
            words(replicas).into(),
            shard.witness.as_deref().unwrap_or("-").into(),
        ]);
    }
    table
}

/// A row for each copy.
pub fn copies(shards: &[DatabaseShard]) -> Table {
    let mut table =
        Table::new(&["SHARD", "NODE", "COPY", "VOTES", "STATE", "BEHIND", "POSITION", "PROBLEM"]);
    for shard in shards {
        table.row(vec![
            shard.shard.to_string().into(),
            primary(shard),
            "primary".into(),
            "yes".into(),
            "-".into(),
            "-".into(),
            shard.position.to_string().into(),
            "".into(),
        ]);
        for replica in &shard.replicas {
            table.row(vec![
                shard.shard.to_string().into(),
                replica.node.as_str().into(),
                "replica".into(),
                if replica.votes { "yes" } else { "no" }.into(),
                state(replica),
                lag(replica).into(),
                replica.position.to_string().into(),
                replica.problem.as_deref().unwrap_or("").into(),
            ]);
        }
        if let Some(witness) = &shard.witness {
            let (number, none) = (shard.shard.to_string(), || Cell::from("-"));
            let row = ["yes".into(), none(), none(), none(), "".into()];
            let mut cells = vec![number.into(), witness.as_str().into(), "witness".into()];
            cells.extend(row);
            table.row(cells);
        }
    }
    table
}

/// A row for each archive.
pub fn archives(shards: &[DatabaseShard]) -> Table {
    let mut table =
        Table::new(&["SHARD", "ARCHIVE", "BY", "POSITION", "BEHIND", "BASE", "PROBLEM"]);
    for shard in shards {
        let Some(archive) = &shard.archive else { continue };
        let behind = archive.age_ms.map_or_else(|| "-".to_owned(), |age| format!("{age} ms"));
        let problem = match (&archive.problem, archive.gaps) {
            (Some(problem), _) => problem.clone(),
            (None, 0) => String::new(),
            (None, gaps) => format!("{gaps} gaps"),
        };
        table.row(vec![
            shard.shard.to_string().into(),
            archive.dir.as_str().into(),
            archive.node.as_deref().unwrap_or("-").into(),
            archive.position.to_string().into(),
            behind.into(),
            archive.base_ms.map_or_else(|| "-".to_owned(), time::short).into(),
            Cell::toned(problem, Tone::Bad),
        ]);
    }
    table
}

/// A row for each stretch of time that can be restored.
pub fn ranges(content: &ArchiveContent) -> Table {
    let mut table = Table::new(&["FROM", "POSITION", "TO", "POSITION", "BASES", "SIZE"]);
    for range in &content.ranges {
        table.row(vec![
            time::long(range.from_ms).into(),
            range.from_position.to_string().into(),
            time::long(range.to_ms).into(),
            range.to_position.to_string().into(),
            range.bases.to_string().into(),
            bytes(range.bytes).into(),
        ]);
    }
    table
}

/// What nodes serve, the costliest statements, and the last slow ones.
pub fn top(top: &DatabaseTop) -> [Table; 3] {
    let mut nodes = Table::new(&[
        "NODE",
        "CLIENTS",
        "WRITES",
        "READS HERE",
        "AT PRIMARY",
        "FOR OTHERS",
        "ERRORS",
    ]);
    for node in &top.nodes {
        let numbers = [
            node.connections,
            node.writes,
            node.reads_replica,
            node.reads_primary,
            node.served_for_others,
            node.errors,
        ];
        let mut row = vec![Cell::from(node.node.as_str())];
        row.extend(numbers.map(|number| Cell::from(number.to_string())));
        nodes.row(row);
    }
    let mut statements =
        Table::new(&["NODE", "TOTAL ms", "CALLS", "MEAN ms", "MAX ms", "ERRORS", "STATEMENT"]);
    for one in &top.statements {
        let mean = one.total_ms / one.calls.max(1) as f64;
        statements.row(vec![
            one.node.as_str().into(),
            format!("{:.0}", one.total_ms).into(),
            one.calls.to_string().into(),
            format!("{mean:.2}").into(),
            format!("{:.1}", one.longest_ms).into(),
            one.errors.to_string().into(),
            one.text.as_str().into(),
        ]);
    }
    let mut slow = Table::new(&["NODE", "AT", "TOOK ms", "SLOW STATEMENT"]);
    for one in &top.slow {
        slow.row(vec![
            one.node.as_str().into(),
            time::short(one.at_ms).into(),
            format!("{:.0}", one.took_ms).into(),
            one.text.as_str().into(),
        ]);
    }
    [nodes, statements, slow]
}
