//! Commands about apps, their releases and their instances.

use rung_proto::{Code, Failure, InstanceId, NodeId};

use super::{Attempt, refuse};
use crate::command::Command;
use crate::secrets::EnvRecord;
use crate::state::{
    AppRecord, InstanceRecord, MAX_APPS, MAX_INSTANCES, MAX_RELEASES, ReleaseRecord, Update,
};

impl Attempt<'_> {
    pub(super) fn app(&self, name: &str) -> Result<AppRecord, Failure> {
        match self.machine.state.apps.get(name) {
            Some(app) => Ok(app.clone()),
            None => refuse(Code::NotFound, format!("there is no app {name}")),
        }
    }

    pub(super) fn put_app(&mut self, app: AppRecord) {
        self.put(Update::App(app.name.clone(), Some(Box::new(app))));
    }

    pub(super) fn app_command(&mut self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::PutRelease { app, release, digest, size, manifest } => {
                let record = ReleaseRecord {
                    digest: *digest,
                    size: *size,
                    manifest: (**manifest).clone(),
                    created_ms: self.proposal.at_ms,
                };
                self.put_release(app, *release, record)
            }
            Command::SetTarget { app, dc, release } => {
                let mut app = self.app(app)?;
                if !app.releases.contains_key(release) {
                    return refuse(
                        Code::NotFound,
                        format!("{} has no release {release}", app.name),
                    );
                }
                app.targets.insert(dc.clone(), *release);
                self.put_app(app);
                Ok(())
            }
            Command::SetCurrent { app, release } => self.set_current(app, *release),
            Command::DropRelease { app, release } => {
                let mut app = self.app(app)?;
                if self.is_used(&app, *release) {
                    return refuse(Code::Precondition, format!("release {release} is in use"));
                }
                app.releases.remove(release);
                self.put_app(app);
                Ok(())
            }
            Command::SetWebWant { app, want } => {
                if *want > MAX_INSTANCES {
                    return refuse(Code::Usage, format!("at most {MAX_INSTANCES} instances"));
                }
                let mut app = self.app(app)?;
                app.web = *want;
                self.put_app(app);
                Ok(())
            }
            Command::SetEnv { app, sealed, names } => {
                let mut record = self.app(app)?;
                // The index, so that an app that is removed and deployed again never
                // has a version that its former variables were kept under.
                record.env_version = self.index;
                let now = self.proposal.at_ms;
                let old = std::mem::take(&mut record.env_names);
                for name in names {
                    record.env_names.insert(name.clone(), old.get(name).copied().unwrap_or(now));
                }
                let secret = EnvRecord { version: record.env_version, sealed: sealed.clone() };
                self.machine.secrets.env.insert(app.clone(), secret);
                self.put_app(record);
                Ok(())
            }
            Command::StartRemoval { app } => {
                let mut app = self.app(app)?;
                app.removing = true;
                self.put_app(app);
                Ok(())
            }
            Command::RemoveApp { app } => {
                let record = self.app(app)?;
                if self.machine.state.instances_of(&record.name).next().is_some() {
                    return refuse(Code::Precondition, format!("{app} still has instances"));
                }
                self.machine.secrets.env.remove(app);
                self.put(Update::App(app.clone(), None));
                self.event("app-removed", format!("{app} is gone"), None, Some(app.clone()));
                Ok(())
            }
            _ => refuse(Code::Internal, "not a command of an app"),
        }
    }

    pub(super) fn put_release(
        &mut self,
        name: &str,
        number: u32,
        release: ReleaseRecord,
    ) -> Result<(), Failure> {
        let state = &self.machine.state;
        // Looked at when it was planned too, but two deploys may be planned at once.
        state.refuse_taken_domain(name, &release.manifest.domain)?;
        let mut app = match state.apps.get(name) {
            Some(app) => app.clone(),
            None if state.apps.len() >= MAX_APPS => {
                return refuse(
                    Code::Precondition,
                    format!("a cluster has at most {MAX_APPS} apps"),
                );
            }
            None => AppRecord {
                name: name.to_owned(),
                releases: Default::default(),
                current: None,
                targets: Default::default(),
                web: release.manifest.web.instances.min,
                env_version: 0,
                env_names: Default::default(),
                removing: false,
                last_release: 0,
            },
        };
        if number != app.next_release() {
            return refuse(Code::IndexChanged, format!("{name} has a newer release meanwhile"));
        }
        app.releases.insert(number, release);
        app.last_release = number;
        while app.releases.len() > MAX_RELEASES {
            let unused = |other: &&u32| **other != number && !self.is_used(&app, **other);
            let Some(oldest) = app.releases.keys().find(unused).copied() else { break };
            app.releases.remove(&oldest);
        }
        self.put_app(app);
        Ok(())
    }

    /// Whether a release is wanted, or an instance of it is still there.
    fn is_used(&self, app: &AppRecord, release: u32) -> bool {
        let mut instances = self.machine.state.instances_of(&app.name);
        app.runs(release) || instances.any(|instance| instance.release == release)
    }

    pub(super) fn set_current(&mut self, name: &str, release: u32) -> Result<(), Failure> {
        let mut app = self.app(name)?;
        let Some(record) = app.releases.get(&release) else {
            return refuse(Code::NotFound, format!("{name} has no release {release}"));
        };
        // The number of instances that a person set stays; the manifest's counts
        // when it changed with the release.
        let before = app.current.and_then(|current| app.releases.get(&current));
        let instances = record.manifest.web.instances;
        if before.is_some_and(|before| before.manifest.web.instances != instances) {
            app.web = instances.min;
        }
        app.current = Some(release);
        app.targets.clear();
        self.put_app(app);
        let message = format!("{name} is at release {release}");
        self.event("release", message, None, Some(name.to_owned()));
        Ok(())
    }

    pub(super) fn place(
        &mut self,
        app: &str,
        release: u32,
        env_version: u64,
        node: NodeId,
    ) -> Result<(), Failure> {
        let record = self.app(app)?;
        let name = self.node(node)?.name;
        if !record.releases.contains_key(&release) || record.env_version != env_version {
            return refuse(Code::IndexChanged, format!("{app} has changed meanwhile"));
        }
        // Twice as many as wanted may exist while one release replaces another.
        let limit = (MAX_INSTANCES as usize) * 2;
        if self.machine.state.instances_of(app).count() >= limit {
            return refuse(Code::Precondition, format!("{app} has {limit} instances already"));
        }
        let id = InstanceId(self.next_id());
        let record = InstanceRecord {
            id,
            app: app.to_owned(),
            release,
            env_version,
            node,
            drain: false,
            placed_ms: self.proposal.at_ms,
            changed: self.index,
        };
        self.put(Update::Instance(id, Some(Box::new(record))));
        let message = format!("{app} release {release} placed on {name} as instance {id}");
        self.event("instance-placed", message, Some(name), Some(app.to_owned()));
        Ok(())
    }
}
