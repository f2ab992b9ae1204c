//! `/metrics` of this node: the machine, the mesh, the log, control, and each role.

use rung_admin::prometheus::{Buckets, counter, gauge, histogram};
use rung_control_plane::View;
use rung_dns::DnsMetrics;
use rung_lb::{LATENCY_BOUNDS_US, LbMetrics};

use crate::node::Node;

mod databases;

/// Appends everything in the Prometheus text format.
pub fn render(node: &Node, view: &View, out: &mut String) {
    host(node, out);
    cluster(node, view, out);
    log(node, out);
    mesh(node, out);
    web(node, out);
    if let Some(metrics) = node.lb.metrics() {
        lb(&metrics, node, out);
    }
    if let Some(metrics) = node.dns.metrics() {
        dns(&metrics, out);
    }
    databases::clients(node, out);
    databases::copies(node, out);
}

fn host(node: &Node, out: &mut String) {
    let host = node.soft.mine().host;
    gauge(out, "rung_host_cpu_busy", "Busy share of all processors, 0 to 1.").value(&[], host.cpu);
    gauge(out, "rung_host_cores", "Processors.").count(&[], u64::from(host.cores));
    gauge(out, "rung_host_memory_bytes", "Memory of the machine.")
        .count(&[("state", "total")], host.memory_total)
        .count(&[("state", "available")], host.memory_available);
    gauge(out, "rung_host_disk_bytes", "The file system of the data directory.")
        .count(&[("state", "total")], host.disk_total)
        .count(&[("state", "available")], host.disk_available);
    counter(out, "rung_host_network_bytes_total", "All interfaces but loopback.")
        .count(&[("direction", "received")], host.network_received)
        .count(&[("direction", "sent")], host.network_sent);
    gauge(out, "rung_process_resident_bytes", "Memory of rungd itself.")
        .count(&[], host.process_memory);
}

fn cluster(node: &Node, view: &View, out: &mut String) {
    let state = node.control.state();
    gauge(out, "rung_control_index", "Last entry of the control log applied here.")
        .count(&[], state.index);
    gauge(out, "rung_control_voters", "Voters of the control group.")
        .count(&[], view.voters.len() as u64);
    let leads = view.leader == Some(node.id);
    gauge(out, "rung_control_leader", "Whether this node leads the control group.")
        .count(&[], u64::from(leads));
    let mut members = gauge(out, "rung_members", "Nodes by what membership says of them.");
    for word in ["Alive", "Suspect", "Down", "Left"] {
        let count = view.members.values().filter(|m| format!("{:?}", m.state) == word).count();
        members = members.count(&[("state", &word.to_lowercase())], count as u64);
    }
    let counters = node.membership.counters();
    counter(out, "rung_membership_suspicions_total", "Suspicions that this node raised.")
        .count(&[], counters.suspicions);
    counter(out, "rung_membership_declared_down_total", "Members this node declared down.")
        .count(&[], counters.declared_down);
    actors(node, out);
}

fn actors(node: &Node, out: &mut String) {
    let actors = node.actors.status();
    let with_inbox = || actors.iter().filter(|actor| actor.capacity > 0);
    let mut depth = gauge(out, "rung_actor_inbox_depth", "Messages waiting for an actor.");
    for actor in with_inbox() {
        depth = depth.count(&[("actor", &actor.name)], actor.depth);
    }
    let mut capacity = gauge(out, "rung_actor_inbox_capacity", "Messages that may wait for it.");
    for actor in with_inbox() {
        capacity = capacity.count(&[("actor", &actor.name)], actor.capacity);
    }
    let mut handled = counter(out, "rung_actor_handled_total", "Messages that an actor took.");
    for actor in with_inbox() {
        handled = handled.count(&[("actor", &actor.name)], actor.handled);
    }
    let mut restarts = counter(out, "rung_actor_restarts_total", "Restarts of an actor.");
    for actor in &actors {
        restarts = restarts.count(&[("actor", &actor.name)], u64::from(actor.restarts));
    }
}

fn log(node: &Node, out: &mut String) {
    let stats = node.wal.stats();
    gauge(out, "rung_log_disk_bytes", "Length of all segment files.").count(&[], stats.disk_bytes);
    gauge(out, "rung_log_live_bytes", "What is still needed of them.").count(&[], stats.live_bytes);
    counter(out, "rung_log_entries_total", "Entries written.").count(&[], stats.entries);
    counter(out, "rung_log_batches_total", "Batches written, each with one sync.")
        .count(&[], stats.batches);
    let bounds: Vec<f64> =
        (0..stats.syncs.buckets.len() - 1).map(|power| (1u64 << power) as f64 / 1e6).collect();
    let buckets = Buckets {
        bounds: &bounds,
        counts: &stats.syncs.buckets,
        sum: stats.syncs.sum_micros as f64 / 1e6,
    };
    histogram(out, "rung_log_sync_seconds", "How long a sync took.").buckets(&[], buckets);
    counter(out, "rung_log_refused_full_total", "Writes refused because the disk was full.")
        .count(&[], stats.refused_full);
}

