//! A connection after it was let in: messages come, answers go.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rung_sql::{SqlError, SqlState};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::encode::{self, Severity, Status};
use super::frontend::{Header, Message, Target};
use super::startup::{self, Started};
use super::stream::{WireError, WireStream};
use crate::rows::Rows;
use crate::server::Shared;
use crate::session::{Arguments, Outcome, Session, Surroundings};
use crate::statistics::count;
use crate::unfinished::Entry;

/// A message over that size waits for room among all large messages of the node.
const LARGE: usize = 1024 * 1024;
/// What is copied from a result to the output at once.
const PIECE: usize = 32 * 1024;

/// Serves a client from its first byte to its last.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    mut entry: Entry,
    require_tls: bool,
) {
    let limit = shared.config.limits.startup;
    // In a box, so that a connection that was let in is small.
    let started = Box::pin(startup::start(&shared, stream, require_tls));
    let started = tokio::select! {
        started = tokio::time::timeout(limit, started) => started,
        () = entry.put_out() => {
            count(&shared.statistics.counters.connections_refused);
            return;
        }
    };
    drop(entry);
    let started = match started {
        Ok(Ok(Some(started))) => started,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            tracing::debug!(role = "db", %error, "a client did not get in");
            return;
        }
        Err(_) => {
            tracing::debug!(role = "db", "a client did not get in in time");
            return;
        }
    };
    let Started { wire, session, place } = started;
    let shutdown = shared.shutdown.subscribe();
    let mut connection =
        Connection { shared, wire, session, shutdown, skipping: false, described: None };
    let ended = connection.run().await;
    connection.end(ended).await;
    drop(place);
}

/// A client's connection.
pub(super) struct Connection {
    pub shared: Arc<Shared>,
    pub wire: WireStream,
    pub session: Session,
    shutdown: watch::Receiver<bool>,
    /// After an error in the extended protocol nothing is done until Sync.
    pub skipping: bool,
    /// A portal whose columns are told with its execution, which follows.
    pub described: Option<String>,
}

/// Why the loop of a connection ended.
pub(super) enum End {
    Terminated,
    /// The client is told, then the connection is closed.
    Fatal(SqlError),
    Broken(WireError),
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Protocol(error) => {
                End::Fatal(SqlError::new(SqlState::PROTOCOL_VIOLATION, error.to_string()))
            }
            error => End::Broken(error),
        }
    }
}

