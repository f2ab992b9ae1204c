//! Accepts connections, reads requests, and stops gracefully.

use std::future::Future;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::handlers;
use crate::http::{Connection, Request, answer_head};

/// How long a client may be silent between requests.
const IDLE: Duration = Duration::from_secs(75);
/// How long requests in progress may take once the server stops.
const FINISH: Duration = Duration::from_secs(30);

/// Serves until `stop` resolves, then finishes what is in progress.
pub async fn serve(listener: TcpListener, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    // Every connection holds a sender; when all are gone, so are the connections.
    let (alive, mut ended) = mpsc::channel::<()>(1);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (alive, stopped) = (alive.clone(), stopped.clone());
                    tokio::spawn(async move {
                        serve_connection(stream, stopped).await;
                        drop(alive);
                    });
                }
                Err(error) => {
                    eprintln!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    drop(alive);
    stopping.send_replace(true);
    if tokio::time::timeout(FINISH, ended.recv()).await.is_err() {
        println!("some requests are still in progress");
    }
}

async fn serve_connection(stream: TcpStream, mut stopped: watch::Receiver<bool>) {
    // Answers go out at once; without it the last piece of some waits 40 ms.
    let _ = stream.set_nodelay(true);
    let mut connection = Connection::new(stream);
    loop {
        let head = tokio::select! {
            biased;
            head = tokio::time::timeout(IDLE, connection.head()) => head,
            // Between two requests is the time to go.
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let Ok(Ok(Some(head))) = head else {
            return;
        };
        let mut request = match Request::parse(&head) {
            Ok(request) => request,
            Err(why) => {
                let length = why.len().to_string();
                let headers = [("Content-Type", "text/plain"), ("Content-Length", &length)];
                let answer = [answer_head("400 Bad Request", &headers, false), why.into()].concat();
                let _ = connection.write(&answer).await;
                return;
            }
        };
        request.keep_alive &= !*stopped.borrow();
        match handlers::handle(&mut connection, &request, &mut stopped).await {
            Ok(true) if request.keep_alive => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    async fn start() -> (std::net::SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, async { drop(stopped.await) }));
        (address, stop, server)
    }

    /// Sends bytes and reads until the answer ends with `end`.
    async fn exchange(stream: &mut TcpStream, bytes: &str, end: &str) -> String {
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(end.as_bytes()) {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
        }
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_connection_carries_many_requests_and_bodies_of_both_kinds() {
        let (address, _stop, _server) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = exchange(&mut stream, "GET /up HTTP/1.1\r\nHost: a\r\n\r\n", "up\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let request = "POST /sha1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let answer = exchange(&mut stream, request, "d89d\n").await;
        assert!(answer.contains("a9993e364706816aba3e25717850c26c9cd0d89d"), "{answer}");
        let request = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        let answer = exchange(&mut stream, request, "0\r\n\r\n").await;
        let (_, chunks) = answer.split_once("\r\n\r\n").unwrap();
        // Every second line is data; how it is cut depends on the reads.
        let data: String = chunks.split("\r\n").skip(1).step_by(2).collect();
        assert_eq!(data, "abc");
        let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: <7>\r\n\r\n";
        let answer = exchange(&mut stream, request, "}\n").await;
        assert!(answer.contains("\"x-request-id\":\"<7>\""), "{answer}");
        let request = "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\nX: <7>\r\n\r\n";
        let answer = exchange(&mut stream, request, "</html>\n").await;
        assert!(answer.contains("&lt;7&gt;"), "{answer}");
        let request = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /";
        let answer = exchange(&mut stream, request, "here\n").await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        let request = "GET /stream?chunks=2&ms=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = exchange(&mut stream, request, "0\r\n\r\n").await;
        assert!(answer.contains("chunk 2 of 2"), "{answer}");
    }

    #[tokio::test]
    async fn a_stop_finishes_the_request_in_progress_and_ends_idle_connections() {
        let (address, stop, server) = start().await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        exchange(&mut idle, "GET /up HTTP/1.1\r\nHost: a\r\n\r\n", "up\n").await;
        let mut busy = TcpStream::connect(address).await.unwrap();
        let first = "GET /stream?chunks=3&ms=100 HTTP/1.1\r\nHost: a\r\n\r\n";
        exchange(&mut busy, first, "chunk 1 of 3\n\r\n").await;
        stop.send(()).unwrap();
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
        let mut rest = String::new();
        busy.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("chunk 3 of 3\n\r\n0\r\n\r\n"), "{rest}");
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_websocket_echoes_and_is_told_when_the_server_goes() {
        let (address, stop, _server) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let answer = exchange(&mut stream, request, "\r\n\r\n").await;
        assert!(answer.contains("101 Switching Protocols"), "{answer}");
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        stream.write_all(&hello).await.unwrap();
        let mut echoed = [0; 7];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"\x81\x05Hello");
        stop.send(()).unwrap();
        let mut close = [0; 4];
        stream.read_exact(&mut close).await.unwrap();
        assert_eq!(close, [0x88, 2, 0x03, 0xe9]);
    }
}
