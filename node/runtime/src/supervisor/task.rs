//! Children that are plain async tasks.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinHandle};

use crate::restart::Exit;

/// How a task ends.
pub type TaskResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Tells a task that it shall end.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
}

impl Shutdown {
    pub(super) fn new(requested: watch::Receiver<bool>) -> Self {
        Self { requested }
    }

    /// Returns when the task shall end. Cancel safe.
    pub async fn requested(&mut self) {
        // An error means that the supervisor is gone.
        let _ = self.requested.wait_for(|requested| *requested).await;
    }

    /// Whether it shall end.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow() || self.requested.has_changed().is_err()
    }
}

/// A running task that is aborted when nobody wants it any more.
pub(super) struct TaskHandle {
    handle: Option<JoinHandle<TaskResult>>,
}

impl TaskHandle {
    pub(super) fn spawn(task: impl Future<Output = TaskResult> + Send + 'static) -> Self {
        Self { handle: Some(tokio::spawn(task)) }
    }

    /// Calls back when the task has ended.
    pub(super) fn follow(mut self, ended: impl FnOnce(Exit) + Send + 'static) -> FollowedTask {
        let handle = self.handle.take().expect("taken only here, where self ends");
        let (done, finished) = oneshot::channel();
        let abort = handle.abort_handle();
        tokio::spawn(async move {
            let exit = exit_of(handle.await);
            // Nobody waits unless the child is being stopped.
            let _ = done.send(());
            ended(exit);
        });
        FollowedTask { abort, finished }
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            handle.abort();
        }
    }
}

/// A task whose end is awaited elsewhere; aborted when dropped.
pub(super) struct FollowedTask {
    abort: AbortHandle,
    finished: oneshot::Receiver<()>,
}

impl FollowedTask {
    /// Waits for its end; whether it came in time.
    pub(super) async fn wait(mut self, patience: Duration) -> bool {
        tokio::time::timeout(patience, &mut self.finished).await.is_ok()
    }
}

impl Drop for FollowedTask {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

fn exit_of(result: Result<TaskResult, JoinError>) -> Exit {
    match result {
        Ok(Ok(())) => Exit::Finished,
        Ok(Err(error)) => Exit::Failed(error.to_string()),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Exit::Failed(panic_text(panic.as_ref())),
            Err(_) => Exit::Failed("its runtime ended".into()),
        },
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a text"))
}
