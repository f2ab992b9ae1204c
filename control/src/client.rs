//! Talks to a node over the unix socket in its data directory.

use std::fs::File;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rung_proto::api::BundleStored;
use rung_proto::{Code, Failure};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::wire::Payload;

const SOCKET: &str = "admin.sock";
/// Where a node keeps its data when nobody says otherwise.
const DEFAULT_DATA: &str = ".rung/n1";

const CONNECT: Duration = Duration::from_secs(5);
/// Longer than the node's own deadlines, so that it is the node which tells.
const QUESTION: Duration = Duration::from_secs(15);
const CHANGE: Duration = Duration::from_secs(45);
/// A database is copied whole.
const LONG_CHANGE: Duration = Duration::from_secs(2 * 3600);
const UPLOAD: Duration = Duration::from_secs(30 * 60);

const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// What a lost answer means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing can have happened, and it may be asked again.
    Question,
    /// It may have happened.
    Change,
    /// The same, and it may take long.
    LongChange,
    /// Storing a bundle changes nothing that runs.
    Upload,
}

/// One node, by its data directory.
#[derive(Clone, Debug)]
pub struct Client {
    data: PathBuf,
}

impl Client {
    /// The node of the given directory, or of the default one if it exists.
    ///
    /// # Errors
    /// [`Code::Usage`] when there is none.
    pub fn find(data: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(data) = data {
            return Ok(Self { data });
        }
        let default = PathBuf::from(DEFAULT_DATA);
        if default.is_dir() {
            return Ok(Self { data: default });
        }
        Err(Failure::new(Code::Usage, "which node to ask is not known")
            .because(format!("there is no --data, no RUNG_DATA, and no ./{DEFAULT_DATA} here"))
            .next("give the data directory of a node: ctl --data DIR ..."))
    }

    /// Asks something.
    ///
    /// # Errors
    /// The node's refusal, or that it cannot be reached.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.exchange(Kind::Question, Method::GET, path, Payload::whole("")).await
    }

    /// Sends a change. When the answer is lost its outcome is unknown, and the
    /// error says so.
    ///
    /// # Errors
    /// The node's refusal, that it cannot be reached, or
    /// [`Code::OutcomeUnknown`].
    pub async fn change<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("the API's own types encode");
        self.exchange(Kind::Change, method, path, Payload::whole(body)).await
    }

    /// Sends a change that may take as long as a whole database takes to copy.
    ///
    /// # Errors
    /// As [`Client::change`].
    pub async fn long_change<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("the API's own types encode");
        self.exchange(Kind::LongChange, Method::POST, path, Payload::whole(body)).await
    }

    /// Stores a bundle on the node.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn upload(&self, file: File, size: u64) -> Result<BundleStored, Failure> {
        let body = Payload::file(file, size);
        self.exchange(Kind::Upload, Method::PUT, "/api/v1/bundles", body).await
    }

    /// Opens a stream of lines.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn lines<T: DeserializeOwned>(&self, path: &str) -> Result<Lines<T>, Failure> {
        let request = request(Method::GET, path, Payload::whole(""));
        let response = deadline(Kind::Question, self.send(Kind::Question, request)).await?;
        if !response.status().is_success() {
            return Err(refusal(Kind::Question, response).await);
        }
        Ok(Lines { body: response.into_body(), buffer: Vec::new(), ended: false, of: PhantomData })
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        kind: Kind,
        method: Method,
        path: &str,
        body: Payload,
    ) -> Result<T, Failure> {
        let request = request(method, path, body);
        deadline(kind, async {
            let response = self.send(kind, request).await?;
            if !response.status().is_success() {
                return Err(refusal(kind, response).await);
            }
            let bytes = whole_body(kind, response).await?;
            serde_json::from_slice(&bytes).map_err(|error| {
                Failure::new(Code::Internal, "the node's answer is not understood")
                    .because(error)
                    .next("use the ctl that came with the node's version")
            })
        })
        .await
    }

    async fn send(
        &self,
        kind: Kind,
        request: Request<Payload>,
    ) -> Result<Response<Incoming>, Failure> {
        let connected = tokio::time::timeout(CONNECT, connect(&self.data));
        let stream = connected
            .await
            .map_err(|_| {
                Failure::new(Code::Unreachable, "the node does not take the connection")
                    .because(format!("waited {} s", CONNECT.as_secs()))
                    .next("see whether it is stopped or overloaded")
            })?
            .map_err(|error| not_connected(&self.data, &error))?;
        // Nothing is sent before the request, so an error up to here is certain.
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| {
                Failure::new(Code::Unreachable, "the connection to the node failed").because(error)
            })?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| lost(kind, &error.to_string()))
    }
}

