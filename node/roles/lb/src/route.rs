//! From host and path to an app.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::budget::RetryBudget;
use crate::hash_ring::HashRing;
use crate::instance::Instance;
use crate::metrics::Counters;
use crate::request_head::split_port;
use crate::table::{AppRoute, Policy};

/// The table as the threads use it: immutable, replaced as a whole.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub version: u64,
    pub apps: Vec<Arc<App>>,
    hosts: HashMap<Box<[u8]>, Vec<PathRoute>>,
}

struct PathRoute {
    /// Without a final slash; empty for every path.
    prefix: Box<[u8]>,
    app: Arc<App>,
}

/// One app of one table.
pub(crate) struct App {
    pub name: String,
    pub policy: Policy,
    pub max_in_flight: Option<usize>,
    pub sticky: bool,
    /// Ready ones; those of this data center come first.
    pub ready: Vec<Arc<Instance>>,
    /// How many of `ready` are of this data center.
    pub near: usize,
    /// Over `ready`; empty unless the policy hashes.
    pub ring: HashRing,
    /// What outlives a table.
    pub lasting: Arc<LastingApp>,
}

/// The part of an app that is carried from table to table.
#[derive(Default)]
pub(crate) struct LastingApp {
    pub in_flight: AtomicUsize,
    pub next: AtomicUsize,
    pub budget: RetryBudget,
    pub counters: Box<[Counters]>,
}

impl LastingApp {
    pub fn new(threads: usize) -> LastingApp {
        LastingApp {
            counters: (0..threads).map(|_| Counters::default()).collect(),
            ..LastingApp::default()
        }
    }
}

/// Where a request belongs.
pub(crate) enum Routed<'a> {
    App(&'a Arc<App>),
    /// The table is empty.
    NoApps,
    /// No app has that host, or none of the host's has that path.
    Unknown,
    /// The path holds `.` or `..` segments, and who resolves them decides which
    /// app it belongs to.
    Ambiguous,
}

impl Snapshot {
    /// Builds the lookup; `apps` are the compiled forms of `routes`.
    pub fn new(version: u64, routes: &[AppRoute], apps: Vec<Arc<App>>) -> Snapshot {
        let mut hosts: HashMap<Box<[u8]>, Vec<PathRoute>> = HashMap::new();
        for (route, app) in routes.iter().zip(&apps) {
            let whole = [String::new()];
            let prefixes = if route.paths.is_empty() { &whole[..] } else { &route.paths[..] };
            for domain in &route.domains {
                let key = host_key(domain.as_bytes());
                let of_host = hosts.entry(key.into_boxed_slice()).or_default();
                of_host.extend(prefixes.iter().map(|prefix| PathRoute {
                    prefix: prefix.trim_end_matches('/').as_bytes().into(),
                    app: app.clone(),
                }));
                // The longest first; of equal ones the app named first.
                of_host.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
            }
        }
        Snapshot { version, apps, hosts }
    }

    /// Finds the app of a request.
    pub fn route(&self, host: &[u8], path: &[u8]) -> Routed<'_> {
        match &self.apps[..] {
            [] => return Routed::NoApps,
            [only] => return Routed::App(only),
            _ => {}
        }
        let found = if host.iter().any(|byte| byte.is_ascii_uppercase() || b":.".contains(byte)) {
            self.hosts.get(&host_key(host)[..])
        } else {
            self.hosts.get(host)
        };
        let Some(routes) = found else { return Routed::Unknown };
        if routes.len() > 1 && has_dot_segment(path) {
            return Routed::Ambiguous;
        }
        match routes.iter().find(|route| has_prefix(path, &route.prefix)) {
            Some(route) => Routed::App(&route.app),
            None => Routed::Unknown,
        }
    }
}

impl Snapshot {
    /// Whether some path of `host` is `app`'s.
    pub fn serves_host(&self, host: &[u8], app: &Arc<App>) -> bool {
        self.hosts
            .get(&host_key(host)[..])
            .is_some_and(|routes| routes.iter().any(|route| Arc::ptr_eq(&route.app, app)))
    }
}

/// The host as it is looked up: lower case, no port, no final dot.
fn host_key(host: &[u8]) -> Vec<u8> {
    let (name, _) = split_port(host);
    name.strip_suffix(b".").unwrap_or(name).to_ascii_lowercase()
}

