//! The TCP port: probes and metrics for strangers, the dashboard for those who
//! opened a link. Nothing can be changed here.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::header::{COOKIE, HOST, HeaderValue, SET_COOKIE};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use rung_proto::{Code, Failure};

use crate::query::Query;
use crate::respond::{self, Reply};
use crate::server::Shared;
use crate::{dashboard, prometheus, read, session};

/// Answers one request of a stranger or a browser.
pub async fn handle(shared: &Arc<Shared>, request: Request<Incoming>) -> Reply {
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let (path, query) = (uri.path(), uri.query().unwrap_or(""));
    if *method != Method::GET && *method != Method::HEAD {
        return respond::method_not_allowed("GET, HEAD");
    }
    // It tells nothing, and a balancer in front may call it by any name.
    if path == "/healthz" {
        return healthz();
    }
    if !is_own_host(headers, &shared.config.names) {
        return wrong_host();
    }
    if let Some(reply) = probe(shared, path) {
        return reply;
    }
    if path == "/ui" {
        return open(shared, method, query);
    }
    let api = path.strip_prefix("/api/v1/");
    if path != "/" && api.is_none() {
        return respond::not_found(path);
    }
    if !is_same_site(headers) {
        let refusal = Failure::new(Code::Usage, "other sites may not read this one");
        return respond::failure_as(StatusCode::FORBIDDEN, &refusal);
    }
    let Some(rest) = api else {
        return if has_session(shared, headers) { dashboard::page() } else { dashboard::locked() };
    };
    if !has_session(shared, headers) {
        let refusal = Failure::new(Code::Usage, "the dashboard's session is over or not begun")
            .next("run `ctl ui` and open the link that it prints");
        return respond::failure_as(StatusCode::UNAUTHORIZED, &refusal);
    }
    let segments: Vec<&str> = rest.split('/').collect();
    match read::answer(shared, read::Asker::Dashboard, method, &segments, query).await {
        Some(Ok(reply)) => reply,
        Some(Err(failure)) => respond::failure(&failure),
        None => respond::not_found(path),
    }
}

/// `/healthz`, `/readyz` and `/metrics`.
pub fn probe(shared: &Shared, path: &str) -> Option<Reply> {
    match path {
        "/healthz" => Some(healthz()),
        "/readyz" => Some(match shared.backend.ready() {
            Ok(()) => respond::text(StatusCode::OK, "ready\n"),
            Err(reasons) => {
                let text = format!("not ready\n{}\n", reasons.join("\n"));
                respond::text(StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }),
        "/metrics" => Some(respond::whole(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics(shared),
        )),
        _ => None,
    }
}

fn healthz() -> Reply {
    respond::text(StatusCode::OK, "ok\n")
}

fn metrics(shared: &Shared) -> String {
    let mut out = String::with_capacity(16 * 1024);
    shared.backend.metrics(&mut out);
    prometheus::counter(&mut out, "rung_admin_requests_total", "Requests to the admin API.")
        .count(&[("listener", "unix")], shared.local_requests.load(Ordering::Relaxed))
        .count(&[("listener", "tcp")], shared.public_requests.load(Ordering::Relaxed));
    out
}

fn open(shared: &Shared, method: &Method, query: &str) -> Reply {
    // Programs that preview links send HEAD, which must not use the ticket up.
    if *method != Method::GET {
        return respond::method_not_allowed("GET");
    }
    let ticket = Query::parse(query, &["ticket"]).ok().and_then(|query| query.text("ticket"));
    let session = ticket.and_then(|ticket| {
        shared.with_sessions(|sessions| sessions.redeem(&ticket, Instant::now()))
    });
    let Some(session) = session else { return dashboard::locked() };
    let mut reply = dashboard::opened();
    let cookie = format!(
        "{}={session}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict",
        cookie_name(shared),
        session::SESSION_LIFE.as_secs()
    );
    let cookie = HeaderValue::try_from(cookie).expect("a cookie of hexadecimal digits is a header");
    reply.headers_mut().insert(SET_COOKIE, cookie);
    reply
}

/// Browsers share cookies between the ports of a host, so the port is part of
/// the name. For the same reason a program that serves another port of this very
/// address gets to see the cookie of a browser that visits both: it could look at
/// the dashboard for the rest of the 15 minutes, and change nothing.
fn cookie_name(shared: &Shared) -> String {
    format!("rung_session_{}", shared.tcp.port())
}

fn has_session(shared: &Shared, headers: &HeaderMap) -> bool {
    let name = cookie_name(shared);
    let now = Instant::now();
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .any(|(found, value)| {
            found == name && shared.with_sessions(|sessions| sessions.holds(value, now))
        })
}

/// Whether the request is for this node by an address or a name it is known by.
/// A page that had its own name rebound to our address fails here.
fn is_own_host(headers: &HeaderMap, names: &[String]) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = without_port(host);
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => {
            // An IPv6 address without brackets keeps its last part.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

/// Browsers say where a request comes from; another port of this host is another
/// origin too.
fn is_same_site(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-site")
        .is_none_or(|site| site == HeaderValue::from_static("same-origin") || site == "none")
}

fn wrong_host() -> Reply {
    let refusal = Failure::new(Code::Usage, "this node is not known by that name")
        .next("use its IP address, or name it in the configuration of the admin port");
    respond::failure_as(StatusCode::MISDIRECTED_REQUEST, &refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HOST, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn addresses_localhost_and_known_names_are_own_hosts() {
        let names = ["n1.example".to_owned()];
        for own in ["127.0.0.1:7401", "10.0.0.1", "[::1]:7401", "[::1]", "localhost:7401"] {
            assert!(is_own_host(&host(own), &names), "{own}");
        }
        assert!(is_own_host(&host("N1.example:7401"), &names));
        for other in ["evil.example:7401", "127.0.0.1.evil.example", "localhost.evil", "", ":7401"]
        {
            assert!(!is_own_host(&host(other), &names), "{other}");
        }
        assert!(!is_own_host(&HeaderMap::new(), &names));
        let mut two = host("127.0.0.1");
        two.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(!is_own_host(&two, &names));
    }

    #[test]
    fn requests_that_a_browser_marks_as_foreign_are_refused() {
        let from = |site: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-site", HeaderValue::from_static(site));
            headers
        };
        assert!(is_same_site(&HeaderMap::new()));
        assert!(is_same_site(&from("none")));
        assert!(is_same_site(&from("same-origin")));
        assert!(!is_same_site(&from("same-site")));
        assert!(!is_same_site(&from("cross-site")));
    }
}
