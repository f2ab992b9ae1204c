//! What cannot be part of a transaction, such as VACUUM.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::batch::panicked;
use crate::cancel::Cancel;
use crate::changes::Changed;
use crate::desk::Waiting;
use crate::error::ShardError;
use crate::job::{Answer, Boxed, Once, Reply};
use crate::outbox::Commit;
use crate::token::Token;
use crate::writer::{Connected, Writer};

impl Writer {
    /// Executes something outside of any transaction.
    pub fn alone(
        &mut self,
        work: Once,
        reply: Reply<(Boxed, Token)>,
        until: Instant,
        cancel: Cancel,
        epoch: u64,
    ) {
        let core = Arc::clone(&self.core);
        let Connected { executor, ticket, .. } = self.connected();
        let committed = {
            // The store must not work on the file while something is committed to it.
            let mut store = match core.store() {
                Ok(store) => store,
                Err(error) => {
                    // Nobody may be waiting any more.
                    let _ = reply.send(Err(ShardError::Stopped(error.to_string())));
                    return;
                }
            };
            core.meter.begin(None, Some(until), cancel);
            let result = catch_unwind(AssertUnwindSafe(|| work(executor)));
            let stopped = core.meter.end();
            if !executor.connection().is_autocommit() {
                // Its result says what went wrong; nothing is committed by this.
                let _ = executor.connection().execute_batch("ROLLBACK");
            }
            let result = match (result, stopped) {
                (_, Some(stopped)) => Err(stopped.error()),
                (Err(_), None) => Err(panicked()),
                (Ok(result), None) => Ok(result),
            };
            let kept = result.is_ok();
            let answer = Box::new(move |settled: Answer<Token>| {
                // Whoever asked may have gone.
                let _ = reply.send(settled.and_then(|token| Ok((result?, token))));
            });
            let waiting = vec![Waiting { kept, answer }];
            let before = store.tip().sequence;
            let done = core.capture(&mut store, Commit { ticket: *ticket, epoch, waiting });
            core.note_changes(&store, before, Changed::Unknown);
            done
        };
        if let Err(failed) = committed {
            self.take_back(failed);
        }
    }
}
