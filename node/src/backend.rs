//! The cluster as this node's admin API serves it.

use std::path::PathBuf;
use std::sync::Arc;

use rung_admin::{Answer, Backend, LogQuery};
use rung_control_plane::View;
use rung_proto::api::{
    ArchiveContent, ArchiveRequest, ArchiveRestore, AuditEntry, BackupDone, BackupRequest,
    BundleStored, ChangeAnswer, ChangeRequest, ClusterRecovered, DatabaseTop, DatabaseUrl, EnvName,
    Event, Finding, LogLine, NodeTop, Operation, RecoverRequest, RestoreDone, ScrubRequested,
    ScrubStarted, Status, Tail, TailPage, TailReplayed, TailRequest, Token, TokenCreated,
    TokenRequest, Top,
};
use rung_proto::{Code, Failure, OperationId};
use tokio::sync::{mpsc, watch};

use crate::node::Node;
use crate::protocol::{LeaderAnswer, LeaderRequest};
use crate::{
    control_recovery, database_access, database_archive, database_backup, database_scrub,
    database_top, doctor, logs, metrics, observe, status, tail,
};

/// A node as the admin API's backend.
pub struct NodeBackend {
    node: Arc<Node>,
    /// Counts what streams wait for.
    changed: watch::Receiver<u64>,
}

impl NodeBackend {
    pub fn new(node: Arc<Node>) -> Self {
        let (sender, changed) = watch::channel(0);
        let mut state = node.control.watch_state();
        tokio::spawn(async move {
            while state.changed().await.is_ok() {
                sender.send_modify(|count| *count += 1);
            }
        });
        Self { node, changed }
    }

    fn view(&self) -> View {
        let leadership = self.node.control.leadership();
        observe::view(
            &self.node.control.state(),
            &self.node.membership.view(),
            &self.node.soft,
            &leadership,
        )
    }

    async fn ask(&self, request: LeaderRequest) -> Result<LeaderAnswer, Failure> {
        self.node.ask_leader(&request).await
    }
}

fn unexpected() -> Failure {
    Failure::new(Code::Internal, "the leader answered something else")
}

/// The node's own working directory means nothing to who asks.
fn absolute(path: String) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Failure::new(Code::Usage, "the path of a backup or an archive is absolute")),
    }
}

