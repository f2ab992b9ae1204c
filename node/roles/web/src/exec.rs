//! The step between a node and an app's process.
//!
//! A node starts its own binary as `rungd exec-app`, which reads an [`ExecSpec`]
//! from standard input, gives up what the app must not have, and becomes the
//! app. So the node itself needs no closures between fork and exec, and the
//! app's variables (`LD_PRELOAD` among them) never reach a program that runs
//! with the node's rights: they are set only by the last exec.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio, exit};

use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::descriptors;

/// The argument that stands for this step.
pub const EXEC_ARGUMENT: &str = "exec-app";

/// Longest spec, in bytes.
const MAX_SPEC: u64 = 8 * 1024 * 1024;
/// Processes and threads that the user of an app may have.
const MAX_PROCESSES: u64 = 4096;
/// The status of a process that could not become the app, as shells have it.
const CANNOT_EXECUTE: i32 = 126;

/// What the process is to become.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct ExecSpec {
    /// The node's process. If another is the parent, the node has died.
    pub parent: u32,
    /// User and group to become; the node's own if absent.
    pub user: Option<(u32, u32)>,
    pub dir: PathBuf,
    /// A line for `/bin/sh -c`.
    pub command: String,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Soft and hard limit of open files, if the hard limit allows it.
    pub open_files: u64,
}

/// Becomes the app that standard input describes. To be called before anything
/// else in `main`, while the process has one thread. If it fails, it says why on
/// standard error, which is the app's log, and ends with status 126.
pub fn exec_app() -> ! {
    let error = match read_spec() {
        Ok(spec) => become_app(&spec),
        Err(error) => format!("cannot read the description of the app: {error}"),
    };
    eprintln!("rung: {error}");
    exit(CANNOT_EXECUTE)
}

fn read_spec() -> Result<ExecSpec, String> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_SPEC).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    serde_json::from_slice(&bytes).map_err(|e| e.to_string())
}

/// Returns only if it fails, with the reason.
fn become_app(spec: &ExecSpec) -> String {
    if let Err(error) = prepare(spec) {
        return error;
    }
    let error = Command::new("/bin/sh")
        .arg("-c")
        .arg(shell_line(&spec.command))
        .env_clear()
        .envs(&spec.env)
        .stdin(Stdio::null())
        .exec();
    format!("cannot start /bin/sh: {error}")
}

fn prepare(spec: &ExecSpec) -> Result<(), String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: rustix::io::Errno| format!("cannot {what}: {error}")
    };
    rustix::process::setsid().map_err(failed("start a session"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    limit(Resource::Core, 0).map_err(failed("forbid core dumps"))?;
    limit(Resource::Nofile, spec.open_files).map_err(failed("limit open files"))?;
    descriptors::close_on_exec_from(3).map_err(|e| format!("cannot close descriptors: {e}"))?;
    // Before the change of user, who may lack the right to walk to it.
    rustix::process::chdir(&spec.dir).map_err(failed("enter the app's folder"))?;
    if let Some((uid, gid)) = spec.user {
        // Counted for the whole user, so it is no limit to set on our own.
        limit(Resource::Nproc, MAX_PROCESSES).map_err(failed("limit processes"))?;
        change_user(uid, gid).map_err(failed("change the user"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(failed("forbid new privileges"))?;
    // A change of user clears this, so it comes after.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("die with the node"))?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent.and_then(|pid| u32::try_from(pid).ok()) != Some(spec.parent) {
        return Err("the node has ended".into());
    }
    Ok(())
}

/// Never raises a limit above the hard one that is in force.
fn limit(resource: Resource, wanted: u64) -> Result<(), rustix::io::Errno> {
    let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let value = Some(wanted.min(hard));
    rustix::process::setrlimit(resource, Rlimit { current: value, maximum: value })
}

/// Real, effective and saved ids, and no supplementary groups. The calls act on
/// the calling thread, which is the only one.
fn change_user(uid: u32, gid: u32) -> Result<(), rustix::io::Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// A plain command replaces the shell, so that the process which dies with the
/// node is the app itself. Anything with syntax is left to the shell.
fn shell_line(command: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " -_./=:,@%+$\"'{}".contains(c);
    let first = command.split_whitespace().next().unwrap_or_default();
    let is_path = first.contains('/') && !first.contains('=');
    let words =
        ["python3", "python", "node", "ruby", "java", "php", "deno", "bun", "npm", "bundle"];
    if command.chars().all(plain) && (is_path || words.contains(&first)) {
        format!("exec {command}")
    } else {
        command.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_command_replaces_the_shell_and_syntax_does_not() {
        assert_eq!(shell_line("./photos web --port $PORT"), "exec ./photos web --port $PORT");
        assert_eq!(shell_line("python3 app.py"), "exec python3 app.py");
        for left in
            ["cd x && ./y", "A=b ./x", "A=/b x", "./a; ./b", "while true", "./a | ./b", "./a $(b)"]
        {
            assert_eq!(shell_line(left), left);
        }
    }
}
