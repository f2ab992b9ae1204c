//! Asks an instance whether it may take requests.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one check may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// Whether the instance is well: with a path, `GET` answers 2xx or 3xx; without,
/// it accepts a connection.
///
/// # Errors
/// What was seen instead.
pub async fn check(address: SocketAddr, host: &str, path: Option<&str>) -> Result<(), String> {
    let whole = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("cannot connect to {address}: {error}"))?;
        match path {
            Some(path) => get(stream, host, path).await,
            None => Ok(()),
        }
    };
    let limit = TIMEOUT.as_secs();
    timeout(TIMEOUT, whole)
        .await
        .unwrap_or_else(|_| Err(format!("no answer from {address} within {limit} s")))
}

async fn get(mut stream: TcpStream, host: &str, path: &str) -> Result<(), String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: rung-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let failed = |error: std::io::Error| format!("GET {path}: {error}");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    let mut status = None;
    // Read on after the status, up to a bound: an app whose answer is cut off
    // would log an error every second.
    while answer.len() < MAX_ANSWER {
        let count = match stream.read_buf(&mut answer).await {
            Ok(count) => count,
            Err(_) if status.is_some() => break,
            Err(error) => return Err(failed(error)),
        };
        if status.is_none() {
            status = parse_status(&answer).map_err(|why| format!("GET {path}: {why}"))?;
        }
        if count == 0 {
            break;
        }
    }
    match status {
        Some(200..=399) => Ok(()),
        Some(other) => Err(format!("GET {path} answered {other}")),
        None => Err(format!("GET {path}: the connection ended before an answer")),
    }
}

/// Reads the final status from the start of an HTTP/1 answer; `None` if more
/// bytes are needed. Interim answers (1xx) are passed over.
///
/// # Errors
/// When it is not HTTP/1.
pub fn parse_status(mut bytes: &[u8]) -> Result<Option<u16>, &'static str> {
    const NOT_HTTP: &str = "the answer is not HTTP/1.1";
    loop {
        let start = b"HTTP/1.";
        let known = bytes.len().min(start.len());
        if bytes[..known] != start[..known] {
            return Err(NOT_HTTP);
        }
        let Some(line) = bytes.get(..12) else {
            return Ok(None);
        };
        let digits = &line[9..12];
        if line[8] != b' ' || !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
            return Err(NOT_HTTP);
        }
        let status = digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
        if status >= 200 {
            return Ok(Some(status));
        }
        match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => bytes = &bytes[end + 4..],
            None => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_any_prefix_of_an_answer() {
        assert_eq!(parse_status(b""), Ok(None));
        assert_eq!(parse_status(b"HTTP/1.1 20"), Ok(None));
        assert_eq!(parse_status(b"HTTP/1.1 200 OK\r\n"), Ok(Some(200)));
        assert_eq!(parse_status(b"HTTP/1.0 503"), Ok(Some(503)));
        assert_eq!(
            parse_status(b"HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 204 x"),
            Ok(Some(204))
        );
        assert_eq!(parse_status(b"HTTP/1.1 100 Continue\r\n\r\n"), Ok(None));
        assert!(parse_status(b"SSH-2.0").is_err());
        assert!(parse_status(b"HTTP/1.1 0x0 ").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse_status(&bytes);
            let _ = parse_status(&[b"HTTP/1.1 100 x\r\n\r\nHTTP/1.".as_slice(), &bytes].concat());
        }
    }
}
