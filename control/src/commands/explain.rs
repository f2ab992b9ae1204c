//! Explains codes, operations and nodes.

use rung_proto::api::{Event, Node, NodeState, Operation, Status};
use rung_proto::{Code, Failure};
use serde::Serialize;

use crate::client::Client;
use crate::codes::{self, EXPLAINED};
use crate::output::{Exit, Screen, Trouble};
use crate::render::table::Table;
use crate::render::text::{clean, wrap};
use crate::render::{operation, overview};

#[derive(Serialize)]
struct Explained<'a> {
    code: Code,
    exit_code: u8,
    text: &'a str,
}

pub async fn run(
    screen: &Screen,
    client: impl FnOnce() -> Result<Client, Failure>,
    subject: Option<&str>,
) -> Result<Exit, Trouble> {
    let Some(subject) = subject else {
        list(screen);
        return Ok(Exit::Done);
    };
    if let Some(code) = Code::from_name(subject) {
        explain_code(screen, code);
        return Ok(Exit::Done);
    }
    let client = client()?;
    if let Ok(id) = subject.parse::<u64>() {
        let operation: Operation = client.get(&format!("/api/v1/operations/{id}")).await?;
        screen.show(
            &operation,
            |operation| vec![operation.id.to_string()],
            |operation| {
                let page = operation::page(operation, screen.color);
                format!("{page}{}", what_now(operation))
            },
        );
        return Ok(Exit::Done);
    }
    let status: Status = client.get("/api/v1/status").await?;
    let Some(node) = status.nodes.iter().find(|node| node.name == subject) else {
        let nodes: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(Failure::new(Code::NotFound, format!("there is nothing called {subject:?}"))
            .because(format!("it is no error code, no operation, and no node of {nodes:?}"))
            .next("`ctl explain` lists the codes, `ctl op ls` the operations")
            .into());
    };
    let events = recent_events(&client, &node.name).await?;
    let page = || node_page(&status, node, &events, screen);
    screen.show(node, |node| vec![node.name.clone()], |_| page());
    Ok(Exit::Done)
}

fn list(screen: &Screen) {
    let all: Vec<Explained> = EXPLAINED
        .iter()
        .map(|(code, text)| Explained { code: *code, exit_code: code.exit_code(), text })
        .collect();
    screen.show(
        &all,
        |all| all.iter().map(|explained| explained.code.name()).collect(),
        |all| {
            let mut table = Table::new(&["CODE", "EXIT", "MEANING"]);
            for explained in all {
                let first = explained.text.split_once(". ").map_or(explained.text, |(s, _)| s);
                table.row(vec![
                    explained.code.name().into(),
                    explained.exit_code.to_string().into(),
                    first.into(),
                ]);
            }
            screen.table(&table)
        },
    );
}

fn explain_code(screen: &Screen, code: Code) {
    let explained = Explained { code, exit_code: code.exit_code(), text: codes::text(code) };
    screen.show(
        &explained,
        |explained| vec![explained.code.name()],
        |explained| {
            format!("{code} (ctl exits with {})\n\n{}", code.exit_code(), wrap(explained.text, 80))
        },
    );
}

fn what_now(operation: &Operation) -> String {
    let id = operation.id;
    match (&operation.failure, operation.state.is_finished()) {
        (_, false) => format!("It still runs. Follow it with `ctl op watch {id}`.\n"),
        (Some(failure), true) => format!("\n{}", wrap(codes::text(failure.code), 80)),
        (None, true) => String::new(),
    }
}

async fn recent_events(client: &Client, node: &str) -> Result<Vec<Event>, Failure> {
    let mut lines = client.lines::<Event>("/api/v1/events?since=0").await?;
    let mut found = std::collections::VecDeque::new();
    while let Some(event) = lines.next().await? {
        if event.node.as_deref() == Some(node) {
            found.push_back(event);
            if found.len() > 10 {
                found.pop_front();
            }
        }
    }
    Ok(found.into())
}

fn node_page(status: &Status, node: &Node, events: &[Event], screen: &Screen) -> String {
    let mut out = screen.table(&overview::nodes(std::slice::from_ref(node), screen.is_wide()));
    out.push('\n');
    out.push_str(&wrap(&node_prose(status, node), 80));
    let instances: Vec<_> = status
        .apps
        .iter()
        .cloned()
        .map(|mut app| {
            app.web.instances.retain(|instance| instance.node == node.name);
            app
        })
        .collect();
    let instances = overview::instances(&instances, screen.is_wide());
    if !instances.is_empty() {
        out.push_str(&format!("\n{}", screen.table(&instances)));
    }
    if !events.is_empty() {
        out.push_str("\nlast events\n");
    }
    for event in events {
        let line = overview::event(event, screen.is_wide(), screen.color);
        out.push_str(&format!("  {line}\n"));
    }
    out
}

/// What the state of a node means.
fn node_prose(status: &Status, node: &Node) -> String {
    let (name, by) = (clean(&node.name), clean(&status.cluster.answered_by));
    let mut prose = match node.state {
        NodeState::Alive => format!("{name} answers the other nodes. "),
        NodeState::Suspect => format!(
            "{name} did not answer {by} and some others. It is called down when it stays silent. "
        ),
        NodeState::Down => format!(
            "{name} does not answer. After a grace time its roles and instances are placed \
             elsewhere; when it starts again it takes part again. If it is gone for good: \
             `ctl node remove {name}`. "
        ),
        NodeState::Left => format!("{name} has stopped in an orderly way. "),
    };
    if node.draining {
        prose.push_str(
            "It is drained: everything moves away from it and nothing new is placed on it. ",
        );
    } else if node.cordoned {
        prose.push_str("It is cordoned: what runs there stays, nothing new is placed on it. ");
    }
    if node.draining || node.cordoned {
        prose.push_str(&format!("`ctl node uncordon {name}` ends that. "));
    }
    if !node.pinned.is_empty() {
        let pinned: Vec<&str> = node.pinned.iter().map(|role| role.name()).collect();
        prose.push_str(&format!("Set by hand and never moved: {}. ", pinned.join(", ")));
    }
    prose
}
