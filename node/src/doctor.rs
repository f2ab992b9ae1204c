//! `ctl doctor`: what could be wrong, looked at from this node.

use std::sync::Arc;
use std::time::Duration;

use rung_control_plane::databases::recovery;
use rung_control_plane::{State, View};
use rung_proto::Role;
use rung_proto::api::{DatabaseArchive, Finding, NodeState, Severity};
use rung_proto::soft::{CopyState, CopyStatus, ScrubStatus};

use crate::clock::now_ms;
use crate::node::Node;
use crate::open_files;
use crate::status;
use crate::timing::Timing;

/// Free space under which a disk is a problem: this share, and this many bytes.
const DISK_SHARE: f64 = 0.05;
const DISK_BYTES: u64 = 1 << 30;
const MEMORY_SHARE: f64 = 0.05;
const CERTIFICATE_DAYS: u64 = 3;
/// An archive that has not had everything for so long is a problem.
const ARCHIVE_AGE_MS: u64 = 60_000;

fn finding(severity: Severity, check: &str, message: String, next: &str) -> Finding {
    Finding { severity, check: check.to_owned(), message, next: next.to_owned() }
}

/// Every check, the worst first.
pub fn examine(node: &Arc<Node>, view: &View) -> Vec<Finding> {
    let state = node.control.state();
    let mut findings = Vec::new();
    for warning in status::warnings(&state, view) {
        findings.push(finding(Severity::Warning, "redundancy", warning, "`ctl status`"));
    }
    for record in state.nodes.values() {
        let name = &record.name;
        let seen = view.members.get(&record.id).map(|member| member.state);
        if seen != Some(NodeState::Alive) {
            let word =
                seen.map_or("unknown".to_owned(), |state| format!("{state:?}").to_lowercase());
            findings.push(finding(
                Severity::Problem,
                "nodes",
                format!("{name} is {word}"),
                "start it, or `ctl node remove` it if it is gone for good",
            ));
        }
        let Some(soft) = view.soft.get(&record.id) else { continue };
        for (role, why) in &soft.broken_roles {
            let next =
                if *role == Role::Control { "`ctl explain data-corrupt`" } else { "`ctl logs`" };
            let message = format!("{role} does not run on {name}: {why}");
            findings.push(finding(Severity::Problem, "roles", message, next));
        }
        findings.extend(machine(name, &soft.host));
    }
    findings.extend(control(&state, view));
    findings.extend(databases(&state, view));
    let timing = node.settings.timing();
    for link in node.mesh.peers() {
        let peer = state.node_name(link.node);
        findings.extend(link.rtt.and_then(|rtt| distance(node.name(), &peer, rtt, timing)));
    }
    if let Some(why) = node.sql.problem() {
        let next = "stop what listens there; it is tried again every two seconds";
        findings.push(finding(Severity::Problem, "databases", why, next));
    }
    findings.push(certificate(node));
    findings.extend(open_files(node.name(), open_files::limit()));
    if findings.iter().all(|finding| finding.severity == Severity::Ok) {
        let message = format!("{} nodes, nothing to complain about", state.nodes.len());
        findings.push(finding(Severity::Ok, "cluster", message, ""));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// A control group that has lost its majority.
fn control(state: &State, view: &View) -> Option<Finding> {
    let lost: Vec<String> = view
        .voters
        .iter()
        .filter(|voter| !view.is_up(**voter))
        .map(|voter| state.node_name(*voter))
        .collect();
    let message = format!("nothing can be changed: the control voters {} are down", lost.join(" "));
    let next = "start them; if they are gone for good, `ctl recover` says what would be lost";
    let majority_is_lost = lost.len() * 2 >= view.voters.len() && !lost.is_empty();
    majority_is_lost.then(|| finding(Severity::Problem, "control", message, next))
}

/// Databases without a primary, and copies that are missing or do not serve.
fn databases(state: &State, view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    for shard in status::databases(state, view) {
        let name = format!("{}/{}", shard.database, shard.shard);
        let record = state.databases.get(&shard.database);
        let group = record.and_then(|record| record.shards.get(&shard.shard));
        let primary = group.and_then(|record| view.primary(record.group));
        let is_well =
            |copy: &CopyStatus| copy.state == CopyState::Serving && copy.problem.is_none();
        if primary.is_none_or(|(_, copy)| !is_well(copy)) {
            let serves = primary.is_some_and(|(_, copy)| copy.state == CopyState::Serving);
            let why = primary.and_then(|(_, copy)| copy.problem.clone());
            let why = why.unwrap_or_else(|| "it has no primary".to_owned());
            let message = format!("nothing can be written to {name}: {why}");
            let next = match group {
                _ if serves => "free space on that disk; reads go on meanwhile".to_owned(),
                Some(record) if recovery::needs_operator(record, state, view) => {
                    recovery::advice(&shard.database)
                }
                _ => "a majority of its copies must be up: `ctl status`, then start their nodes"
                    .to_owned(),
            };
            findings.push(finding(Severity::Problem, "databases", message, &next));
        }
        for copy in shard.replicas.iter().filter(|copy| copy.state != "serving") {
            let problem = copy.problem.as_deref().map(|why| format!(": {why}"));
            let is_wanted = copy.state != "catching-up";
            let severity = if is_wanted { Severity::Problem } else { Severity::Warning };
            findings.push(finding(
                severity,
                "databases",
                format!(
                    "the copy of {name} on {} is {}{}",
                    copy.node,
                    copy.state,
                    problem.unwrap_or_default()
                ),
                "`ctl logs db`; a damaged copy is made anew, a missing one is replaced",
            ));
        }
        findings.extend(shard.scrub.as_ref().and_then(|it| scrub(&name, it)));
        findings.extend(shard.archive.as_ref().and_then(|it| archive(&name, it)));
        let have = shard.replicas.len() + usize::from(shard.primary.is_some());
        let want = state.role(Role::Db).want as usize;
        if have < want {
            findings.push(finding(
                Severity::Warning,
                "databases",
                format!("{name} has {have} of {want} copies"),
                "add nodes, uncordon one, or `ctl scale replicas`",
            ));
        }
    }
    findings
}

/// What the last scrub found.
fn scrub(name: &str, scrub: &ScrubStatus) -> Option<Finding> {
    if scrub.undecided {
        let message = format!("the copies of {name} differ: {}", scrub.damage.join("; "));
        let next = "back up from each node and compare what differs; `ctl move db` takes a copy \
                    away that is known to be wrong";
        return Some(finding(Severity::Problem, "scrub", message, next));
    }
    if !scrub.damage.is_empty() {
        let message = format!("a scrub of {name} found damage: {}", scrub.damage.join("; "));
        let next = "check the disk of that node; `ctl db scrub` looks again";
        return Some(finding(Severity::Warning, "scrub", message, next));
    }
    let problem = scrub.problem.as_ref().filter(|_| !scrub.running)?;
    let message = format!("the last scrub of {name} did not compare everything: {problem}");
    Some(finding(Severity::Warning, "scrub", message, "`ctl db scrub` begins another"))
}

/// An archive that lacks something.
fn archive(name: &str, archive: &DatabaseArchive) -> Option<Finding> {
    let dir = &archive.dir;
    let (severity, what, next) = match (&archive.problem, archive.age_ms) {
        (Some(problem), _) => (
            Severity::Problem,
            problem.clone(),
            "make room or mount the directory on every node with a copy; writing goes on by itself",
        ),
        (None, None) => (
            Severity::Warning,
            "it does not have everything yet".to_owned(),
            "`ctl db show` tells how far it is",
        ),
        (None, Some(age_ms)) if age_ms > ARCHIVE_AGE_MS => (
            Severity::Problem,
            format!("what was written in the last {} s is not in it", age_ms / 1000),
            "is the directory slow? `ctl logs db` on the node that writes it",
        ),
        (None, Some(_)) if archive.gaps > 0 => (
            Severity::Warning,
            format!("it fell behind {} times, and new bases were made", archive.gaps),
            "`ctl db archive ls` shows the moments that can be restored",
        ),
        (None, Some(_)) => return None,
    };
    let message = format!("the archive of {name} in {dir}: {what}");
    Some(finding(severity, "archives", message, next))
}

fn machine(name: &str, host: &rung_proto::soft::HostStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let free = host.disk_available;
    if host.disk_total > 0 && (share(free, host.disk_total) < DISK_SHARE || free < DISK_BYTES) {
        findings.push(finding(
            Severity::Problem,
            "disk",
            format!("{name} has {} MiB of disk left", free >> 20),
            "free space on the file system of its data directory",
        ));
    }
    if host.memory_total > 0 && share(host.memory_available, host.memory_total) < MEMORY_SHARE {
        findings.push(finding(
            Severity::Warning,
            "memory",
            format!("{name} has {} MiB of memory left", host.memory_available >> 20),
            "run fewer instances there, or give the machine more",
        ));
    }
    findings
}

/// A peer that is further away than leaders wait for answers.
fn distance(name: &str, peer: &str, rtt: Duration, timing: Timing) -> Option<Finding> {
    (rtt > timing.answer()).then(|| {
        finding(
            Severity::Warning,
            "links",
            format!(
                "a round trip from {name} to {peer} takes {} ms, and leaders wait for answers \
                 for {} ms",
                rtt.as_millis(),
                timing.answer().as_millis()
            ),
            "give all nodes the longest round trip there is, `rungd --round-trip`, up to 400ms",
        )
    })
}

fn open_files(name: &str, limit: u64) -> Option<Finding> {
    let wanted = rung_db::Limits::default().connections;
    let clients = open_files::clients(wanted, limit);
    (clients < wanted).then(|| {
        finding(
            Severity::Warning,
            "files",
            format!(
                "{name} may open {limit} files, and so serves {clients} clients of databases, \
                 not {wanted}"
            ),
            "raise the hard limit of open files (LimitNOFILE of the unit, ulimit -Hn)",
        )
    })
}

fn certificate(node: &Node) -> Finding {
    let identity = node.identity();
    let now = now_ms();
    let (from, until) = (identity.not_before_ms(), identity.not_after_ms());
    let left_s = until.saturating_sub(now) / 1000;
    let lifetime = until.saturating_sub(identity.signed_ms());
    if until <= now || from > now {
        return finding(
            Severity::Problem,
            "certificate",
            format!("the certificate of {} is not valid now", node.name()),
            "check this machine's clock",
        );
    }
    // A renewal is due with a third of the life left; at a fifth it has failed.
    if until.saturating_sub(now) < lifetime / 5 && left_s < CERTIFICATE_DAYS * 86_400 {
        return finding(
            Severity::Warning,
            "certificate",
            format!("the certificate of {} expires in {left_s} s and was not renewed", node.name()),
            "`ctl status`: the control group must have a leader",
        );
    }
    let message = format!("the certificate of {} is valid for {} h", node.name(), left_s / 3600);
    finding(Severity::Ok, "certificate", message, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_too_far_away_is_a_warning() {
        let timing = Timing::new(Duration::from_millis(150));
        let far = |ms| distance("n1", "n2", Duration::from_millis(ms), timing);
        assert_eq!(far(180), None);
        let message = far(310).expect("a finding").message;
        assert!(message.contains("from n1 to n2 takes 310 ms"), "{message}");
    }
}