fn mesh(node: &Node, out: &mut String) {
    let state = node.control.state();
    let links = node.mesh.peers();
    let named: Vec<(String, _)> =
        links.iter().map(|link| (state.node_name(link.node), link)).collect();
    let mut sent = counter(out, "rung_mesh_sent_bytes_total", "Bytes sent to a peer.");
    for (name, link) in &named {
        sent = sent.count(&[("peer", name)], link.bytes_sent);
    }
    let mut received = counter(out, "rung_mesh_received_bytes_total", "Bytes from a peer.");
    for (name, link) in &named {
        received = received.count(&[("peer", name)], link.bytes_received);
    }
    let mut rtt = gauge(out, "rung_mesh_rtt_seconds", "Round trip to a peer.");
    for (name, link) in &named {
        if let Some(time) = link.rtt {
            rtt = rtt.value(&[("peer", name)], time.as_secs_f64());
        }
    }
}

fn web(node: &Node, out: &mut String) {
    let metrics = node.web.metrics();
    gauge(out, "rung_web_instances", "Instances on this node.")
        .count(&[("state", "all")], metrics.instances)
        .count(&[("state", "healthy")], metrics.instances_healthy);
    counter(out, "rung_web_starts_total", "Processes started.").count(&[], metrics.starts);
    counter(out, "rung_web_crashes_total", "Ends that nobody asked for.")
        .count(&[], metrics.crashes);
    counter(out, "rung_web_failed_checks_total", "Health checks that failed.")
        .count(&[], metrics.failed_checks);
    counter(out, "rung_web_streams_total", "Streams of balancers on other nodes.")
        .count(&[("outcome", "accepted")], metrics.streams_accepted)
        .count(&[("outcome", "refused")], metrics.streams_refused)
        .count(&[("outcome", "unreachable")], metrics.streams_unreachable);
}

const STATUS_CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn lb(metrics: &LbMetrics, node: &Node, out: &mut String) {
    gauge(out, "rung_lb_connections", "Client connections open.")
        .count(&[], metrics.connections as u64);
    counter(out, "rung_lb_connections_total", "Client connections.")
        .count(&[("outcome", "accepted")], metrics.connections_accepted)
        .count(&[("outcome", "refused")], metrics.connections_refused);
    counter(out, "rung_lb_rejected_total", "Requests that reached no app.")
        .count(&[("reason", "bad-request")], metrics.bad_requests)
        .count(&[("reason", "unrouted")], metrics.unrouted)
        .count(&[("reason", "rate-limited")], metrics.rate_limited);
    let mut requests = counter(out, "rung_lb_requests_total", "Requests of an app, by status.");
    for app in &metrics.apps {
        for (class, count) in STATUS_CLASSES.iter().zip(app.requests.by_status) {
            requests = requests.count(&[("app", &app.name), ("status", class)], count);
        }
    }
    let bounds: Vec<f64> = LATENCY_BOUNDS_US.iter().map(|micros| *micros as f64 / 1e6).collect();
    let mut latency = histogram(out, "rung_lb_request_seconds", "From request to last byte.");
    for app in &metrics.apps {
        let buckets = Buckets {
            bounds: &bounds,
            counts: &app.requests.latency,
            sum: app.requests.latency_sum_us as f64 / 1e6,
        };
        latency = latency.buckets(&[("app", &app.name)], buckets);
    }
    let state = node.control.state();
    let mut per_instance =
        counter(out, "rung_lb_instance_requests_total", "Requests sent to an instance.");
    for instance in &metrics.instances {
        let id = instance.id.to_string();
        let on = state.node_name(instance.node);
        let labels = [("app", instance.app.as_str()), ("instance", &id), ("node", &on)];
        per_instance = per_instance.count(&labels, instance.requests.requests());
    }
    let mut retries = counter(out, "rung_lb_retries_total", "Requests sent once more.");
    for app in &metrics.apps {
        retries = retries.count(&[("app", &app.name)], app.requests.retries);
    }
    let mut shed = counter(out, "rung_lb_shed_total", "Requests refused under load.");
    for app in &metrics.apps {
        shed = shed.count(&[("app", &app.name)], app.requests.shed);
    }
}

fn dns(metrics: &DnsMetrics, out: &mut String) {
    counter(out, "rung_dns_queries_total", "Queries.")
        .count(&[("transport", "udp")], metrics.udp_queries)
        .count(&[("transport", "tcp")], metrics.tcp_queries);
    let answers = &metrics.answers;
    counter(out, "rung_dns_answers_total", "Answers by response code.")
        .count(&[("rcode", "NOERROR")], answers.no_error)
        .count(&[("rcode", "FORMERR")], answers.format_error)
        .count(&[("rcode", "SERVFAIL")], answers.server_failure)
        .count(&[("rcode", "NXDOMAIN")], answers.name_error)
        .count(&[("rcode", "NOTIMP")], answers.not_implemented)
        .count(&[("rcode", "REFUSED")], answers.refused)
        .count(&[("rcode", "other")], answers.other);
    counter(out, "rung_dns_rate_limited_total", "Answers not given, or cut, by rate limiting.")
        .count(&[("action", "dropped")], metrics.rate_dropped)
        .count(&[("action", "slipped")], metrics.rate_slipped);
}
