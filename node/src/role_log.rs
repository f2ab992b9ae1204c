//! What this node logs, kept in memory for `ctl logs ROLE`: the last lines, and
//! the new ones as they come.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rung_proto::Role;
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::clock::now_ms;

/// Lines kept for each role.
const KEPT: usize = 2000;
const FOLLOWED: usize = 512;

/// One line of a role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleLine {
    pub at_ms: u64,
    pub role: Role,
    pub text: String,
}

/// The last lines of every role.
pub struct RoleLog {
    kept: Mutex<VecDeque<Arc<RoleLine>>>,
    new: broadcast::Sender<Arc<RoleLine>>,
}

impl RoleLog {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { kept: Mutex::default(), new: broadcast::Sender::new(FOLLOWED) })
    }

    fn push(&self, line: RoleLine) {
        let line = Arc::new(line);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(Arc::clone(&line));
        while kept.len() > KEPT * Role::ALL.len() {
            kept.pop_front();
        }
        drop(kept);
        // Nobody follows most of the time.
        let _ = self.new.send(line);
    }

    /// The last lines of a role, oldest first.
    pub fn tail(&self, role: Role, count: usize) -> Vec<Arc<RoleLine>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<_> =
            kept.iter().rev().filter(|line| line.role == role).take(count).cloned().collect();
        lines.reverse();
        lines
    }

    pub fn follow(&self) -> broadcast::Receiver<Arc<RoleLine>> {
        self.new.subscribe()
    }
}

/// The role that a module's events are about.
fn role_of(target: &str) -> Option<Role> {
    let crate_name = target.split("::").next().unwrap_or_default();
    match crate_name {
        "rung_lb" => Some(Role::Lb),
        "rung_dns" => Some(Role::Dns),
        "rung_web" => Some(Role::Web),
        "rung_db" | "rung_shard" | "rung_pages" => Some(Role::Db),
        "rung_consensus" | "rung_control_plane" => Some(Role::Control),
        _ => match target {
            "rungd::lb_role" | "rungd::routing" => Some(Role::Lb),
            "rungd::dns_role" => Some(Role::Dns),
            "rungd::web_role" => Some(Role::Web),
            "rungd::sql_role" | "rungd::sql_certificate" | "rungd::databases" => Some(Role::Db),
            "rungd::leader"
            | "rungd::control"
            | "rungd::follow"
            | "rungd::leader_requests"
            | "rungd::control_machine" => Some(Role::Control),
            _ => None,
        },
    }
}

/// Copies the events of roles into a [`RoleLog`]. A layer without a filter switches on
/// whatever anybody says, so this one has its own.
pub fn layer<S>(log: Arc<RoleLog>) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    RoleLogLayer(log).with_filter(LevelFilter::INFO)
}

struct RoleLogLayer(Arc<RoleLog>);

impl<S: Subscriber> Layer<S> for RoleLogLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let Some(role) = role_of(metadata.target()) else { return };
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{:5} {}{}", metadata.level(), line.message, line.fields);
        self.0.push(RoleLine { at_ms: now_ms(), role, text });
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn what_roles_say_is_kept_and_nothing_below_it_is_switched_on() {
        let log = RoleLog::new();
        let subscriber = tracing_subscriber::registry().with(layer(Arc::clone(&log)));
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(Level::DEBUG));
            tracing::info!(target: "rung_dns", "told");
            tracing::debug!(target: "rung_dns", "not told");
        });
        let lines: Vec<_> = log.tail(Role::Dns, 10).iter().map(|line| line.text.clone()).collect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("told"), "{lines:?}");
    }
}
