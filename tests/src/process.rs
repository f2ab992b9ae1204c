//! Running a program as a user does, and what it said.

use std::fmt;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Run {
    pub command: String,
    /// Its exit code, or 128 and the signal that ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\nexit code: {}\nstandard output: {}\nstandard error: {}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

impl Run {
    /// The run, if it ended with this code.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Whether either stream says this.
    pub fn says(&self, text: &str) -> bool {
        self.stdout.contains(text) || self.stderr.contains(text)
    }

    /// The run, if either stream says this.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn saying(self, text: &str) -> Self {
        assert!(self.says(text), "{text:?} is not in\n{self}");
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in\n{self}"))
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn read_all(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came before an error is all there is.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs a program without input to its end.
///
/// # Panics
/// When it is not there, or does not end in time.
#[track_caller]
pub fn run(command: &mut Command, patience: Duration) -> Run {
    let text = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{text}: {error}"));
    let (stdout, stderr) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    let end = Instant::now() + patience;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let joined = |stream: JoinHandle<String>| stream.join().unwrap_or_default();
    let run = Run {
        command: text,
        code: status.map_or(-1, code_of),
        stdout: joined(stdout),
        stderr: joined(stderr),
    };
    assert!(status.is_some(), "it did not end within {patience:?}: {run}");
    run
}

/// Sends a signal to a process, by `kill`, as a user does.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn signal(pid: u32, name: &str) {
    let mut command = Command::new("kill");
    command.arg(format!("-{name}")).arg(pid.to_string());
    run(&mut command, Duration::from_secs(5)).expect(0);
}

/// Whether a process is there and not only a zombie.
pub fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
