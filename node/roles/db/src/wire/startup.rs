//! From the first byte to the first ReadyForQuery: encryption, who it is, settings.

use std::sync::Arc;

use bytes::BytesMut;
use rung_sql::{SqlError, SqlState};
use tokio::net::TcpStream;

use super::encode::{self, Severity, Status};
use super::frontend::{First, HEADER};
use super::scram::{Exchange, MECHANISM, ScramVerifier};
use super::stream::{WireError, WireStream};
use crate::backend::Cancellation;
use crate::server::{Place, Shared};
use crate::session::{Session, Settings};
use crate::statistics::count;
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

/// Lets a client in. `None` when it wanted no session, or was told why not.
pub(super) async fn start(
    shared: &Arc<Shared>,
    stream: TcpStream,
) -> Result<Option<Started>, WireError> {
    let mut wire = WireStream::plain(stream, shared.config.limits.slow_client);
    let mut asked = 0;
    loop {
        let first = wire.first().await?;
        let first = First::parse(&first)?;
        match first {
            First::Tls | First::Gss if asked >= 2 => {
                return Err(super::frontend::ProtocolError::Startup("it asks again").into());
            }
            First::Tls => {
                asked += 1;
                match &shared.config.tls {
                    Some(tls) if !wire.is_tls() => {
                        wire.output.extend_from_slice(b"S");
                        wire.flush().await?;
                        let stream = tls.accept(wire.into_plain()?).await?;
                        wire = WireStream::tls(stream, shared.config.limits.slow_client);
                    }
                    _ => {
                        wire.output.extend_from_slice(b"N");
                        wire.flush().await?;
                    }
                }
            }
            First::Gss => {
                asked += 1;
                wire.output.extend_from_slice(b"N");
                wire.flush().await?;
            }
            First::Cancel { process, secret } => {
                shared.cancel(process, secret).await;
                return Ok(None);
            }
            First::Startup { minor, parameters } => {
                let admitted = match wishes(&parameters) {
                    Ok(wishes) => admit(shared, &mut wire, minor, wishes).await?,
                    Err(error) => Err(error),
                };
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
    wire: &mut WireStream,
    minor: u16,
    wishes: Wishes,
) -> Result<Result<(Session, Place), SqlError>, WireError> {
    let Some(place) = shared.place() else {
        count(&shared.statistics.counters.connections_refused);
        return Ok(Err(SqlError::new(
            SqlState::TOO_MANY_CONNECTIONS,
            "sorry, too many clients already",
        )));
    };
    if shared.config.require_tls && !wire.is_tls() {
        return Ok(Err(SqlError::new(
            SqlState::INVALID_AUTHORIZATION,
            "connections without encryption are not accepted",
        )
        .hint("connect with sslmode=require")));
    }
    if minor > 0 || !wishes.unknown.is_empty() {
        let unknown: Vec<&str> = wishes.unknown.iter().map(String::as_str).collect();
        encode::negotiate_protocol(&mut wire.output, &unknown);
    }
    let authenticated = authenticate(shared, wire, &wishes.user).await?;
    let user = match authenticated {
        Ok(user) => user,
        Err(error) => {
            count(&shared.statistics.counters.logins_failed);
            return Ok(Err(error));
        }
    };
    let settings = match settings(shared, &user, &wishes) {
        Ok(settings) => settings,
        Err(error) => return Ok(Err(error)),
    };
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
    if !shared.config.directory.borrow().databases.contains_key(database) {
        return Err(SqlError::new(
            SqlState::UNDEFINED_DATABASE,
            format!("database \"{database}\" does not exist"),
        ));
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
    wire: &mut WireStream,
    name: &str,
) -> Result<Result<Arc<User>, SqlError>, WireError> {
    let user = shared.users().get(name);
    let verifier = match &user {
        Some(user) => user.verifier.clone(),
        None => ScramVerifier::impossible(name, &shared.secret),
    };
    encode::authentication_sasl(&mut wire.output, MECHANISM);
    wire.flush().await?;
    let wrong = || {
        SqlError::new(
            SqlState::INVALID_PASSWORD,
            format!("password authentication failed for user \"{name}\""),
        )
    };
    let first = sasl(wire).await?;
    let Some(first) = initial_response(&first) else {
        return Ok(Err(malformed()));
    };
    let (exchange, answer) = match Exchange::begin(verifier, first) {
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
        _ => Ok(Err(wrong())),
    }
}

/// A message of SASL.
async fn sasl(wire: &mut WireStream) -> Result<BytesMut, WireError> {
    let header = wire.header().await?;
    if header.kind != b'p' || header.body > MAX_SASL {
        let what = "a message of SASL was expected";
        return Err(super::frontend::ProtocolError::Startup(what).into());
    }
    debug_assert!(header.body + HEADER <= MAX_SASL + HEADER);
    wire.body(header).await
}

/// The data of the first message of SASL, if it is for our mechanism.
fn initial_response(message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(MECHANISM.as_bytes())?.strip_prefix(b"\0")?;
    let (length, data) = rest.split_at_checked(4)?;
    let length = i32::from_be_bytes(length.try_into().ok()?);
    (usize::try_from(length) == Ok(data.len())).then_some(data)
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
    fn the_database_is_named_as_the_user_unless_said() {
        let read = wishes(&[("user", "app"), ("application_name", "x")]).unwrap();
        assert_eq!(read.database, "app");
        assert!(wishes(&[("database", "app")]).is_err());
        assert!(wishes(&[("user", "app"), ("replication", "database")]).is_err());
    }
}