fn has_prefix(path: &[u8], prefix: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.is_empty() || matches!(rest.first(), None | Some(b'/' | b'?'))
}

/// Whether the path has a segment `.` or `..`, also percent-encoded, or an
/// encoded slash or a backslash, which some servers take for one.
fn has_dot_segment(path: &[u8]) -> bool {
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let lower = path.to_ascii_lowercase();
    if memchr::memmem::find(&lower, b"%2f").is_some()
        || memchr::memmem::find(&lower, b"%5c").is_some()
        || lower.contains(&b'\\')
    {
        return true;
    }
    lower.split(|byte| *byte == b'/').any(|segment| {
        // "..", ".%2e", "%2e.", "%2e%2e", ".", "%2e"
        let dots = segment.len() <= 6 && !segment.is_empty();
        dots && {
            let plain = String::from_utf8_lossy(segment).replace("%2e", ".");
            plain == "." || plain == ".."
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[AppRoute]) -> Snapshot {
        let apps = routes
            .iter()
            .map(|route| {
                Arc::new(App {
                    name: route.name.clone(),
                    policy: Policy::default(),
                    max_in_flight: None,
                    sticky: false,
                    ready: Vec::new(),
                    near: 0,
                    ring: HashRing::default(),
                    lasting: Arc::default(),
                })
            })
            .collect();
        Snapshot::new(1, routes, apps)
    }

    fn route(name: &str, domain: &str, paths: &[&str]) -> AppRoute {
        let paths = paths.iter().map(|path| path.to_string()).collect();
        AppRoute { paths, ..AppRoute::new(name, vec![domain.to_owned()], vec![]) }
    }

    fn found(table: &Snapshot, host: &str, path: &str) -> String {
        match table.route(host.as_bytes(), path.as_bytes()) {
            Routed::App(app) => app.name.clone(),
            Routed::NoApps => "no apps".into(),
            Routed::Unknown => "unknown".into(),
            Routed::Ambiguous => "ambiguous".into(),
        }
    }

    #[test]
    fn one_app_takes_every_host() {
        assert_eq!(found(&table(&[]), "a.test", "/"), "no apps");
        let one = table(&[route("a", "a.test", &[])]);
        assert_eq!(found(&one, "whatever", "/"), "a");
        assert_eq!(found(&one, "", "/"), "a");
    }

    #[test]
    fn hosts_are_exact_and_ignore_case_port_and_final_dot() {
        let two = table(&[route("a", "a.test", &[]), route("b", "b.test", &[])]);
        for host in ["a.test", "A.Test", "a.test:8080", "a.test.", "a.test.:80"] {
            assert_eq!(found(&two, host, "/x"), "a", "{host}");
        }
        assert_eq!(found(&two, "b.test", "/"), "b");
        for host in ["c.test", "x.a.test", "a.testx", "", "[::1]:80"] {
            assert_eq!(found(&two, host, "/"), "unknown", "{host}");
        }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let apps = table(&[
            route("site", "a.test", &[]),
            route("api", "a.test", &["/api/"]),
            route("admin", "a.test", &["/api/admin", "/admin"]),
        ]);
        for (path, app) in [
            ("/", "site"),
            ("/apix", "site"),
            ("/api", "api"),
            ("/api?x=1", "api"),
            ("/api/", "api"),
            ("/api/adminx", "api"),
            ("/api/admin/x", "admin"),
            ("/admin", "admin"),
        ] {
            assert_eq!(found(&apps, "a.test", path), app, "{path}");
        }
    }

    #[test]
    fn a_path_that_others_may_resolve_elsewhere_belongs_to_nobody() {
        let apps = table(&[route("site", "a.test", &[]), route("api", "a.test", &["/api"])]);
        for path in
            ["/x/../api", "/x/%2e%2E/api", "/./api", "/x%2fapi", "/x\\..\\api", "/..", "/.%2e/"]
        {
            assert_eq!(found(&apps, "a.test", path), "ambiguous", "{path}");
        }
        for path in ["/x?y=/../", "/...", "/.x", "/x..y/"] {
            assert_eq!(found(&apps, "a.test", path), "site", "{path}");
        }
    }
}
