//! As much of HTTP/1.1 (RFC 9112) as a server behind a proxy needs: one request
//! head, its body, and the head of an answer.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAX_HEAD: usize = 32 * 1024;
const MAX_CHUNK_LINE: usize = 256;
const READ_AHEAD: usize = 8 * 1024;

/// The head of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub keep_alive: bool,
}

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

impl Request {
    /// Reads a head without its final empty line.
    pub fn parse(head: &[u8]) -> Result<Self, &'static str> {
        let head = std::str::from_utf8(head).map_err(|_| "the head is not UTF-8")?;
        let mut lines = head.split("\r\n");
        let mut parts = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("the request line is malformed");
        };
        if !target.starts_with('/') || !method.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err("the request line is malformed");
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or("a header has no colon")?;
            if name.is_empty() || name.ends_with(' ') || name.starts_with([' ', '\t']) {
                return Err("a header's name is malformed");
            }
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let keep_alive = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            _ => return Err("the version is not HTTP/1"),
        };
        let (path, query) = (path.to_owned(), query.to_owned());
        let mut request = Self { method: method.to_owned(), path, query, headers, keep_alive };
        if request.has_token("connection", "close") {
            request.keep_alive = false;
        } else if request.has_token("connection", "keep-alive") {
            request.keep_alive = true;
        }
        Ok(request)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether a comma-separated header holds this word.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        let values = self.headers.iter().filter(|(n, _)| n == name);
        values.flat_map(|(_, value)| value.split(',')).any(|v| v.trim().eq_ignore_ascii_case(token))
    }

    /// A number from the query, or a default, at most `max`.
    pub fn number(&self, name: &str, default: u64, max: u64) -> u64 {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.filter(|(n, _)| *n == name).find_map(|(_, value)| value.parse().ok());
        found.unwrap_or(default).min(max)
    }

    pub fn framing(&self) -> Result<Framing, &'static str> {
        let lengths: Vec<&str> = self
            .headers
            .iter()
            .filter(|(name, _)| name == "content-length")
            .map(|(_, value)| value.as_str())
            .collect();
        match (self.header("transfer-encoding"), lengths.as_slice()) {
            (None, []) => Ok(Framing::Length(0)),
            (None, [length]) if length.bytes().all(|b| b.is_ascii_digit()) => {
                length.parse().map(Framing::Length).map_err(|_| "the content length is malformed")
            }
            (Some(coding), []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            _ => Err("the length of the body is ambiguous"),
        }
    }
}

/// A connection with the bytes that were read ahead.
pub struct Connection {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The head of the next request; `None` when the client is done. Can be
    /// cancelled without losing bytes.
    pub async fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let mut head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                head.truncate(end);
                return Ok(Some(head));
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(invalid("the head is too long"));
            }
            self.buffer.reserve(READ_AHEAD);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(early_end()) };
            }
        }
    }

    /// At most `max` bytes, read ahead or not; empty at the end.
    pub async fn some(&mut self, max: usize) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.buffer.reserve(READ_AHEAD);
            self.stream.read_buf(&mut self.buffer).await?;
        }
        let count = self.buffer.len().min(max);
        Ok(self.buffer.drain(..count).collect())
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            match self.some(1).await?.first() {
                None => return Err(early_end()),
                Some(b'\n') if line.last() == Some(&b'\r') => {
                    line.pop();
                    return Ok(line);
                }
                Some(_) if line.len() >= MAX_CHUNK_LINE => {
                    return Err(invalid("a line is too long"));
                }
                Some(byte) => line.push(*byte),
            }
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }
}

/// A request body, read piece by piece.
pub struct Body {
    framing: Framing,
    /// Bytes left in the body or in the present chunk.
    left: u64,
    begun: bool,
    done: bool,
}

impl Body {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => {
                Self { framing, left: length, begun: true, done: length == 0 }
            }
            Framing::Chunked => Self { framing, left: 0, begun: false, done: false },
        }
    }

    /// Whether it has been read to its end.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self, connection: &mut Connection) -> io::Result<Option<Vec<u8>>> {
        if self.done {
            return Ok(None);
        }
        if self.left == 0 && self.framing == Framing::Chunked {
            self.next_chunk(connection).await?;
            if self.done {
                return Ok(None);
            }
        }
        let max = usize::try_from(self.left).unwrap_or(usize::MAX).min(64 * 1024);
        let piece = connection.some(max).await?;
        if piece.is_empty() {
            return Err(early_end());
        }
        self.left -= piece.len() as u64;
        self.done = self.left == 0 && self.framing != Framing::Chunked;
        Ok(Some(piece))
    }

    async fn next_chunk(&mut self, connection: &mut Connection) -> io::Result<()> {
        if self.begun && !connection.line().await?.is_empty() {
            return Err(invalid("a chunk is longer than its size"));
        }
        self.begun = true;
        let line = connection.line().await?;
        self.left = parse_chunk_size(&line).ok_or_else(|| invalid("a chunk size is malformed"))?;
        if self.left == 0 {
            while !connection.line().await?.is_empty() {}
            self.done = true;
        }
        Ok(())
    }
}

/// The size in a chunk's first line; extensions are passed over.
fn parse_chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii_end();
    let plain = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    if !plain {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

pub fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn early_end() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// The head of an answer, with its final empty line.
pub fn answer_head(status: &str, headers: &[(&str, &str)], keep_alive: bool) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += if keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" };
    head.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read() {
        let head = b"GET /slow?ms=5&x=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close";
        let request = Request::parse(head).unwrap();
        assert_eq!((request.path.as_str(), request.number("ms", 1, 10)), ("/slow", 5));
        assert_eq!(request.header("host"), Some("a"));
        assert!(!request.keep_alive);
        assert!(request.has_token("connection", "upgrade"));
    }

    #[test]
    fn malformed_heads_are_refused() {
        for head in [
            "",
            "GET",
            "GET / HTTP/2",
            "GET x HTTP/1.1",
            "GET / HTTP/1.1\r\nno colon",
            "GET / HTTP/1.1\r\nA : b",
        ] {
            assert!(Request::parse(head.as_bytes()).is_err(), "{head}");
        }
    }

    #[test]
    fn an_ambiguous_length_is_refused() {
        for headers in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: +1",
            "Transfer-Encoding: gzip",
        ] {
            let request =
                Request::parse(format!("POST / HTTP/1.1\r\n{headers}").as_bytes()).unwrap();
            assert!(request.framing().is_err(), "{headers}");
        }
    }

    #[test]
    fn chunk_sizes_are_read() {
        assert_eq!(parse_chunk_size(b"1a;x=y"), Some(26));
        for wrong in [b"".as_slice(), b"-1", b"x", b"1111111111111111"] {
            assert_eq!(parse_chunk_size(wrong), None);
        }
    }
}
