//! The state of the cluster: nodes, apps, instances, machines.

use rung_proto::Role;
use rung_proto::api::{
    App, ControlRole, Event, LogLine, Node, NodeState, OperationState, Status, Top,
};
use rung_proto::soft::InstanceState;

use super::table::{Cell, Table, Tone};
use super::text::{bytes, clean, percent, words};
use super::{databases, operation, time};

pub fn node_state(node: &Node) -> Cell {
    let (word, tone) = match node.state {
        NodeState::Alive => ("alive", Tone::Good),
        NodeState::Suspect => ("suspect", Tone::Warning),
        NodeState::Down => ("down", Tone::Bad),
        NodeState::Left => ("left", Tone::Soft),
    };
    match (node.draining, node.cordoned) {
        (true, _) => Cell::toned(format!("{word},draining"), Tone::Warning),
        (false, true) => Cell::toned(format!("{word},cordoned"), Tone::Warning),
        (false, false) => Cell::toned(word, tone),
    }
}

fn control_word(control: ControlRole) -> &'static str {
    match control {
        ControlRole::Leader => "leader",
        ControlRole::Voter => "voter",
        ControlRole::Follower => "follower",
    }
}

/// A node's roles, those set by hand with a star.
fn roles(node: &Node) -> String {
    let name = |role: &Role| {
        let pinned = if node.pinned.contains(role) { "*" } else { "" };
        format!("{role}{pinned}")
    };
    words(node.roles.iter().map(name))
}

/// The list of `ctl node ls`.
pub fn nodes(nodes: &[Node], wide: bool) -> Table {
    let mut headings = vec!["NODE", "DC", "STATE", "CONTROL", "ROLES", "ADDRESS"];
    if wide {
        headings.extend(["ID", "STARTS", "VERSION"]);
    }
    let mut table = Table::new(&headings);
    for node in nodes {
        let mut row: Vec<Cell> = vec![
            node.name.as_str().into(),
            node.dc.as_str().into(),
            node_state(node),
            control_word(node.control).into(),
            roles(node).into(),
            node.address.as_str().into(),
        ];
        if wide {
            row.extend([
                node.id.to_string().into(),
                node.incarnation.to_string().into(),
                node.version.as_str().into(),
            ]);
        }
        table.row(row);
    }
    table
}

fn healthy(app: &App) -> Cell {
    let text = format!("{}/{}", app.web.healthy, app.web.want);
    let tone = match app.web.healthy {
        0 if app.web.want > 0 => Tone::Bad,
        healthy if healthy < app.web.want => Tone::Warning,
        _ => Tone::Good,
    };
    Cell::toned(text, tone)
}

/// The list of `ctl app ls`.
pub fn apps(apps: &[App]) -> Table {
    let mut table = Table::new(&["APP", "RELEASE", "WEB", "DOMAIN"]);
    for app in apps {
        table.row(vec![
            app.name.as_str().into(),
            app.release.to_string().into(),
            healthy(app),
            app.domain.as_deref().unwrap_or("-").into(),
        ]);
    }
    table
}

fn instance_state(state: InstanceState) -> Cell {
    match state {
        InstanceState::Starting => Cell::toned("starting", Tone::Warning),
        InstanceState::Healthy => Cell::toned("healthy", Tone::Good),
        InstanceState::Draining => Cell::toned("draining", Tone::Soft),
        InstanceState::Failed => Cell::toned("failed", Tone::Bad),
        InstanceState::Stopped => Cell::toned("stopped", Tone::Soft),
    }
}

/// The instances of apps.
pub fn instances<'a>(apps: impl IntoIterator<Item = &'a App>, wide: bool) -> Table {
    let mut headings = vec!["INSTANCE", "APP", "NODE", "STATE", "RELEASE", "RESTARTS"];
    if wide {
        headings.extend(["PID", "PORT"]);
    }
    headings.push("PROBLEM");
    let mut table = Table::new(&headings);
    let number = |n: Option<String>| n.unwrap_or_else(|| "-".to_owned());
    for app in apps {
        for instance in &app.web.instances {
            let mut row: Vec<Cell> = vec![
                instance.id.to_string().into(),
                app.name.as_str().into(),
                instance.node.as_str().into(),
                instance_state(instance.state),
                instance.release.to_string().into(),
                instance.restarts.to_string().into(),
            ];
            if wide {
                row.push(number(instance.pid.map(|pid| pid.to_string())).into());
                row.push(number(instance.port.map(|port| port.to_string())).into());
            }
            row.push(instance.problem.as_deref().unwrap_or("").into());
            table.row(row);
        }
    }
    table
}

