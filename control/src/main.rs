//! `ctl`, the hand on the cluster: it asks a node and shows what it answers.
//!
//! Every change is an operation of the cluster, which goes on without this
//! program. So `ctl` keeps no state and decides nothing: it sends, streams the
//! steps, and tells by its exit code how far it saw the operation come.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | done, or nothing to do |
//! | 1 | failed |
//! | 2 | used wrongly |
//! | 3 | a dry run whose plan has changes |
//! | 4 | accepted, but not converged in time |
//! | 5 | refused by a precondition |
//! | 6 | no quorum, unreachable, or the outcome is unknown |

mod args;
mod client;
mod codes;
mod commands;
mod mutation;
mod output;
mod progress;
mod render;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Arguments;
use crate::output::{Exit, Screen, Trouble};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let screen = Screen::new(arguments.output);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(commands::run(&screen, arguments));
            // A file that is still read or a request under way must not delay the end.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Trouble::internal("this program could not start", error)),
    };
    match result {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(trouble) => {
            screen.report(&trouble.failure);
            ExitCode::from(trouble.exit)
        }
    }
}

impl Exit {
    /// Done, or 1 when something that was looked at is a problem.
    fn failed_if(problem: bool) -> Self {
        if problem { Exit::Failed } else { Exit::Done }
    }
}
