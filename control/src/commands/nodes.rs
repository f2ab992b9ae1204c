//! Nodes and roles.

use rung_proto::api::{Change, Status};
use rung_proto::{Code, Failure, Role};

use crate::args::{NodeCommand, RoleCommand, Scaled};
use crate::client::Client;
use crate::mutation;
use crate::output::{Exit, Screen, Trouble};
use crate::render::overview;

pub async fn node(screen: &Screen, client: &Client, command: NodeCommand) -> Result<Exit, Trouble> {
    let (change, options) = match command {
        NodeCommand::Ls => return list(screen, client).await,
        NodeCommand::Drain { node, options } => (Change::Drain { node }, options),
        NodeCommand::Cordon { node, options } => (Change::Cordon { node, on: true }, options),
        NodeCommand::Uncordon { node, options } => (Change::Cordon { node, on: false }, options),
        NodeCommand::Remove { node, options } => (Change::RemoveNode { node }, options),
    };
    mutation::run(screen, client, change, &options).await
}

async fn list(screen: &Screen, client: &Client) -> Result<Exit, Trouble> {
    let status: Status = client.get("/api/v1/status").await?;
    screen.show(
        &status.nodes,
        |nodes| nodes.iter().map(|node| node.name.clone()).collect(),
        |nodes| screen.table(&overview::nodes(nodes, screen.is_wide())),
    );
    Ok(Exit::Done)
}

pub async fn role(screen: &Screen, client: &Client, command: RoleCommand) -> Result<Exit, Trouble> {
    let (change, options) = match command {
        RoleCommand::Add { node, role, options } => (Change::AddRole { node, role }, options),
        RoleCommand::Rm { node, role, options } => (Change::RemoveRole { node, role }, options),
    };
    mutation::run(screen, client, change, &options).await
}

/// The change of `ctl scale`: instances for web, nodes for the other roles.
pub fn scale(what: Scaled, count: u32, app: Option<String>) -> Result<Change, Failure> {
    match (what, app) {
        (Scaled::Role(Role::Web), app) => Ok(Change::ScaleWeb { app, count }),
        (Scaled::Role(role), None) => Ok(Change::ScaleRole { role, count }),
        // The primary is a copy, too.
        (Scaled::Replicas, None) => {
            Ok(Change::ScaleRole { role: Role::Db, count: count.saturating_add(1) })
        }
        (_, Some(_)) => {
            Err(Failure::new(Code::Usage, "only web belongs to an app").next("leave --app out"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_is_scaled_by_instances_and_other_roles_by_nodes() {
        let scale = |role, count, app| scale(Scaled::Role(role), count, app);
        assert_eq!(scale(Role::Web, 4, None), Ok(Change::ScaleWeb { app: None, count: 4 }));
        assert_eq!(scale(Role::Lb, 2, None), Ok(Change::ScaleRole { role: Role::Lb, count: 2 }));
        assert_eq!(scale(Role::Lb, 2, Some("photos".into())).unwrap_err().code, Code::Usage);
    }

    #[test]
    fn replicas_are_counted_without_the_primary() {
        let two = Change::ScaleRole { role: Role::Db, count: 3 };
        assert_eq!(scale(Scaled::Replicas, 2, None), Ok(two));
    }
}