/// The page of `ctl status`.
pub fn status(status: &Status, columns: Option<usize>, color: bool, now_ms: u64) -> String {
    let wide = columns.is_none();
    let cluster = &status.cluster;
    let leader = match &cluster.leader {
        Some(leader) => clean(leader),
        None => Tone::Bad.paint("unknown", color),
    };
    let mut out = format!(
        "cluster {}  leader {leader}  index {}  seen from {}\n",
        clean(&cluster.name),
        cluster.index,
        clean(&cluster.answered_by)
    );
    if !cluster.roles.is_empty() {
        let counts = cluster.roles.iter().map(|(role, count)| {
            let text = format!("{role} {}/{}", count.have, count.want);
            let tone = if count.have < count.want { Tone::Warning } else { Tone::Plain };
            tone.paint(&text, color)
        });
        out.push_str(&format!("roles {}\n", counts.collect::<Vec<_>>().join("  ")));
    }
    let running: Vec<_> = status
        .operations
        .iter()
        .filter(|operation| wide || operation.state == OperationState::Running)
        .cloned()
        .collect();
    let tables = [
        nodes(&status.nodes, wide),
        apps(&status.apps),
        instances(&status.apps, wide),
        databases::list(&status.db),
        operation::table(&running, wide, now_ms),
    ];
    for table in tables.iter().filter(|table| !table.is_empty()) {
        out.push('\n');
        out.push_str(&table.render(columns, color));
    }
    if !status.warnings.is_empty() {
        out.push('\n');
    }
    for warning in &status.warnings {
        out.push_str(&format!("{} {}\n", Tone::Warning.paint("warning:", color), clean(warning)));
    }
    out
}

/// The page of `ctl app show`.
pub fn app(app: &App, columns: Option<usize>, color: bool) -> String {
    let mut out = apps(std::slice::from_ref(app)).render(columns, color);
    let instances = instances([app], columns.is_none());
    if !instances.is_empty() {
        out.push('\n');
        out.push_str(&instances.render(columns, color));
    }
    for instance in &app.web.instances {
        if let Some(problem) = &instance.problem {
            out.push_str(&format!("\ninstance {} on {}\n", instance.id, clean(&instance.node)));
            for line in problem.lines() {
                out.push_str(&format!("  {}\n", clean(line)));
            }
        }
    }
    out
}

/// The page of `ctl top`.
pub fn top(top: &Top, columns: Option<usize>, color: bool) -> String {
    let mut nodes =
        Table::new(&["NODE", "CPU", "CORES", "MEMORY", "DISK FREE", "RECEIVED", "SENT", "RUNGD"]);
    let mut actors =
        Table::new(&["NODE", "ACTOR", "ROLE", "WAITING", "CAPACITY", "HANDLED", "RESTARTS"]);
    for node in &top.nodes {
        let host = &node.host;
        let used = host.memory_total.saturating_sub(host.memory_available);
        let cpu_tone = if host.cpu > 0.9 { Tone::Bad } else { Tone::Plain };
        let disk_low = host.disk_available < host.disk_total / 10;
        let disk_tone = if disk_low { Tone::Bad } else { Tone::Plain };
        nodes.row(vec![
            node.name.as_str().into(),
            Cell::toned(percent(host.cpu), cpu_tone),
            host.cores.to_string().into(),
            format!("{} of {}", bytes(used), bytes(host.memory_total)).into(),
            Cell::toned(bytes(host.disk_available), disk_tone),
            bytes(host.network_received).into(),
            bytes(host.network_sent).into(),
            bytes(host.process_memory).into(),
        ]);
        for actor in &node.actors {
            // A task has no inbox, so its numbers would say nothing.
            let inbox = |count: u64| match actor.capacity {
                0 => Cell::from("-"),
                _ => count.to_string().into(),
            };
            let restarted = if actor.restarts > 0 { Tone::Warning } else { Tone::Plain };
            actors.row(vec![
                node.name.as_str().into(),
                actor.name.as_str().into(),
                actor.role.map_or("-", Role::name).into(),
                inbox(actor.depth),
                inbox(actor.capacity),
                inbox(actor.handled),
                Cell::toned(actor.restarts.to_string(), restarted),
            ]);
        }
    }
    let mut out = nodes.render(columns, color);
    if !actors.is_empty() {
        out.push('\n');
        out.push_str(&actors.render(columns, color));
    }
    out
}

/// One event on a line.
pub fn event(event: &Event, wide: bool, color: bool) -> String {
    let at = if wide { time::long(event.at_ms) } else { time::short(event.at_ms) };
    let tone = if event.kind.contains("down") || event.kind.contains("fail") {
        Tone::Bad
    } else {
        Tone::Plain
    };
    let kind = tone.paint(&format!("{:<18}", clean(&event.kind)), color);
    let index = if wide { format!("  {:>6}", event.index) } else { String::new() };
    format!("{at}{index}  {kind}  {}", clean(&event.message.replace('\n', " ")))
}

/// One log line. A terminal must not obey what an app printed; a file gets it as
/// it is.
pub fn log_line(line: &LogLine, wide: bool, color: bool, terminal: bool) -> String {
    let at = if wide { time::long(line.at_ms) } else { time::short(line.at_ms) };
    let instance = line.instance.map_or_else(String::new, |id| format!("#{id}"));
    let from = format!("{}/{}{instance}", clean(&line.node), clean(&line.source));
    let text = if terminal { clean(&line.line) } else { line.line.clone() };
    format!("{at}  {}  {text}", Tone::Soft.paint(&from, color))
}

#[cfg(test)]
mod tests;
