//! Nodes and roles.

use rung_proto::api::{Change, Status};
use rung_proto::{Code, Failure, Role};

use crate::args::{NodeCommand, RoleCommand};
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
pub fn scale(role: Role, count: u32, app: Option<String>) -> Result<Change, Failure> {
    match (role, app) {
        (Role::Web, app) => Ok(Change::ScaleWeb { app, count }),
        (role, None) => Ok(Change::ScaleRole { role, count }),
        (role, Some(_)) => Err(Failure::new(Code::Usage, format!("{role} is not part of an app"))
            .next(format!("leave --app out: ctl scale {role} {count}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_is_scaled_by_instances_and_other_roles_by_nodes() {
        assert_eq!(scale(Role::Web, 4, None), Ok(Change::ScaleWeb { app: None, count: 4 }));
        assert_eq!(scale(Role::Lb, 2, None), Ok(Change::ScaleRole { role: Role::Lb, count: 2 }));
        assert_eq!(scale(Role::Lb, 2, Some("photos".into())).unwrap_err().code, Code::Usage);
    }
}
