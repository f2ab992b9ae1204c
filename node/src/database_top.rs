//! What the databases' clients do, gathered from every node.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::join_all;
use rung_proto::api::{DatabaseTop, SlowStatement, SqlNode, StatementTop};
use rung_proto::{NodeId, encoding};
use rung_transport::Lane;

use crate::node::Node;
use crate::protocol::service;

/// Statements that each node tells.
const MOST: usize = 20;
const ASK: Duration = Duration::from_secs(2);

/// What this node has served since it started.
pub fn here(node: &Node) -> DatabaseTop {
    let Some(server) = node.sql.server() else { return DatabaseTop::default() };
    let (statistics, name) = (server.statistics(), || node.name().to_owned());
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let counters = statistics.counters();
    let state = node.control.state();
    let at_ms = |at: std::time::SystemTime| {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    };
    DatabaseTop {
        nodes: vec![SqlNode {
            node: name(),
            connections: server.connections() as u64,
            writes: counters.writes,
            reads_primary: counters.reads_primary,
            reads_replica: counters.reads_any
                + counters.reads_bounded
                + counters.reads_session
                + counters.reads_linearizable,
            served_for_others: counters.served_for_others,
            errors: counters.errors,
        }],
        statements: statistics
            .top(MOST)
            .into_iter()
            .map(|statement| StatementTop {
                node: name(),
                text: statement.text,
                calls: statement.calls,
                errors: statement.errors,
                total_ms: milliseconds(statement.total),
                longest_ms: milliseconds(statement.longest),
            })
            .collect(),
        slow: statistics
            .slow()
            .into_iter()
            .map(|slow| SlowStatement {
                node: name(),
                at_ms: at_ms(slow.at),
                took_ms: milliseconds(slow.took),
                text: slow.text,
                database: slow.database,
                user: slow.user,
                rows: slow.rows,
                executed_on: slow.executed_on.map_or_else(name, |other| state.node_name(other)),
            })
            .collect(),
    }
}

/// What all nodes that answer have served. One that is silent is left out.
pub async fn everywhere(node: &Arc<Node>) -> DatabaseTop {
    let mut all = here(node);
    let members = node.membership.view();
    let others = members.active().map(|member| member.node).filter(|other| *other != node.id);
    let answers = join_all(others.map(|other| ask(node, other))).await;
    for answer in answers.into_iter().flatten() {
        all.nodes.extend(answer.nodes);
        all.statements.extend(answer.statements);
        all.slow.extend(answer.slow);
    }
    all.nodes.sort_by(|a, b| a.node.cmp(&b.node));
    all.statements.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms));
    all.slow.sort_by_key(|slow| slow.at_ms);
    all
}

async fn ask(node: &Node, other: NodeId) -> Option<DatabaseTop> {
    let call = node.mesh.call(other, Lane::Calls, service::DATABASE_TOP, Bytes::new(), ASK);
    match call.await {
        Ok(answer) => encoding::decode(&answer).ok(),
        Err(error) => {
            tracing::debug!(%other, %error, "a node did not tell what its clients do");
            None
        }
    }
}