impl Backend for NodeBackend {
    fn status(&self) -> Answer<'_, Status> {
        Box::pin(async {
            Ok(status::status(self.node.id, &self.node.control.state(), &self.view()))
        })
    }

    fn change(&self, request: ChangeRequest) -> Answer<'_, ChangeAnswer> {
        Box::pin(async move {
            match self.ask(LeaderRequest::Change(request)).await? {
                LeaderAnswer::Change(answer) => {
                    // Who asks this node next must see what was done.
                    if let ChangeAnswer::Started { operation } = &answer {
                        let id = operation.id;
                        let mut state = self.node.control.watch_state();
                        let seen = state.wait_for(|state| state.operations.contains_key(&id));
                        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), seen).await;
                    }
                    Ok(answer)
                }
                _ => Err(unexpected()),
            }
        })
    }

    fn operation(&self, id: OperationId) -> Answer<'_, Operation> {
        Box::pin(async move {
            let state = self.node.control.state();
            let record = state.operations.get(&id);
            record.map(|record| record.to_api()).ok_or_else(|| {
                Failure::new(Code::NotFound, format!("there is no operation {id}"))
                    .next("`ctl op ls` lists those that are kept")
            })
        })
    }

    fn operations(&self) -> Answer<'_, Vec<Operation>> {
        Box::pin(async {
            let state = self.node.control.state();
            Ok(state.operations.values().map(|record| record.to_api()).collect())
        })
    }

    fn events(&self, since: u64) -> Answer<'_, Vec<Event>> {
        Box::pin(async move {
            let state = self.node.control.state();
            Ok(state.events.iter().filter(|event| event.index > since).cloned().collect())
        })
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    fn logs(&self, query: LogQuery) -> Answer<'_, mpsc::Receiver<LogLine>> {
        Box::pin(async move {
            let state = self.node.control.state();
            if let Some(name) = &query.node
                && state.node_named(name).is_none()
            {
                return Err(Failure::new(Code::NotFound, format!("there is no node {name}")));
            }
            if let Some(app) = &query.app
                && !state.apps.contains_key(app)
                && self.node.web.logs(app).is_none()
            {
                return Err(Failure::new(Code::NotFound, format!("there is no app {app}"))
                    .next("`ctl app ls` lists them; roles are control, dns, lb, web"));
            }
            Ok(logs::collect(Arc::clone(&self.node), query))
        })
    }

    fn top(&self) -> Answer<'_, Top> {
        Box::pin(async {
            let state = self.node.control.state();
            let mut told = self.node.soft.all();
            // Its own inboxes as they are, not as they were last measured.
            if let Some(mine) = told.get_mut(&self.node.id) {
                mine.actors = self.node.actors.status();
            }
            let nodes = told
                .into_values()
                .map(|told| NodeTop {
                    name: state.node_name(told.node),
                    host: told.host,
                    actors: told.actors,
                })
                .collect();
            Ok(Top { nodes })
        })
    }

    fn audit(&self) -> Answer<'_, Vec<AuditEntry>> {
        Box::pin(async { Ok(self.node.control.state().audit.iter().cloned().collect()) })
    }

    fn doctor(&self) -> Answer<'_, Vec<Finding>> {
        Box::pin(async { Ok(doctor::examine(&self.node, &self.view())) })
    }

    fn env(&self, app: String) -> Answer<'_, Vec<EnvName>> {
        Box::pin(async move {
            let state = self.node.control.state();
            let record = state
                .apps
                .get(&app)
                .ok_or_else(|| Failure::new(Code::NotFound, format!("there is no app {app}")))?;
            let name = |(name, set_at_ms): (&String, &u64)| EnvName {
                name: name.clone(),
                set_at_ms: *set_at_ms,
            };
            Ok(record.env_names.iter().map(name).collect())
        })
    }

    fn database_top(&self) -> Answer<'_, DatabaseTop> {
        Box::pin(async { Ok(database_top::everywhere(&self.node).await) })
    }

    fn back_up(&self, database: String, request: BackupRequest) -> Answer<'_, BackupDone> {
        Box::pin(async move {
            let path = request.path.map(absolute).transpose()?;
            database_backup::back_up(&self.node, &database, path).await
        })
    }

    fn restore(&self, database: String, request: BackupRequest) -> Answer<'_, RestoreDone> {
        Box::pin(async move {
            let path = request.path.ok_or_else(|| Failure::new(Code::Usage, "which backup?"))?;
            database_backup::restore(&self.node, &database, absolute(path)?).await
        })
    }

    fn tails(&self, database: String) -> Answer<'_, Vec<Tail>> {
        Box::pin(async move { tail::everywhere::of_database(&self.node, &database).await })
    }

    fn tail(&self, database: String, file: String) -> Answer<'_, TailPage> {
        Box::pin(async move { tail::everywhere::show(&self.node, &database, &file).await })
    }

    fn replay_tail(&self, database: String, request: TailRequest) -> Answer<'_, TailReplayed> {
        Box::pin(async move {
            tail::everywhere::replay_here(&self.node, &database, &request.file).await
        })
    }

    fn recover(&self, request: RecoverRequest) -> Answer<'_, ClusterRecovered> {
        Box::pin(async move { control_recovery::recover(&self.node, request).await })
    }

    fn restore_archive(
        &self,
        database: String,
        request: ArchiveRestore,
    ) -> Answer<'_, RestoreDone> {
        Box::pin(async move {
            let dir = absolute(request.dir)?;
            database_archive::restore(&self.node, &database, dir, request.at).await
        })
    }

    fn archive(&self, request: ArchiveRequest) -> Answer<'_, ArchiveContent> {
        Box::pin(async move { database_archive::content(absolute(request.dir)?).await })
    }

    fn scrub(&self, database: String, request: ScrubRequested) -> Answer<'_, ScrubStarted> {
        Box::pin(async move { database_scrub::start(&self.node, &database, request).await })
    }

    fn database_url(&self, database: String) -> Answer<'_, DatabaseUrl> {
        Box::pin(async move {
            if !self.node.control.state().databases.contains_key(&database) {
                let what = format!("there is no database {database}");
                return Err(Failure::new(Code::NotFound, what).next("`ctl db ls` lists them"));
            }
            // Who has the key needs nobody, also without a majority.
            let password = match self.node.control.cluster_key() {
                Some(key) => database_access::password(&key, &database),
                None => {
                    let request = LeaderRequest::DatabasePassword { database: database.clone() };
                    let LeaderAnswer::DatabasePassword(password) = self.ask(request).await? else {
                        return Err(unexpected());
                    };
                    password
                }
            };
            Ok(database_access::access(&self.node, &database, &password))
        })
    }

    fn tokens(&self) -> Answer<'_, Vec<Token>> {
        Box::pin(async {
            match self.ask(LeaderRequest::Tokens).await? {
                LeaderAnswer::Tokens(tokens) => Ok(tokens),
                _ => Err(unexpected()),
            }
        })
    }

    fn create_token(&self, request: TokenRequest) -> Answer<'_, TokenCreated> {
        Box::pin(async move {
            match self.ask(LeaderRequest::CreateToken(request)).await? {
                LeaderAnswer::TokenCreated(created) => Ok(created),
                _ => Err(unexpected()),
            }
        })
    }

    fn revoke_token(&self, id: String, requested_by: String) -> Answer<'_, Token> {
        Box::pin(async move {
            match self.ask(LeaderRequest::RevokeToken { id, by: requested_by }).await? {
                LeaderAnswer::Token(token) => Ok(token),
                _ => Err(unexpected()),
            }
        })
    }

    fn put_bundle(&self, file: PathBuf) -> Answer<'_, BundleStored> {
        Box::pin(async move { self.node.bundles.accept(file).await })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        if self.node.control.state().nodes.is_empty() {
            reasons.push("the control state is not known yet".to_owned());
        }
        let state = self.node.control.state();
        if state.owns(self.node.id, rung_proto::Role::Lb) && !self.node.lb.runs() {
            reasons.push("the balancer does not run".to_owned());
        }
        let broken = self.node.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reasons.extend(broken.iter().map(|(role, why)| format!("{role} does not run: {why}")));
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn metrics(&self, out: &mut String) {
        metrics::render(&self.node, &self.view(), out);
    }
}