impl Connection {
    /// Answers messages until one says that the connection ends.
    async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        let header = self.next_header().await?;
        if header.kind == b'd' {
            // Data of a COPY that has failed already.
            return self.drop_body(header).await;
        }
        let _room = self.room(header.body).await?;
        let body = self.wire.body(header).await?.freeze();
        // In a box, so that a connection that waits for its client is small.
        Box::pin(self.message(header, body)).await
    }

    async fn message(&mut self, header: Header, body: Bytes) -> Result<(), End> {
        let message = Message::parse(header.kind, &body).map_err(WireError::from)?;
        if self.skipping && !matches!(message, Message::Sync | Message::Terminate) {
            return Ok(());
        }
        match message {
            Message::Query(text) => self.query(text).await,
            Message::Parse { name, query, types } => self.parse(name, query, &types).await,
            Message::Bind(bind) => self.bind(&body, bind).await,
            Message::Describe(target) => self.describe(target).await,
            Message::Execute { portal, max_rows } => self.execute(portal, max_rows).await,
            Message::Close(target) => {
                match target {
                    Target::Statement(name) => self.session.forget_statement(name),
                    Target::Portal(name) => self.session.forget_portal(name),
                }
                encode::close_complete(&mut self.wire.output);
                Ok(())
            }
            Message::Flush => Ok(self.wire.flush().await?),
            Message::Sync => self.sync().await,
            // Of a COPY that has failed already.
            Message::CopyDone | Message::CopyFail(_) => Ok(()),
            Message::FunctionCall => {
                let hint = "call the function with SELECT";
                self.error(&SqlError::not_supported("the function call message", hint));
                self.ready().await
            }
            Message::Password => Err(End::Fatal(SqlError::new(
                SqlState::PROTOCOL_VIOLATION,
                "a password was sent after the connection was let in",
            ))),
            Message::Terminate => Err(End::Terminated),
        }
    }

    /// Waits for the client, no longer than it may be idle.
    async fn next_header(&mut self) -> Result<Header, End> {
        if let Some(header) = self.wire.peek(0) {
            return Ok(header);
        }
        let settings = self.session.settings();
        let (limit, state, what) = match self.session.status() {
            Status::Idle => (
                settings.limit("idle_session_timeout"),
                SqlState::IDLE_SESSION_TIMEOUT,
                "terminating connection due to idle-session timeout",
            ),
            _ => (
                settings.limit("idle_in_transaction_session_timeout"),
                SqlState::IDLE_IN_TRANSACTION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout",
            ),
        };
        let idle = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            header = self.wire.header() => Ok(header?),
            _ = self.shutdown.wait_for(|ends| *ends) => Err(End::Fatal(SqlError::new(
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command",
            ))),
            () = idle => Err(End::Fatal(SqlError::new(state, what))),
        }
    }

    /// Room for a large message, so that all of them together stay within bounds.
    async fn room(&self, size: usize) -> Result<Option<OwnedSemaphorePermit>, End> {
        if size < LARGE {
            return Ok(None);
        }
        let room = self.shared.large_messages.clone();
        let kilobytes = u32::try_from(size / 1024).unwrap_or(u32::MAX);
        let wait = tokio::time::timeout(self.shared.config.limits.slow_client, async {
            room.acquire_many_owned(kilobytes).await
        });
        match wait.await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => Err(End::Fatal(SqlError::new(
                SqlState::OUT_OF_MEMORY,
                "too many large messages are being received at the same time",
            ))),
        }
    }

    pub async fn drop_body(&mut self, header: Header) -> Result<(), End> {
        self.wire.skip_header();
        let mut remaining = header.body;
        while remaining > 0 {
            remaining -= self.wire.piece(remaining).await?.len();
        }
        Ok(())
    }

    async fn query(&mut self, text: &str) -> Result<(), End> {
        let statements = match rung_sql::parse(text) {
            Ok(statements) => statements,
            Err(error) => {
                self.session.fail().await;
                self.error(&error);
                return self.ready().await;
            }
        };
        let surroundings = match statements.len() {
            0 | 1 => Surroundings::Alone,
            _ => Surroundings::OneOfSeveral,
        };
        for (index, statement) in statements.iter().enumerate() {
            let arguments = Arguments::default();
            let executed = self.session.execute(statement, arguments, surroundings).await;
            let is_last = index + 1 == statements.len();
            let done = match executed {
                Ok(outcome) => self.finish(outcome, is_last).await?,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                self.error(&error);
                break;
            }
        }
        self.ready().await
    }

    /// Sends what a statement of a simple query came to. After the last one what
    /// they are together is committed, before its end is told.
    async fn finish(
        &mut self,
        outcome: Outcome,
        is_last: bool,
    ) -> Result<Result<(), SqlError>, End> {
        let outcome = match outcome {
            Outcome::CopyIn { binary, columns } => match self.copy_in(binary, columns).await? {
                Ok(tag) => Outcome::Done { tag },
                Err(error) => return Ok(Err(error)),
            },
            outcome => outcome,
        };
        if is_last && let Err(error) = self.session.finish_implicit().await {
            return Ok(Err(error));
        }
        match outcome {
            Outcome::Empty => encode::empty_query(&mut self.wire.output),
            Outcome::Rows { rows, tag } => {
                encode::row_description(&mut self.wire.output, &rows.columns);
                self.complete_rows(&rows, &tag).await?;
            }
            Outcome::CopyOut { rows, tag, binary, columns } => {
                self.copy_out(&rows, &tag, binary, columns).await?;
            }
            Outcome::Done { tag } => self.complete(&tag),
            Outcome::CopyIn { .. } => unreachable!("its data has been taken"),
        }
        Ok(Ok(()))
    }

    pub async fn complete_rows(&mut self, rows: &Rows, tag: &str) -> Result<(), End> {
        self.send_rows(rows).await?;
        self.complete(tag);
        Ok(())
    }

    /// Says that a statement was executed, after what it had to say besides.
    pub fn complete(&mut self, tag: &str) {
        self.notices();
        encode::command_complete(&mut self.wire.output, tag);
    }

    /// Sends messages, no faster than the client takes them.
    pub async fn send_rows(&mut self, rows: &Rows) -> Result<(), End> {
        if let Some(memory) = rows.in_memory()
            && memory.len() <= PIECE
        {
            self.wire.output.extend_from_slice(memory);
            return Ok(self.wire.flush_if_full().await?);
        }
        let mut offset = 0;
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let count = match rows.read(offset, PIECE, &mut piece) {
                Ok(count) => count,
                // In the middle of a message nothing else can be said.
                Err(error) => return Err(End::Broken(std::io::Error::other(error).into())),
            };
            if count == 0 {
                return Ok(());
            }
            self.wire.output.extend_from_slice(&piece);
            self.wire.flush_if_full().await?;
            offset += count as u64;
        }
    }

    /// Tells an error, after the notices that came before it.
    pub fn error(&mut self, error: &SqlError) {
        self.notices();
        encode::error(&mut self.wire.output, Severity::Error, error);
    }

    fn notices(&mut self) {
        for (severity, notice) in self.session.take_notices() {
            encode::error(&mut self.wire.output, severity, &notice);
        }
    }

    /// Ends the answer to a query or a Sync.
    pub async fn ready(&mut self) -> Result<(), End> {
        self.notices();
        for (name, value) in self.session.take_reports() {
            encode::parameter_status(&mut self.wire.output, name, &value);
        }
        encode::ready(&mut self.wire.output, self.session.status());
        Ok(self.wire.flush().await?)
    }

    async fn end(self, end: End) {
        let Connection { mut wire, session, shared, .. } = self;
        // What the client left open must not wait for a client that takes nothing.
        session.close().await;
        match end {
            End::Terminated => wire.close().await,
            End::Fatal(error) => {
                encode::error(&mut wire.output, Severity::Fatal, &error);
                let limit = shared.config.limits.slow_client.min(Duration::from_secs(5));
                let _ = tokio::time::timeout(limit, wire.close()).await;
            }
            End::Broken(error) => tracing::debug!(role = "db", %error, "a client is gone"),
        }
    }
}

/// A value within a message, as bytes of its own without a copy.
pub(super) fn slice(body: &Bytes, value: Option<&[u8]>) -> Option<Bytes> {
    value.map(|value| body.slice_ref(value))
}
