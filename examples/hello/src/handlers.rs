//! What each path answers.

use std::io;
use std::time::Duration;

use tokio::sync::watch;

use crate::http::{Body, Connection, Request, answer_head};
use crate::sha1::{Sha1, hex};
use crate::websocket;

const MAX_BYTES: u64 = 1 << 30;
const MAX_WAIT_MS: u64 = 10 * 60 * 1000;

/// Answers one request. `Ok(true)` means that another may follow on the
/// connection.
pub async fn handle(
    connection: &mut Connection,
    request: &Request,
    stopped: &mut watch::Receiver<bool>,
) -> io::Result<bool> {
    let framing = match request.framing() {
        Ok(framing) => framing,
        Err(why) => {
            text(connection, request, "400 Bad Request", why).await?;
            return Ok(false);
        }
    };
    let mut body = Body::new(framing);
    if request.has_token("expect", "100-continue") && !body.is_done() {
        connection.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/") => index(connection, request).await?,
        ("GET" | "HEAD", "/up") => text(connection, request, "200 OK", "up\n").await?,
        ("GET" | "HEAD", "/slow") => {
            let wait = request.number("ms", 1000, MAX_WAIT_MS);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            text(connection, request, "200 OK", &format!("waited {wait} ms\n")).await?;
        }
        ("GET", "/stream") => stream(connection, request).await?,
        ("GET" | "HEAD", "/bytes") => bytes(connection, request).await?,
        ("GET", "/echo") => return websocket::serve(connection, request, stopped).await,
        ("POST" | "PUT", "/body") => echo(connection, request, &mut body).await?,
        ("POST" | "PUT", "/sha1") => {
            let mut hash = Sha1::new();
            while let Some(piece) = body.next(connection).await? {
                hash.update(&piece);
            }
            text(connection, request, "200 OK", &format!("{}\n", hex(&hash.finish()))).await?;
        }
        (_, "/" | "/up" | "/slow" | "/stream" | "/bytes" | "/echo" | "/body" | "/sha1") => {
            text(connection, request, "405 Method Not Allowed", "no such method here\n").await?;
        }
        _ => text(connection, request, "404 Not Found", "no such page\n").await?,
    }
    // A body that nobody wanted would be read as the next request.
    while body.next(connection).await?.is_some() {}
    Ok(true)
}

async fn send(
    connection: &mut Connection,
    request: &Request,
    status: &str,
    kind: &str,
    content: &str,
) -> io::Result<()> {
    let length = content.len().to_string();
    let headers = [
        ("Content-Type", kind),
        ("Content-Length", length.as_str()),
        ("Cache-Control", "no-store"),
        ("Vary", "Accept"),
    ];
    let mut answer = answer_head(status, &headers, request.keep_alive);
    if request.method != "HEAD" {
        answer.extend_from_slice(content.as_bytes());
    }
    connection.write(&answer).await
}

async fn text(
    connection: &mut Connection,
    request: &Request,
    status: &str,
    content: &str,
) -> io::Result<()> {
    send(connection, request, status, "text/plain; charset=utf-8", content).await
}

/// Who answered, from the variables that any platform may set.
fn identity() -> Vec<(&'static str, String)> {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| "-".into());
    vec![
        ("node", variable("RUNG_NODE")),
        ("dc", variable("RUNG_DC")),
        ("release", variable("RUNG_RELEASE")),
        ("pid", std::process::id().to_string()),
        ("port", variable("PORT")),
    ]
}

async fn index(connection: &mut Connection, request: &Request) -> io::Result<()> {
    let accept = request.header("accept").unwrap_or_default();
    if accept.contains("text/html") {
        send(connection, request, "200 OK", "text/html; charset=utf-8", &html(request)).await
    } else {
        send(connection, request, "200 OK", "application/json", &json(request)).await
    }
}

fn json(request: &Request) -> String {
    let object = |pairs: &[(String, String)]| {
        let fields: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{}:{}", quote(name), quote(value))).collect();
        format!("{{{}}}", fields.join(","))
    };
    let own: Vec<String> = identity()
        .iter()
        .map(|(name, value)| match value.parse::<u32>() {
            Ok(number) => format!("{}:{number}", quote(name)),
            Err(_) => format!("{}:{}", quote(name), quote(value)),
        })
        .collect();
    format!("{{{},\"headers\":{}}}\n", own.join(","), object(&request.headers))
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

fn html(request: &Request) -> String {
    let row = |name: &str, value: &str| format!("<tr><th>{}<td>{}", escape(name), escape(value));
    let own: String = identity().iter().map(|(name, value)| row(name, value)).collect();
    let headers: String = request.headers.iter().map(|(name, value)| row(name, value)).collect();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>hello</title>\
         <style>body{{font:16px/1.5 system-ui;max-width:44rem;margin:2rem auto;padding:0 1rem}}\
         th{{text-align:left;padding-right:2rem;font-weight:500;color:#666;vertical-align:top}}\
         td{{overflow-wrap:anywhere}}</style>\
         <h1>Hello</h1><table>{own}</table><h2>Your request</h2><table>{headers}</table></html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

async fn chunk(connection: &mut Connection, piece: &[u8]) -> io::Result<()> {
    let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
    framed.extend_from_slice(piece);
    framed.extend_from_slice(b"\r\n");
    connection.write(&framed).await
}

async fn stream(connection: &mut Connection, request: &Request) -> io::Result<()> {
    let count = request.number("chunks", 10, 10_000);
    let pause = Duration::from_millis(request.number("ms", 200, 60_000));
    let headers = [("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")];
    connection.write(&answer_head("200 OK", &headers, request.keep_alive)).await?;
    for number in 1..=count {
        chunk(connection, format!("chunk {number} of {count}\n").as_bytes()).await?;
        tokio::time::sleep(pause).await;
    }
    connection.write(b"0\r\n\r\n").await
}

async fn bytes(connection: &mut Connection, request: &Request) -> io::Result<()> {
    let mut left = request.number("n", 1000, MAX_BYTES);
    let length = left.to_string();
    let headers = [("Content-Type", "application/octet-stream"), ("Content-Length", &length)];
    connection.write(&answer_head("200 OK", &headers, request.keep_alive)).await?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let block = vec![b'.'; 64 * 1024];
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        connection.write(&block[..count]).await?;
        left -= count as u64;
    }
    Ok(())
}

/// Sends the body back piece by piece, so that its size does not matter.
async fn echo(connection: &mut Connection, request: &Request, body: &mut Body) -> io::Result<()> {
    let kind = request.header("content-type").unwrap_or("application/octet-stream");
    let headers = [("Content-Type", kind), ("Transfer-Encoding", "chunked")];
    connection.write(&answer_head("200 OK", &headers, request.keep_alive)).await?;
    while let Some(piece) = body.next(connection).await? {
        chunk(connection, &piece).await?;
    }
    connection.write(b"0\r\n\r\n").await
}
