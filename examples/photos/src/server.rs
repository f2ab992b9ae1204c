//! Which path does what.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::accounts::{self, Account, Entry};
use crate::database::{Database, Error};
use crate::people::{self, Person};
use crate::{pages, photos, request};

type Reply = Response<Full<Bytes>>;

/// How long connections may take to finish after a signal.
const FINISH: Duration = Duration::from_secs(25);
const HEAD: Duration = Duration::from_secs(30);

/// Serves until the future is done, then finishes what is in progress.
pub async fn serve(listener: TcpListener, database: Rc<Database>, end: impl Future<Output = ()>) {
    let (stop, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn_local(connection(stream, Rc::clone(&database), stop.subscribe()));
                }
                // Out of file descriptors, for example: those in use will end.
                Err(error) => {
                    eprintln!("a connection was not accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut end => break,
        }
    }
    drop(listener);
    let _ = stop.send(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FINISH, finished).await;
}

async fn connection(stream: TcpStream, database: Rc<Database>, mut stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let database = Rc::clone(&database);
        async move { Ok::<_, Infallible>(answer(&database, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let stopped = async move { stop.wait_for(|stop| *stop).await.is_ok() };
    tokio::select! {
        // A client that went away is no news.
        _ = connection.as_mut() => {}
        _ = stopped => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn answer(database: &Database, request: Request<Incoming>) -> Reply {
    let line = format!("{} {}", request.method(), request.uri().path());
    match route(database, request).await {
        Ok(reply) => reply,
        Err(error) => {
            eprintln!("{line}: {error}");
            let status = match error {
                Error::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
                Error::Database(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let text = "That did not work just now. Nothing is lost; try again in a moment.";
            html(status, pages::message("Not now", text))
        }
    }
}

async fn route(database: &Database, request: Request<Incoming>) -> Result<Reply, Error> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let is_change = !matches!(*request.method(), Method::GET | Method::HEAD);
    if is_change && !request::is_from_this_site(request.headers()) {
        return Ok(refused(403, "This came from another site."));
    }
    match (request.method(), parts.as_slice()) {
        (&Method::GET | &Method::HEAD, ["up"]) => Ok(text(StatusCode::OK, "up\n")),
        (&Method::GET | &Method::HEAD, [""]) => home(database, request.headers(), None).await,
        (&Method::POST, ["signup"]) => enter(database, request, true).await,
        (&Method::POST, ["login"]) => enter(database, request, false).await,
        (&Method::POST, ["logout"]) => {
            if let Some(token) = request::session(request.headers()) {
                accounts::log_out(database, &token).await?;
            }
            Ok(home_again(Some(request::set_cookie(""))))
        }
        (&Method::POST, ["photos"]) => upload(database, request).await,
        (&Method::GET | &Method::HEAD, ["photos", id]) if is_id(id) => image(database, id).await,
        (&Method::POST, ["photos", id, "delete"]) if is_id(id) => {
            match visitor(database, request.headers()).await? {
                Some(account) => {
                    photos::remove(database, &account.id, id).await?;
                    Ok(home_again(None))
                }
                None => Ok(refused(401, "Log in first.")),
            }
        }
        (&Method::GET | &Method::HEAD, ["people", rest @ ..]) if rest.len() < 2 => {
            show_people(database, request.headers(), rest.first().copied()).await
        }
        (&Method::PUT, ["people", id]) => {
            let id = (*id).to_owned();
            put_person(database, request, &id).await
        }
        _ => Ok(refused(404, "There is no such page.")),
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

async fn visitor(database: &Database, headers: &HeaderMap) -> Result<Option<Account>, Error> {
    match request::session(headers) {
        Some(token) => accounts::of_session(database, &token).await,
        None => Ok(None),
    }
}

async fn home(
    database: &Database,
    headers: &HeaderMap,
    problem: Option<(u16, &str)>,
) -> Result<Reply, Error> {
    let status = problem.and_then(|(status, _)| StatusCode::from_u16(status).ok());
    let why = problem.map(|(_, why)| why);
    let page = match visitor(database, headers).await? {
        Some(account) => {
            let photos = photos::of_account(database, &account.id).await?;
            pages::own_photos(&account, &photos, why)
        }
        None => pages::start(why),
    };
    Ok(html(status.unwrap_or(StatusCode::OK), page))
}

async fn enter(
    database: &Database,
    request: Request<Incoming>,
    is_new: bool,
) -> Result<Reply, Error> {
    let [name, password] = match request::form(request, ["name", "password"]).await {
        Ok(fields) => fields,
        Err((status, why)) => return Ok(refused(status, why)),
    };
    let entry = match is_new {
        true => accounts::sign_up(database, &name, &password).await?,
        false => accounts::log_in(database, &name, &password).await?,
    };
    Ok(match entry {
        Entry::Session(token) => home_again(Some(request::set_cookie(&token))),
        Entry::Refused(why) => html(StatusCode::FORBIDDEN, pages::start(Some(why))),
    })
}

async fn upload(database: &Database, request: Request<Incoming>) -> Result<Reply, Error> {
    let headers = request.headers().clone();
    let Some(account) = visitor(database, &headers).await? else {
        return Ok(refused(401, "Log in first."));
    };
    match request::upload(request).await {
        Ok(upload) => {
            photos::add(database, &account.id, upload).await?;
            Ok(home_again(None))
        }
        Err(problem) => home(database, &headers, Some(problem)).await,
    }
}

async fn image(database: &Database, id: &str) -> Result<Reply, Error> {
    let Some((media_type, image)) = photos::image(database, id).await? else {
        return Ok(refused(404, "There is no such photo."));
    };
    let response = Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        // The id belongs to one image for ever.
        .header(header::CACHE_CONTROL, "public, max-age=31536000, immutable")
        .body(Full::new(image.into()));
    Ok(response.expect("the header values are valid"))
}

async fn show_people(
    database: &Database,
    headers: &HeaderMap,
    id: Option<&str>,
) -> Result<Reply, Error> {
    let id = match id.map(str::parse::<i32>).transpose() {
        Ok(id) => id,
        Err(_) => return Ok(refused(404, "An id is a number.")),
    };
    let mut found = people::find(database, id).await?;
    if id.is_some() && found.is_empty() {
        return Ok(refused(404, "There is no such person."));
    }
    if !request::wants_json(headers) {
        return Ok(html(StatusCode::OK, pages::people(&found)));
    }
    Ok(match (id, found.pop()) {
        (Some(_), Some(person)) => json(StatusCode::OK, &person),
        (_, last) => {
            found.extend(last);
            json(StatusCode::OK, &found)
        }
    })
}

async fn put_person(
    database: &Database,
    request: Request<Incoming>,
    id: &str,
) -> Result<Reply, Error> {
    let person: Person = match request::json(request).await {
        Ok(person) => person,
        Err(why) => return Ok(text(StatusCode::BAD_REQUEST, &format!("{why}\n"))),
    };
    if person.id.to_string() != id {
        return Ok(text(StatusCode::BAD_REQUEST, "the id is not that of the path\n"));
    }
    if let Some(why) = person.problem() {
        return Ok(text(StatusCode::BAD_REQUEST, &format!("{why}\n")));
    }
    people::put(database, &person).await?;
    Ok(json(StatusCode::OK, &person))
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Reply {
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, "no-store")
        .body(Full::new(body.into()));
    response.expect("the header values are valid")
}

fn html(status: StatusCode, body: String) -> Reply {
    reply(status, "text/html; charset=utf-8", body)
}

fn text(status: StatusCode, body: &str) -> Reply {
    reply(status, "text/plain; charset=utf-8", body.to_owned())
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Reply {
    let body = serde_json::to_string(value).expect("these types can be written");
    reply(status, "application/json", body + "\n")
}

fn refused(status: u16, why: &str) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    html(status, pages::message("Photos", why))
}

/// Back to the start page, so that reloading it repeats nothing.
fn home_again(cookie: Option<String>) -> Reply {
    let mut response = Response::builder().status(StatusCode::SEE_OTHER).header("location", "/");
    if let Some(cookie) = cookie {
        response = response.header(header::SET_COOKIE, cookie);
    }
    response.body(Full::default()).expect("the header values are valid")
}
