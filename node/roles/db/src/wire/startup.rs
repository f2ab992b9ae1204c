//! From the first byte to the first ReadyForQuery: encryption, who it is, settings.

use std::sync::Arc;

use bytes::BytesMut;
use rung_sql::{SqlError, SqlState};
use tokio::net::TcpStream;

use super::encode::{self, Severity, Status};
use super::frontend::{First, HEADER, ProtocolError};
use super::scram::{Binding, Exchange, MECHANISM, MECHANISM_PLUS, ScramVerifier};
use super::stream::{WireError, WireStream};
use crate::backend::Cancellation;
use crate::server::{Place, Shared};
use crate::session::{Session, Settings};
use crate::statistics::count;
use crate::tls::PROTOCOL;
use crate::users::User;

/// The longest message of SASL, in bytes.
const MAX_SASL: usize = 4096;

/// A client that was let in.
pub(super) struct Started {
    pub wire: WireStream,
    pub session: Session,
    /// Its place among the connections, given back when dropped.
    pub place: Place,
}

/// What a client says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wishes {
    user: String,
    database: String,
    settings: Vec<(String, String)>,
    /// Options of a newer protocol.
    unknown: Vec<String>,
}

/// The first byte of a TLS handshake. No message of the protocol begins with it,
/// since it would be of 369 million bytes.
const TLS_HANDSHAKE: u8 = 0x16;

/// Lets a client in. `None` when it wanted no session, or was told why not.
pub(super) async fn start(
    shared: &Arc<Shared>,
    stream: TcpStream,
    require_tls: bool,
) -> Result<Option<Started>, WireError> {
    let mut entrance = Entrance::of(shared, stream).await?;
    let mut asked = 0;
    loop {
        let first = entrance.wire.first().await?;
        let first = First::parse(&first)?;
        match first {
            First::Tls | First::Gss if asked >= 2 || entrance.wire.is_tls() => {
                return Err(ProtocolError::Startup("it asks again").into());
            }
            First::Tls if shared.tls().is_some() => entrance = entrance.encrypt(shared).await?,
            First::Tls | First::Gss => {
                asked += 1;
                entrance.wire.output.extend_from_slice(b"N");
                entrance.wire.flush().await?;
            }
            First::Cancel { process, secret } => {
                // Also in the clear: libpq before 17 never encrypts it.
                shared.cancel(process, secret).await;
                return Ok(None);
            }
            First::Startup { minor, parameters } => {
                let admitted = match wishes(&parameters) {
                    Ok(_) if require_tls && !entrance.wire.is_tls() => Err(unencrypted()),
                    Ok(wishes) => admit(shared, &mut entrance, minor, wishes).await?,
                    Err(error) => Err(error),
                };
                let mut wire = entrance.wire;
                return match admitted {
                    Ok((session, place)) => Ok(Some(Started { wire, session, place })),
                    Err(error) => {
                        encode::error(&mut wire.output, Severity::Fatal, &error);
                        wire.close().await;
                        Ok(None)
                    }
                };
            }
        }
    }
}

fn unencrypted() -> SqlError {
    SqlError::new(
        SqlState::INVALID_AUTHORIZATION,
        "connections without encryption are not accepted at this address",
    )
    .hint("connect with sslmode=require, or with the file of `ctl db url --ca` and verify-full")
}

/// A client at the door.
struct Entrance {
    wire: WireStream,
    /// What the connection's certificate is known by, where channels can be bound to
    /// it.
    end_point: Option<Vec<u8>>,
}

impl Entrance {
    /// Looks whether the client begins with TLS, without having asked for it.
    async fn of(shared: &Shared, stream: TcpStream) -> Result<Self, WireError> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE {
            let entrance = Self::handshake(shared, stream).await?;
            // Another protocol within TLS may have been meant for another server.
            if entrance.wire.protocol() == Some(PROTOCOL) {
                return Ok(entrance);
            }
            return Err(ProtocolError::Startup("it is TLS without ALPN postgresql").into());
        }
        let wire = WireStream::plain(stream, shared.config.limits.slow_client);
        Ok(Self { wire, end_point: None })
    }

    async fn encrypt(self, shared: &Shared) -> Result<Self, WireError> {
        Self::handshake(shared, self.wire.agree_to_tls().await?).await
    }

    async fn handshake(shared: &Shared, stream: TcpStream) -> Result<Self, WireError> {
        let tls = shared.tls().ok_or(ProtocolError::Startup("TLS is not offered"))?;
        let stream = tls.acceptor.accept(stream).await?;
        let wire = WireStream::tls(stream, shared.config.limits.slow_client);
        Ok(Self { wire, end_point: tls.end_point.clone() })
    }
}

