//! A small client of the wire protocol, which shows every message.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;

use crate::cluster::PATIENCE;

/// A message of the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body).replace('\0', "|");
        write!(f, "{} {body}", self.kind as char)
    }
}

impl Reply {
    /// A field of an error or a notice.
    pub fn field(&self, code: u8) -> Option<String> {
        let fields = self.body.split(|byte| *byte == 0);
        let field = fields.into_iter().find(|field| field.first() == Some(&code))?;
        Some(String::from_utf8_lossy(&field[1..]).into_owned())
    }

    /// The code of an error.
    pub fn state(&self) -> String {
        self.field(b'C').unwrap_or_default()
    }

    /// The text of a message that is one text, such as a command tag.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        text.strip_suffix('\0').unwrap_or(&text).to_owned()
    }

    /// The fields of a row, as text.
    pub fn row(&self) -> Vec<Option<String>> {
        let count = u16::from_be_bytes(self.body[..2].try_into().unwrap());
        let mut rest = &self.body[2..];
        let mut row = Vec::new();
        for _ in 0..count {
            let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
            rest = &rest[4..];
            row.push(usize::try_from(length).ok().map(|length| {
                let (value, after) = rest.split_at(length);
                rest = after;
                String::from_utf8_lossy(value).into_owned()
            }));
        }
        row
    }
}

/// The kinds of messages in a row, as one text.
pub fn kinds(replies: &[Reply]) -> String {
    replies.iter().map(|reply| reply.kind as char).collect()
}

pub struct Client {
    pub stream: TcpStream,
    pub parameters: HashMap<String, String>,
    pub key: (i32, i32),
}

impl Client {
    /// Connects; an error is the code that the server ends with.
    pub fn connect(
        address: SocketAddr,
        user: &str,
        password: &str,
        settings: &[(&str, &str)],
    ) -> Result<Client, String> {
        let mut client = Client::raw(address);
        let mut out = BytesMut::new();
        let user = [("user", user)];
        let startup = user.iter().chain(settings).copied();
        frontend::startup_message(startup, &mut out).unwrap();
        client.send(&out);
        client.log_in(password)?;
        Ok(client)
    }

    /// A connection on which nothing was sent yet.
    pub fn raw(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, parameters: HashMap::new(), key: (0, 0) }
    }

    fn log_in(&mut self, password: &str) -> Result<(), String> {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        loop {
            let reply = self.next().ok_or("closed")?;
            let mut out = BytesMut::new();
            match reply.kind {
                b'R' => match reply.body[3] {
                    10 => {
                        let first = scram.message();
                        frontend::sasl_initial_response("SCRAM-SHA-256", first, &mut out).unwrap();
                    }
                    11 => {
                        scram.update(&reply.body[4..]).unwrap();
                        frontend::sasl_response(scram.message(), &mut out).unwrap();
                    }
                    12 => scram.finish(&reply.body[4..]).unwrap(),
                    _ => {}
                },
                b'S' => {
                    let text = reply.text();
                    let (name, value) = text.split_once('\0').unwrap();
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
                b'K' => {
                    let number =
                        |at: usize| i32::from_be_bytes(reply.body[at..at + 4].try_into().unwrap());
                    self.key = (number(0), number(4));
                }
                b'Z' => return Ok(()),
                b'E' => return Err(reply.state()),
                _ => {}
            }
            self.send(&out);
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends what a closure writes.
    pub fn write(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        write(&mut out);
        self.send(&out);
    }

    /// The next message; none when the server has closed the connection.
    pub fn next(&mut self) -> Option<Reply> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).ok()?;
        let length = i32::from_be_bytes(head[1..].try_into().unwrap());
        let mut body = vec![0; length as usize - 4];
        self.stream.read_exact(&mut body).ok()?;
        Some(Reply { kind: head[0], body })
    }

    /// All messages up to ReadyForQuery, that one included.
    pub fn until_ready(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        loop {
            let reply = self.next().unwrap_or_else(|| panic!("the server left: {replies:?}"));
            replies.push(reply);
            if replies.last().is_some_and(|reply| reply.kind == b'Z') {
                return replies;
            }
        }
    }

    /// A simple query, with every message of its answer.
    pub fn ask(&mut self, text: &str) -> Vec<Reply> {
        self.write(|out| frontend::query(text, out).unwrap());
        self.until_ready()
    }

    /// A simple query, with its rows or the code of its error.
    pub fn query(&mut self, text: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        let replies = self.ask(text);
        match replies.iter().find(|reply| reply.kind == b'E') {
            Some(error) => Err(error.state()),
            None => {
                let rows = replies.iter().filter(|reply| reply.kind == b'D');
                Ok(rows.map(Reply::row).collect())
            }
        }
    }

    /// A simple query that must succeed; its first value.
    pub fn value(&mut self, text: &str) -> String {
        let replies = self.ask(text);
        let row = replies.iter().find(|reply| reply.kind == b'D');
        let row = row.unwrap_or_else(|| panic!("{text} gave no row: {replies:?}")).row();
        row[0].clone().unwrap_or_else(|| "null".to_owned())
    }

    /// A simple query that must succeed; its last command tag.
    pub fn run(&mut self, text: &str) -> String {
        let replies = self.ask(text);
        if let Some(error) = replies.iter().find(|reply| reply.kind == b'E') {
            panic!("{text} failed: {error:?}");
        }
        replies.iter().rfind(|reply| reply.kind == b'C').map(Reply::text).unwrap_or_default()
    }
}
