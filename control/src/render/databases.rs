//! Databases and their copies.

use rung_proto::api::{DatabaseReplica, DatabaseShard};

use super::table::{Cell, Table, Tone};
use super::text::words;

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
            "serving" => replica.node.clone(),
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
        Table::new(&["SHARD", "NODE", "COPY", "STATE", "BEHIND", "POSITION", "PROBLEM"]);
    for shard in shards {
        table.row(vec![
            shard.shard.to_string().into(),
            primary(shard),
            "primary".into(),
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
                state(replica),
                lag(replica).into(),
                replica.position.to_string().into(),
                replica.problem.as_deref().unwrap_or("").into(),
            ]);
        }
        if let Some(witness) = &shard.witness {
            let (number, none) = (shard.shard.to_string(), || Cell::from("-"));
            let row = [none(), none(), none(), "".into()];
            let mut cells = vec![number.into(), witness.as_str().into(), "witness".into()];
            cells.extend(row);
            table.row(cells);
        }
    }
    table
}