/// Reads the parameters of the first message.
fn wishes(parameters: &[(&str, &str)]) -> Result<Wishes, SqlError> {
    let mut wishes = Wishes::default();
    for (name, value) in parameters {
        match *name {
            "user" => (*value).clone_into(&mut wishes.user),
            "database" => (*value).clone_into(&mut wishes.database),
            "options" => wishes.settings.extend(options(value)?),
            "replication" if matches!(*value, "false" | "off" | "no" | "0") => {}
            "replication" => {
                return Err(SqlError::not_supported(
                    "PostgreSQL's replication protocol",
                    "copies of the database are made with ctl",
                ));
            }
            name if name.starts_with("_pq_.") => wishes.unknown.push(name.to_owned()),
            name => wishes.settings.push((name.to_owned(), (*value).to_owned())),
        }
    }
    if wishes.user.is_empty() {
        return Err(SqlError::new(
            SqlState::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    if wishes.database.is_empty() {
        wishes.database.clone_from(&wishes.user);
    }
    Ok(wishes)
}

/// Reads `-c name=value` and `--name=value`, with `\` before a blank within.
fn options(text: &str) -> Result<Vec<(String, String)>, SqlError> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.extend(characters.next()),
            blank if blank.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--") {
            Some(setting) => setting.to_owned(),
            None => match word.strip_prefix("-c") {
                Some("") => words.next().unwrap_or_default(),
                Some(setting) => setting.to_owned(),
                None => word.clone(),
            },
        };
        let Some((name, value)) = setting.split_once('=').filter(|_| word.starts_with('-')) else {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("invalid command-line argument for server process: {word}"),
            )
            .hint("options have the form -c name=value"));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// Asks who it is and begins a session. The inner error is the client's to know.
async fn admit(
    shared: &Arc<Shared>,
    entrance: &mut Entrance,
    minor: u16,
    wishes: Wishes,
) -> Result<Result<(Session, Place), SqlError>, WireError> {
    if minor > 0 || !wishes.unknown.is_empty() {
        let unknown: Vec<&str> = wishes.unknown.iter().map(String::as_str).collect();
        encode::negotiate_protocol(&mut entrance.wire.output, &unknown);
    }
    let authenticated = authenticate(shared, entrance, &wishes.user).await?;
    let user = match authenticated {
        Ok(user) => user,
        Err(error) => {
            count(&shared.statistics.counters.logins_failed);
            return Ok(Err(error));
        }
    };
    // Only now, so that strangers take no places of those who may connect.
    let Some(place) = shared.place() else {
        count(&shared.statistics.counters.connections_refused);
        return Ok(Err(SqlError::new(
            SqlState::TOO_MANY_CONNECTIONS,
            "sorry, too many clients already",
        )));
    };
    let settings = match settings(shared, &user, &wishes) {
        Ok(settings) => settings,
        Err(error) => return Ok(Err(error)),
    };
    let wire = &mut entrance.wire;
    encode::authentication_ok(&mut wire.output);
    for (name, value) in settings.reported() {
        encode::parameter_status(&mut wire.output, name, value);
    }
    encode::backend_key(&mut wire.output, place.process(), place.secret());
    encode::ready(&mut wire.output, Status::Idle);
    let cancellation: Cancellation = place.cancellation();
    let process = place.process();
    let session =
        Session::new(shared.clone(), user, &wishes.database, settings, process, cancellation);
    wire.flush().await?;
    count(&shared.statistics.counters.connections);
    Ok(Ok((session, place)))
}

/// The settings that the session begins with, if the user may use the database.
fn settings(shared: &Shared, user: &User, wishes: &Wishes) -> Result<Settings, SqlError> {
    let database = &wishes.database;
    if !user.may_use(database) {
        return Err(SqlError::new(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("permission denied for database \"{database}\""),
        ));
    }
    let directory = shared.config.directory.borrow().clone();
    if !directory.databases.contains_key(database) {
        return Err(match directory.nodes.is_empty() {
            // Nothing was told to this server yet, not even of its own node.
            true => SqlError::new(SqlState::CANNOT_CONNECT_NOW, "the node is starting up")
                .hint("connect again in a moment"),
            false => SqlError::new(
                SqlState::UNDEFINED_DATABASE,
                format!("database \"{database}\" does not exist"),
            ),
        });
    }
    let mut settings = Settings::new(&user.name, user.is_operator);
    for (name, value) in &wishes.settings {
        settings.set(name, Some(value))?;
    }
    if settings.value("rung.role") == "replica" {
        settings.set("default_transaction_read_only", Some("on"))?;
        settings.set_fixed("in_hot_standby", "on");
    }
    settings.keep_as_initial();
    Ok(settings)
}

/// Lets the client prove that it knows the user's password.
async fn authenticate(
    shared: &Shared,
    entrance: &mut Entrance,
    name: &str,
) -> Result<Result<Arc<User>, SqlError>, WireError> {
    let user = shared.users().get(name);
    let verifier = match &user {
        Some(user) => user.verifier.clone(),
        None => ScramVerifier::impossible(name, &shared.secret),
    };
    let Entrance { wire, end_point } = entrance;
    let offered = match end_point {
        Some(_) => &[MECHANISM_PLUS, MECHANISM][..],
        None => &[MECHANISM],
    };
    encode::authentication_sasl(&mut wire.output, offered);
    wire.flush().await?;
    let first = sasl(wire).await?;
    let Some((binding, first)) = initial_response(&first, end_point.as_deref()) else {
        return Ok(Err(malformed()));
    };
    let (exchange, answer) = match Exchange::begin(verifier, binding, first) {
        Ok(begun) => begun,
        Err(_) => return Ok(Err(malformed())),
    };
    encode::authentication_sasl_continue(&mut wire.output, &answer);
    wire.flush().await?;
    let last = sasl(wire).await?;
    match (exchange.finish(&last), user) {
        (Ok(proof), Some(user)) => {
            encode::authentication_sasl_final(&mut wire.output, &proof);
            Ok(Ok(user))
        }
        _ => Ok(Err(SqlError::new(
            SqlState::INVALID_PASSWORD,
            format!("password authentication failed for user \"{name}\""),
        ))),
    }
}

/// A message of SASL.
async fn sasl(wire: &mut WireStream) -> Result<BytesMut, WireError> {
    let header = wire.header().await?;
    if header.kind != b'p' || header.body > MAX_SASL {
        let what = "a message of SASL was expected";
        return Err(ProtocolError::Startup(what).into());
    }
    debug_assert!(header.body + HEADER <= MAX_SASL + HEADER);
    wire.body(header).await
}

/// The mechanism that the client chose of those that were offered, as what it is
/// bound to, and the data of the first message.
fn initial_response<'a>(
    message: &'a [u8],
    end_point: Option<&'a [u8]>,
) -> Option<(Binding<'a>, &'a [u8])> {
    let end = message.iter().position(|byte| *byte == 0)?;
    let (mechanism, rest) = (&message[..end], &message[end + 1..]);
    let binding = match (std::str::from_utf8(mechanism).ok()?, end_point) {
        (MECHANISM_PLUS, Some(hash)) => Binding::EndPoint(hash),
        (MECHANISM, Some(_)) => Binding::Declined,
        (MECHANISM, None) => Binding::Unavailable,
        _ => return None,
    };
    let (length, data) = rest.split_at_checked(4)?;
    let length = i32::from_be_bytes(length.try_into().ok()?);
    (usize::try_from(length) == Ok(data.len())).then_some((binding, data))
}

