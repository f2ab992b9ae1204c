//! The dashboard's pages. Each carries its style and script, and the policy in
//! its header allows these and nothing else.

use http::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{HeaderMap, StatusCode};

use crate::respond::{self, Reply};
use crate::session::random_text;

const PAGE: &str = include_str!("dashboard.html");
const NONCE: &str = "{{nonce}}";

const OPENED: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
    <meta name=\"viewport\" content=\"width=device-width\">\
    <meta http-equiv=\"refresh\" content=\"0; url=/\"><title>Rung</title>\
    <p><a href=\"/\">Open the dashboard</a></p></html>";

const LOCKED: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
    <meta name=\"viewport\" content=\"width=device-width\"><title>Rung</title>\
    <h1>This page needs a link</h1>\
    <p>Run <code>ctl ui</code> on the node and open the link that it prints. A link works once, \
    within a minute, and what it opens lasts 15 minutes.</p></html>";

/// The dashboard itself.
pub fn page() -> Reply {
    let nonce = random_text();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    html(StatusCode::OK, PAGE.replace(NONCE, &nonce), &policy)
}

/// Follows the opening of a link. The browser goes on from a page of our own,
/// because a redirect from a foreign page would not carry the new cookie.
pub fn opened() -> Reply {
    html(StatusCode::OK, OPENED.to_owned(), "default-src 'none'; frame-ancestors 'none'")
}

/// For those without a session.
pub fn locked() -> Reply {
    let policy = "default-src 'none'; frame-ancestors 'none'";
    html(StatusCode::UNAUTHORIZED, LOCKED.to_owned(), policy)
}

fn html(status: StatusCode, body: String, policy: &str) -> Reply {
    let mut reply = respond::whole(status, "text/html; charset=utf-8", body);
    let headers: &mut HeaderMap = reply.headers_mut();
    let policy = HeaderValue::try_from(policy).expect("the policy is printable ASCII");
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for foreign in ["http://", "https://", "src=", "@import", "innerHTML", "eval("] {
            assert!(!PAGE.contains(foreign), "{foreign}");
        }
        assert_eq!(PAGE.matches(NONCE).count(), 2, "one style and one script");
    }
}