/// Lines of a stream that goes on.
pub struct Lines<T> {
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next line, or nothing at the proper end. It may be dropped while it
    /// waits without losing anything.
    ///
    /// # Errors
    /// [`Code::Unreachable`] when the stream breaks off.
    pub async fn next(&mut self) -> Result<Option<T>, Failure> {
        loop {
            if let Some(line) = self.take_line() {
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    Failure::new(Code::Internal, "a line of the node is not understood")
                        .because(error)
                        .next("use the ctl that came with the node's version")
                });
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.buffer.extend_from_slice(&bytes);
                    }
                }
                Some(Err(error)) => return Err(lost(Kind::Question, &error.to_string())),
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(Failure::new(Code::Internal, "a line of the node is too long"));
            }
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = match self.buffer.iter().position(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None if self.ended && !self.buffer.is_empty() => self.buffer.len(),
                None => return None,
            };
            let line: Vec<u8> = self.buffer.drain(..end).collect();
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }
}

fn request(method: Method, path: &str, body: Payload) -> Request<Payload> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "node")
        .body(body)
        .expect("paths are encoded by their makers")
}

/// Connects through the opened directory, as the path may be longer than the
/// address of a socket.
async fn connect(data: &Path) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(data, flags, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())).await
}

fn not_connected(data: &Path, error: &io::Error) -> Failure {
    let shown = data.display();
    match error.kind() {
        io::ErrorKind::NotFound if !data.exists() => {
            Failure::new(Code::Unreachable, format!("there is no node in {shown}"))
                .because("the directory does not exist")
                .next(format!("start one with `rungd --data {shown}`, or name another with --data"))
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure::new(Code::Unreachable, format!("the node in {shown} is not running"))
                .because("nothing listens on its admin socket")
                .next(format!("start it with `rungd --data {shown}`"))
        }
        io::ErrorKind::PermissionDenied => {
            Failure::new(Code::IdentityRefused, format!("you may not use the node in {shown}"))
                .because("its admin socket belongs to another user")
                .next("run ctl as the user that runs rungd")
        }
        _ => Failure::new(Code::Unreachable, format!("the node in {shown} cannot be reached"))
            .because(error),
    }
}

/// The answer was lost after the request may have been read.
fn lost(kind: Kind, why: &str) -> Failure {
    match kind {
        Kind::Question => {
            Failure::new(Code::Unreachable, "the connection to the node was lost").because(why)
        }
        Kind::Upload => Failure::new(Code::Unreachable, "the bundle was not stored")
            .because(why)
            .next("nothing was changed; try again"),
        Kind::Change | Kind::LongChange => {
            Failure::new(Code::OutcomeUnknown, "it is not known whether the change was made")
                .because(why)
                .next("see `ctl op ls` and `ctl status` before you try again")
        }
    }
}

async fn deadline<T>(
    kind: Kind,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let limit = match kind {
        Kind::Question => QUESTION,
        Kind::Change => CHANGE,
        Kind::LongChange => LONG_CHANGE,
        Kind::Upload => UPLOAD,
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(lost(kind, &format!("no answer within {} s", limit.as_secs()))))
}

async fn whole_body(kind: Kind, response: Response<Incoming>) -> Result<Vec<u8>, Failure> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let collected = body.collect().await.map_err(|error| lost(kind, &error.to_string()))?;
    Ok(collected.to_bytes().to_vec())
}

async fn refusal(kind: Kind, response: Response<Incoming>) -> Failure {
    let status = response.status();
    match whole_body(kind, response).await {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            Failure::new(Code::Internal, "the node refused without a reason")
                .because(format!("it answered {status}"))
        }),
        Err(failure) => failure,
    }
}