/// Reads bytes as each part of the first messages.
pub(super) fn parse_any(bytes: &[u8]) {
    if let Some((_, data)) = initial_response(bytes, Some(b"hash")) {
        assert!(data.len() <= bytes.len());
    }
    if let Ok(First::Startup { parameters, .. }) = First::parse(bytes) {
        let _ = wishes(&parameters);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = options(text);
    }
}

fn malformed() -> SqlError {
    SqlError::new(SqlState::PROTOCOL_VIOLATION, "malformed SCRAM message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_postgresql_reads_them() {
        let read = options(r"-c a.b=1 --search-path=x\ y  -cstatement_timeout=5s").unwrap();
        let expected = [("a.b", "1"), ("search_path", "x y"), ("statement_timeout", "5s")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(options("junk").is_err());
        assert!(options("-c").is_err());
    }

    #[test]
    fn only_a_mechanism_that_was_offered_is_taken() {
        let read = |message, end_point| initial_response(message, end_point);
        let plain = b"SCRAM-SHA-256\0\0\0\0\x02ab";
        assert_eq!(read(plain, None), Some((Binding::Unavailable, &b"ab"[..])));
        assert_eq!(read(plain, Some(b"h")), Some((Binding::Declined, &b"ab"[..])));
        let plus = b"SCRAM-SHA-256-PLUS\0\0\0\0\x02ab";
        assert_eq!(read(plus, Some(b"h")), Some((Binding::EndPoint(b"h"), &b"ab"[..])));
        assert_eq!(read(plus, None), None);
        for wrong in [&b""[..], b"SCRAM-SHA-256", b"MD5\0\0\0\0\0", b"SCRAM-SHA-256\0\0\0\0\x03ab"]
        {
            assert_eq!(read(wrong, None), None);
        }
    }

    #[test]
    fn the_database_is_named_as_the_user_unless_said() {
        let read = wishes(&[("user", "app"), ("application_name", "x")]).unwrap();
        assert_eq!(read.database, "app");
        assert!(wishes(&[("database", "app")]).is_err());
        assert!(wishes(&[("user", "app"), ("replication", "database")]).is_err());
    }
}
