//! From a request's head to a response: find the app, choose an instance, try,
//! and try elsewhere where that can do no harm.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rung_proto::InstanceId;

use crate::balance::{Choice, choose, eject};
use crate::client::{Client, ClientError};
use crate::error_page::ErrorPage;
use crate::exchange::{Exchange, ExchangeContext, Failure, Finish};
use crate::hash_ring::hash_key;
use crate::health::Outcome;
use crate::instance::{InFlight, Instance};
use crate::metrics::count;
use crate::proxy::Session;
use crate::request_body::RequestBody;
use crate::request_head::RequestHead;
use crate::rewrite::{RequestExtras, write_request};
use crate::route::{App, Routed};
use crate::shared::{Counted, Worker};
use crate::sticky::{sticky_cookie, sticky_instance};
use crate::table::{HashKey, Place, Policy};
use crate::trace::{RequestId, TraceParent};
use crate::upstream::{Connection, LONG_LIVED, NotForwarded};

/// Connections that may fail before a request waits for a better time.
const CONNECT_FAILURES: usize = 8;
/// A request that waits looks again this often, also without news.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What became of a request, for counters and the log.
pub(crate) struct Record {
    pub app: Option<Arc<App>>,
    pub instance: Option<Arc<Instance>>,
    pub status: u16,
    pub attempts: u32,
    pub received: u64,
    pub sent: u64,
    pub problem: &'static str,
    pub ended: Option<Instant>,
}

/// What ends a request without a response of an instance.
pub(crate) enum Refusal {
    Page(ErrorPage),
    /// There is nobody to answer, or half a response was sent.
    Abort,
}

const NO_APPS: ErrorPage =
    ErrorPage::new(404, "No app is deployed here yet; `ctl deploy` deploys one");
const UNKNOWN_HOST: ErrorPage = ErrorPage::new(404, "No app has this host name and path");
const AMBIGUOUS_PATH: ErrorPage = ErrorPage::new(400, "The path can be read in more than one way");
const MISDIRECTED: ErrorPage =
    ErrorPage::new(421, "The TLS connection was made for the host of another app");
const RATE_LIMITED: ErrorPage = ErrorPage::new(429, "Too many requests from this address");
const SHED: ErrorPage =
    ErrorPage::new(503, "The app has as many requests as it may have").retry_after(1);
const CROWDED: ErrorPage =
    ErrorPage::new(503, "Too many requests wait for an instance").retry_after(1);
const NO_INSTANCE: ErrorPage =
    ErrorPage::new(503, "No instance of the app can be reached").retry_after(2);
const CLOSED: ErrorPage =
    ErrorPage::new(502, "The instance closed the connection without a response");
const LOST: ErrorPage = ErrorPage::new(502, "The instance was lost while it had the request");
const OUT_OF_TRIES: ErrorPage = ErrorPage::new(502, "Several instances failed to respond");
const NO_RESPONSE: ErrorPage = ErrorPage::new(504, "The instance did not respond in time");
const STALLED: ErrorPage = ErrorPage::new(504, "The instance did not take the request in time");
const BODY_TIMEOUT: ErrorPage = ErrorPage::new(408, "The body of the request came too slowly");

/// A request on its way.
pub(crate) struct Forwarding<'a> {
    pub worker: &'a Worker,
    pub session: &'a mut Session,
    pub client: &'a mut Client,
    pub request: &'a RequestHead,
    pub id: &'a RequestId,
    pub started: Instant,
}

/// What a request has been through.
struct Tries {
    tried: Vec<InstanceId>,
    /// Attempts that an instance may have seen.
    seen: u32,
    connect_failures: usize,
    /// A kept connection turned out to be dead: take new ones.
    fresh_only: bool,
    wait_until: Option<Instant>,
}

pub(crate) type Tunnelled = Option<(Box<Connection>, InFlight)>;

