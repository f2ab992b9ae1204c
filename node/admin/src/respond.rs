//! Responses: their bodies, and how a value or a refusal becomes one.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use rung_proto::{Code, Failure};
use serde::Serialize;
use tokio::sync::mpsc;

/// Why a stream of lines broke off: the client must not take it for complete.
#[derive(Debug, thiserror::Error)]
#[error("the stream broke off: {0}")]
pub struct BrokenOff(pub Failure);

/// The body of a response.
pub enum Payload {
    Whole(Option<Bytes>),
    /// Lines as they come. The producer sees that the client is gone by the
    /// closed channel.
    Lines(mpsc::Receiver<Result<Bytes, BrokenOff>>),
}

impl Body for Payload {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Payload::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Payload::Lines(lines) => {
                lines.poll_recv(context).map(|line| line.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Payload::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Payload::Lines(_) => SizeHint::default(),
        }
    }
}

pub type Reply = Response<Payload>;

/// A complete response. Nothing that this API says may be cached or sniffed.
pub fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let body: Bytes = body.into();
    let payload = Payload::Whole((!body.is_empty()).then_some(body));
    with_headers(status, content_type, payload)
}

/// A response of newline-delimited JSON that goes on.
pub fn lines(receiver: mpsc::Receiver<Result<Bytes, BrokenOff>>) -> Reply {
    with_headers(StatusCode::OK, "application/x-ndjson", Payload::Lines(receiver))
}

fn with_headers(status: StatusCode, content_type: &'static str, payload: Payload) -> Reply {
    let mut response = Response::new(payload);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    whole(status, "text/plain; charset=utf-8", body)
}

pub fn json<T: Serialize>(value: &T) -> Reply {
    whole(StatusCode::OK, "application/json", json_line(value))
}

/// A whole list as newline-delimited JSON.
pub fn json_lines<T: Serialize>(values: &[T]) -> Reply {
    let body: Vec<u8> = values.iter().flat_map(json_line).collect();
    whole(StatusCode::OK, "application/x-ndjson", body)
}

/// One value as JSON on a line of its own.
pub fn json_line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("the API's own types encode as JSON");
    line.push(b'\n');
    line
}

pub fn failure(failure: &Failure) -> Reply {
    failure_as(status_of(failure.code), failure)
}

pub fn failure_as(status: StatusCode, failure: &Failure) -> Reply {
    whole(status, "application/json", json_line(failure))
}

pub fn not_found(path: &str) -> Reply {
    let path: String = path.chars().take(200).collect();
    failure(
        &Failure::new(Code::NotFound, format!("there is nothing at {path}"))
            .next("see the list of endpoints in the API's documentation"),
    )
}

pub fn method_not_allowed(allowed: &'static str) -> Reply {
    let refusal = Failure::new(Code::Usage, "this path does not take that method")
        .because(format!("it takes {allowed}"));
    let mut response = failure_as(StatusCode::METHOD_NOT_ALLOWED, &refusal);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The HTTP status of a refusal, as the API's documentation lists them.
pub fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Usage | Code::InvalidManifest | Code::InvalidBundle => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists
        | Code::IndexChanged
        | Code::Precondition
        | Code::NoCandidate
        | Code::OperationRunning
        | Code::DataLoss
        | Code::MajorityReachable
        | Code::SurvivorBehind
        | Code::NameTaken => StatusCode::CONFLICT,
        Code::NoQuorum | Code::Unreachable | Code::OutcomeUnknown | Code::Overloaded => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::TokenInvalid
        | Code::TokenExpired
        | Code::TokenSpent
        | Code::WrongCluster
        | Code::ClockSkew
        | Code::IdentityRefused
        | Code::DataInUse
        | Code::DataNewer
        | Code::DataCorrupt
        | Code::DiskFull
        | Code::DiskFailed
        | Code::PortTaken
        | Code::Config
        | Code::AppFailed
        | Code::ArchiveUnusable
        | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precondition_is_a_conflict_and_a_lost_quorum_is_unavailable() {
        assert_eq!(status_of(Code::IndexChanged), StatusCode::CONFLICT);
        assert_eq!(status_of(Code::NoQuorum), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status_of(Code::Usage), StatusCode::BAD_REQUEST);
    }
}
