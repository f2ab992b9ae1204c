//! WebSocket (RFC 6455): the handshake and an echo of every message.

use std::io;

use tokio::sync::watch;

use crate::http::{Connection, Request, answer_head, invalid};
use crate::sha1::{base64, sha1};

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const MAX_PAYLOAD: u64 = 1024 * 1024;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a client's key must be answered with.
pub fn accept_key(key: &str) -> String {
    base64(&sha1(format!("{key}{GUID}").as_bytes()))
}

/// Upgrades and echoes until either side closes. Never leaves the connection fit
/// for another request.
pub async fn serve(
    connection: &mut Connection,
    request: &Request,
    stopped: &mut watch::Receiver<bool>,
) -> io::Result<bool> {
    let wanted = request.has_token("upgrade", "websocket")
        && request.has_token("connection", "upgrade")
        && request.header("sec-websocket-version") == Some("13");
    let (true, Some(key)) = (wanted, request.header("sec-websocket-key")) else {
        let headers = [("Sec-WebSocket-Version", "13"), ("Content-Length", "0")];
        connection.write(&answer_head("426 Upgrade Required", &headers, false)).await?;
        return Ok(false);
    };
    let accept = accept_key(key);
    let headers =
        [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", &accept)];
    connection.write(&answer_head("101 Switching Protocols", &headers, true)).await?;
    let mut buffer = Vec::new();
    loop {
        while let Some((frame, length)) = parse_frame(&buffer).map_err(invalid)? {
            buffer.drain(..length);
            let ends = frame.opcode == CLOSE;
            if let Some(answer) = answer(frame) {
                connection.write(&answer).await?;
            }
            if ends {
                return Ok(false);
            }
        }
        let bytes = tokio::select! {
            bytes = connection.some(64 * 1024) => bytes?,
            () = going(stopped) => {
                // 1001, going away.
                connection.write(&frame_bytes(CLOSE, true, &1001u16.to_be_bytes())).await?;
                return Ok(false);
            }
        };
        if bytes.is_empty() {
            return Ok(false);
        }
        buffer.extend_from_slice(&bytes);
    }
}

async fn going(stopped: &mut watch::Receiver<bool>) {
    // The sender outlives every connection.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    last: bool,
    opcode: u8,
    payload: Vec<u8>,
}

/// Reads a client's frame and its length; `None` if more bytes are needed.
fn parse_frame(bytes: &[u8]) -> Result<Option<(Frame, usize)>, &'static str> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err("reserved bits are set");
    }
    if second & 0x80 == 0 {
        return Err("a client's frame is not masked");
    }
    let (length, rest) = match second & 0x7f {
        126 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        length => (u64::from(length), rest),
    };
    let control = first & 0x08 != 0;
    if length > MAX_PAYLOAD || (control && (length > 125 || first & 0x80 == 0)) {
        return Err("a frame is too long");
    }
    let length = usize::try_from(length).map_err(|_| "a frame is too long")?;
    let Some((mask, rest)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let Some(masked) = rest.get(..length) else {
        return Ok(None);
    };
    let payload = masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    let frame = Frame { last: first & 0x80 != 0, opcode: first & 0x0f, payload };
    Ok(Some((frame, bytes.len() - rest.len() + length)))
}

fn answer(frame: Frame) -> Option<Vec<u8>> {
    match frame.opcode {
        CONTINUATION..=BINARY | CLOSE => {
            Some(frame_bytes(frame.opcode, frame.last, &frame.payload))
        }
        PING => Some(frame_bytes(PONG, true, &frame.payload)),
        _ => None,
    }
}

fn frame_bytes(opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![opcode | if last { 0x80 } else { 0 }];
    match payload.len() {
        length @ 0..126 => bytes.push(u8::try_from(length).unwrap_or_default()),
        length => match u16::try_from(length) {
            Ok(length) => {
                bytes.push(126);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                bytes.push(127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        },
    }
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_rfc_6455_holds() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_masked_hello_of_rfc_6455_is_read_from_any_prefix() {
        let bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        for end in 0..bytes.len() {
            assert_eq!(parse_frame(&bytes[..end]), Ok(None));
        }
        let (frame, length) = parse_frame(&bytes).unwrap().unwrap();
        assert_eq!((frame.payload.as_slice(), length), (b"Hello".as_slice(), 11));
        assert_eq!(answer(frame).unwrap(), [0x81, 0x05, b'H', b'e', b'l', b'l', b'o']);
    }

    #[test]
    fn frames_against_the_rules_are_refused() {
        assert!(parse_frame(&[0x81, 0x05]).is_err());
        assert!(parse_frame(&[0xc1, 0x85]).is_err());
        assert!(
            parse_frame(&[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err()
        );
        assert!(parse_frame(&[0x09, 0x80]).is_err());
    }

    #[test]
    fn long_payloads_get_long_lengths() {
        assert_eq!(&frame_bytes(BINARY, true, &[0; 200])[..4], [0x82, 126, 0, 200]);
        assert_eq!(
            &frame_bytes(BINARY, true, &[0; 70_000])[..10],
            [0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]
        );
    }
}