impl Forwarding<'_> {
    pub async fn run(&mut self, record: &mut Record) -> Result<Tunnelled, Refusal> {
        let shared = &self.worker.shared;
        if let Some(limiter) = &shared.rate_limiter
            && let Err(seconds) = limiter.admit(self.session.client, shared.ms(self.started))
        {
            count(&shared.totals.rate_limited);
            return Err(Refusal::Page(RATE_LIMITED.retry_after(seconds)));
        }
        let mut app = self.route().map_err(|page| {
            count(&shared.totals.unrouted);
            Refusal::Page(page)
        })?;
        record.app = Some(app.clone());
        let lasting = app.lasting.clone();
        let most = app.max_in_flight.unwrap_or(usize::MAX);
        let Some(_in_flight) = Counted::up_to(&lasting.in_flight, most) else {
            lasting.counters[self.worker.index].shed();
            return Err(Refusal::Page(SHED));
        };
        lasting.budget.earn();
        let mut body = RequestBody::new(self.request.body(), shared.config.limits.replay_bytes);
        let result = self.try_instances(&mut app, &mut body, record).await;
        record.received = body.received;
        result
    }

    fn route(&self) -> Result<Arc<App>, ErrorPage> {
        let snapshot = self.worker.shared.snapshot.load();
        let host = self.request.bytes(self.request.host);
        let app = match snapshot.route(host, self.request.path()) {
            Routed::App(app) => app,
            Routed::NoApps => return Err(NO_APPS),
            Routed::Unknown => return Err(UNKNOWN_HOST),
            Routed::Ambiguous => return Err(AMBIGUOUS_PATH),
        };
        // A connection whose certificate was shown for one app's host must not
        // carry requests for another's.
        if let Some(name) = &self.session.server_name
            && snapshot.apps.len() > 1
            && !host.eq_ignore_ascii_case(name.as_bytes())
            && !snapshot.serves_host(name.as_bytes(), app)
        {
            return Err(MISDIRECTED);
        }
        Ok(app.clone())
    }

    async fn try_instances(
        &mut self,
        app: &mut Arc<App>,
        body: &mut RequestBody,
        record: &mut Record,
    ) -> Result<Tunnelled, Refusal> {
        let trace = TraceParent::of(self.request, &mut self.session.random);
        let mut tries = Tries {
            tried: Vec::new(),
            seen: 0,
            connect_failures: 0,
            fresh_only: false,
            wait_until: None,
        };
        let bound = if app.sticky { sticky_instance(self.request) } else { None };
        loop {
            let Some(mut at) = self.choose(app, &tries, bound) else {
                *app = self.wait_for_instance(&mut tries).await?;
                continue;
            };
            if record.attempts > 0 {
                app.lasting.counters[self.worker.index].retry();
            }
            record.attempts += 1;
            record.instance = Some(at.instance.clone());
            let connection = match self.connect(app, &mut at, &mut tries).await {
                Some(connection) => connection,
                None => continue,
            };
            let cookie = (app.sticky && bound != Some(at.instance.id))
                .then(|| sticky_cookie(at.instance.id));
            let attempt = Attempt { at, connection, trace: &trace, cookie };
            match self.attempt(app, attempt, body, &mut tries, record).await {
                Some(result) => return result,
                None => continue,
            }
        }
    }

    fn choose(&mut self, app: &App, tries: &Tries, bound: Option<InstanceId>) -> Option<InFlight> {
        if tries.connect_failures >= CONNECT_FAILURES {
            return None;
        }
        let shared = &self.worker.shared;
        let key = match &app.policy {
            Policy::ConsistentHash(key) => self.hash(key),
            _ => 0,
        };
        // The first attempt needs no other clock than the request's start.
        let now = if tries.tried.is_empty() { self.started } else { Instant::now() };
        let choice = Choice {
            now_ms: shared.ms(now),
            key,
            tried: &tries.tried,
            bound,
            safe: self.request.method.is_idempotent() && self.request.is_without_body(),
            config: &shared.config.health,
        };
        choose(app, &choice, &mut self.session.random)
    }

    fn hash(&self, key: &HashKey) -> u64 {
        let header = match key {
            HashKey::Header(name) => self.request.named(name.as_bytes()),
            HashKey::ClientAddress => None,
        };
        match (header, self.session.client.to_canonical()) {
            (Some(value), _) => hash_key(value),
            (None, IpAddr::V4(address)) => hash_key(&address.octets()),
            (None, IpAddr::V6(address)) => hash_key(&address.octets()),
        }
    }

    /// A kept or a new connection; `None` when there is none and another
    /// instance should be tried.
    async fn connect(
        &mut self,
        app: &App,
        at: &mut InFlight,
        tries: &mut Tries,
    ) -> Option<Box<Connection>> {
        let config = &self.worker.shared.config;
        let index = self.worker.index;
        let upgrades = self.request.upgrade.is_some();
        if !tries.fresh_only && !upgrades {
            let careful = !self.request.method.is_idempotent();
            let kept = Connection::take_idle(&at.instance, index, self.started, careful);
            if kept.is_some() {
                return kept;
            }
        }
        let flags = if upgrades { LONG_LIVED } else { 0 };
        let opened = Box::pin(Connection::open(
            &at.instance,
            self.worker.shared.mesh.as_ref(),
            flags,
            config.timeouts.connect,
            config.timeouts.instance_idle,
        ))
        .await;
        // The instance may have begun to drain meanwhile, and the balancer may
        // have said that it sends nothing more there.
        if at.instance.retired.load(Relaxed) {
            return None;
        }
        match opened {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::debug!(role = "lb", instance = %at.instance.id, node = %at.instance.node, %error, "no connection to an instance");
                at.instance.counters[index].connect_failure();
                app.lasting.counters[index].connect_failure();
                self.note(app, at, Outcome::Unreachable);
                tries.tried.push(at.instance.id);
                tries.connect_failures += 1;
                None
            }
        }
    }

    /// Records what came of a request to an instance.
    fn note(&self, app: &App, at: &mut InFlight, outcome: Outcome) {
        let shared = &self.worker.shared;
        // Success needs no clock that is more exact than the request's start.
        let now = if outcome == Outcome::Good { self.started } else { Instant::now() };
        let now_ms = shared.ms(now);
        if at.record(outcome, now_ms, &shared.config.health)
            && eject(app, &at.instance, now_ms, &shared.config.health)
        {
            tracing::info!(role = "lb", app = %app.name, instance = %at.instance.id, ?outcome, "instance ejected");
        }
    }

    /// Waits for a change of the table, and at most a moment; then everything
    /// may be tried again.
    async fn wait_for_instance(&mut self, tries: &mut Tries) -> Result<Arc<App>, Refusal> {
        let shared = &self.worker.shared;
        let limits = &shared.config.limits;
        let now = Instant::now();
        let until = *tries.wait_until.get_or_insert(now + shared.config.timeouts.wait);
        if now >= until {
            return Err(Refusal::Page(NO_INSTANCE));
        }
        let Some(_waiting) = Counted::up_to(&shared.waiting, limits.waiting) else {
            return Err(Refusal::Page(CROWDED));
        };
        let mut changed = shared.changed.subscribe();
        // Either way the next look decides.
        let _ = tokio::time::timeout(LOOK_AGAIN.min(until - now), changed.changed()).await;
        tries.tried.clear();
        tries.connect_failures = 0;
        self.route().map_err(Refusal::Page)
    }
}

