//! The example `photos`, and its visitors.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::app::link_or_copy;
use crate::cluster::{Cluster, SOON, binaries};
use crate::http::{self, Answer};
use crate::wait::eventually;

pub const HOST: &str = "photos.test";
/// Longer than the site waits for a primary.
const PATIENCE: Duration = Duration::from_secs(60);

impl Cluster {
    /// Deploys the example as it is, and waits until it is well.
    ///
    /// # Panics
    /// When it is not built.
    #[track_caller]
    pub fn deploy_photos(&self) {
        let built = binaries().join("photos");
        assert!(built.exists(), "{} is not there: run `cargo build -p photos`", built.display());
        let folder = self.dir().join("photos");
        fs::create_dir(&folder).expect("a folder");
        link_or_copy(&built, &folder.join("photos"));
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/photos/rung.toml");
        fs::copy(manifest, folder.join("rung.toml")).expect("the manifest");
        self.ctl(&["deploy", folder.to_str().expect("a plain path")]).expect(0);
        self.wait_healthy("photos", 2);
        let address = self.http("n1");
        eventually("the site answers", SOON, || {
            http::get(address, HOST, "/up").is_ok_and(|answer| answer.status == 200)
        });
    }
}

/// Somebody with a browser.
#[derive(Clone, Debug)]
pub struct Visitor {
    address: SocketAddr,
    cookie: Option<String>,
}

impl Visitor {
    /// Who goes to the balancer of a node.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, cookie: None }
    }

    /// The same browser, at the balancer of another node.
    #[must_use]
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// # Errors
    /// When the connection fails.
    pub fn ask(&mut self, line: &str, fields: &str, body: &[u8]) -> io::Result<Answer> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let cookie = self.cookie.iter().map(|cookie| format!("Cookie: {cookie}\r\n"));
        let cookie: String = cookie.collect();
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{cookie}{fields}\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let answer = http::read(&bytes)?;
        for field in answer.head.lines().filter_map(|line| line.split_once(": ")) {
            if field.0.eq_ignore_ascii_case("set-cookie") {
                self.cookie = field.1.split(';').next().map(str::to_owned);
            }
        }
        Ok(answer)
    }

    /// # Errors
    /// When the connection fails.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.ask(&format!("GET {path}"), "Accept: text/html\r\n", b"")
    }

    /// Sends a form, and insists that it is taken.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn post(&mut self, path: &str, form: &str) {
        let fields = "Content-Type: application/x-www-form-urlencoded\r\n";
        let answer = self.ask(&format!("POST {path}"), fields, form.as_bytes());
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(answer.status, 303, "{path}: {}\n{}", answer.head, answer.text());
    }

    /// Uploads an image as a browser's form does.
    ///
    /// # Panics
    /// When it is not taken.
    #[track_caller]
    pub fn upload(&mut self, caption: &str, image: &[u8]) {
        let part =
            |name: &str| format!("--frontier\r\nContent-Disposition: form-data; name=\"{name}\"");
        let before = format!(
            "{}\r\n\r\n{caption}\r\n{}; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n",
            part("caption"),
            part("photo")
        );
        let body = [before.as_bytes(), image, b"\r\n--frontier--\r\n"].concat();
        let fields = "Content-Type: multipart/form-data; boundary=frontier\r\n";
        let answer = self.ask("POST /photos", fields, &body).expect("an answer");
        assert_eq!(answer.status, 303, "{}\n{}", answer.head, answer.text());
    }

    /// The paths of one's photos, as the start page shows them.
    ///
    /// # Panics
    /// When the page does not come.
    #[track_caller]
    pub fn photos(&mut self) -> Vec<String> {
        let page = self.get("/").expect("the start page").text();
        let sources = page.split("<img src=\"").skip(1).filter_map(|rest| rest.split_once('"'));
        sources.map(|(path, _)| path.to_owned()).collect()
    }
}