/// One try with one connection.
struct Attempt<'a> {
    at: InFlight,
    connection: Box<Connection>,
    trace: &'a TraceParent,
    cookie: Option<String>,
}

impl Forwarding<'_> {
    /// `None`: another attempt may follow.
    async fn attempt(
        &mut self,
        app: &App,
        attempt: Attempt<'_>,
        body: &mut RequestBody,
        tries: &mut Tries,
        record: &mut Record,
    ) -> Option<Result<Tunnelled, Refusal>> {
        let Attempt { mut at, mut connection, trace, cookie } = attempt;
        let shared = &self.worker.shared;
        let extras = RequestExtras {
            forwarded: &self.session.forwarded,
            id: self.id,
            trace,
            default_host: &app.name,
        };
        write_request(self.request, &extras, connection.output.tail());
        body.replay(connection.output.tail());
        // A request that must not be sent twice waits for its own instance, and
        // so does one that was sent to a suspected node for want of a better.
        let idempotent = self.request.method.is_idempotent();
        let remote = at.instance.place == Place::Remote;
        let avoidable = idempotent && remote && !at.instance.avoided.load(Relaxed);
        let sent_at = if record.attempts == 1 { self.started } else { Instant::now() };
        let context = ExchangeContext {
            request: self.request,
            id: self.id,
            cookie: cookie.as_deref(),
            stopping: &shared.stopping,
            limits: &shared.config.limits.head,
            timeouts: &shared.config.timeouts,
            suspected: avoidable.then_some(&*at.instance.avoided),
            started: sent_at,
        };
        let mut exchange = Exchange::new(
            context,
            self.client,
            &mut connection,
            body,
            &mut self.session.response,
            &mut self.session.deadline,
        );
        let result = poll_fn(|cx| exchange.poll(cx)).await;
        record.sent = exchange.sent;
        let (responding, first_byte_at) = (exchange.responding, exchange.first_byte_at);
        if responding {
            record.status = self.session.response.status;
        }
        match result {
            Ok(finish) => {
                let first_byte_at = first_byte_at.unwrap_or_else(Instant::now);
                // A small response ends where it begins.
                record.ended = (record.sent < 16_384).then_some(first_byte_at);
                let waited = first_byte_at.saturating_duration_since(sent_at);
                Some(Ok(self.succeeded(app, at, connection, finish, waited)))
            }
            Err(failure) if responding => {
                record.problem = "the response was cut off";
                let outcome = match failure {
                    Failure::Client(_) | Failure::ClientSlow => Outcome::Unknown,
                    _ => Outcome::Bad,
                };
                self.note(app, &mut at, outcome);
                Some(Err(Refusal::Abort))
            }
            Err(failure) => {
                let replayable = body.can_replay();
                let reused = connection.reused;
                drop(connection);
                let verdict = self.judge(failure, replayable, reused, app, &mut at, tries);
                verdict.map(Err)
            }
        }
    }

    fn succeeded(
        &self,
        app: &App,
        mut at: InFlight,
        connection: Box<Connection>,
        finish: Finish,
        waited: Duration,
    ) -> Tunnelled {
        let shared = &self.worker.shared;
        let response = &self.session.response;
        let outcome = if response.status >= 500 { Outcome::Bad } else { Outcome::Good };
        self.note(app, &mut at, outcome);
        if outcome == Outcome::Good {
            let now_ms = shared.ms(self.started + waited);
            at.instance.record_latency(waited.as_micros() as u64, now_ms);
        }
        match finish {
            Finish::Tunnel => return Some((connection, at)),
            Finish::Response { reusable: false } => {}
            Finish::Response { reusable: true } => {
                let mut connection = connection;
                // Half a second before the instance closes it itself.
                let own = response.idle_timeout.map_or(Duration::MAX, |seconds| {
                    Duration::from_millis(u64::from(seconds) * 1000)
                        .saturating_sub(Duration::from_millis(500))
                });
                connection.idle_limit = own.min(shared.config.timeouts.instance_idle);
                let most = shared.config.limits.idle_per_instance;
                connection.keep(&at.instance, self.worker.index, self.started + waited, most);
            }
        }
        None
    }

    /// What follows from a failure before any response: `None` is another
    /// attempt.
    fn judge(
        &self,
        failure: Failure,
        replayable: bool,
        reused: bool,
        app: &App,
        at: &mut InFlight,
        tries: &mut Tries,
    ) -> Option<Refusal> {
        let page = |page: ErrorPage| Some(Refusal::Page(page));
        let again = self.request.method.is_idempotent() && replayable;
        let now_ms = self.worker.shared.ms(Instant::now());
        match failure {
            Failure::NotForwarded(why) => {
                let outcome = match why {
                    NotForwarded::Refused => Outcome::Unknown,
                    NotForwarded::Unreachable => Outcome::Unreachable,
                };
                self.note(app, at, outcome);
                tries.tried.push(at.instance.id);
                tries.connect_failures += 1;
                if replayable { None } else { page(LOST) }
            }
            // An instance may close a kept connection at any time; that says
            // nothing about it, and costs nothing to try again.
            Failure::Closed if reused && again => {
                self.note(app, at, Outcome::Unknown);
                tries.fresh_only = true;
                None
            }
            Failure::Closed | Failure::Suspected => {
                self.note(app, at, Outcome::Unreachable);
                tries.tried.push(at.instance.id);
                tries.seen += 1;
                if !again {
                    return page(if failure == Failure::Closed { CLOSED } else { LOST });
                }
                let within = tries.seen < self.worker.shared.config.limits.attempts;
                if within && app.lasting.budget.spend(now_ms) { None } else { page(OUT_OF_TRIES) }
            }
            Failure::NoResponse => {
                self.note(app, at, Outcome::Bad);
                page(NO_RESPONSE)
            }
            Failure::Stalled => {
                self.note(app, at, Outcome::Bad);
                page(STALLED)
            }
            Failure::BadResponse(what) => {
                self.note(app, at, Outcome::Bad);
                tracing::info!(role = "lb", app = %app.name, instance = %at.instance.id, what, "a response breaks HTTP");
                page(ErrorPage::new(502, what))
            }
            Failure::CutOff => page(CLOSED),
            Failure::Client(ClientError::Gone) => Some(Refusal::Abort),
            Failure::Client(ClientError::BadBody(bad)) => {
                count(&self.worker.shared.totals.bad_requests);
                page(ErrorPage::new(400, bad.0))
            }
            Failure::ClientSlow => page(BODY_TIMEOUT),
        }
    }
}
