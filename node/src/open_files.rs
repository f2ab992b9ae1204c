//! How many files and connections the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for everything that is no client of a database: logs, pages, the mesh, apps.
const RESERVED: u64 = 2_000;
/// More than anybody needs; some systems cost memory for each that is allowed.
const MOST: u64 = 1 << 20;

/// Raises the limit as far as the system lets a process raise its own.
pub fn raise_limit() {
    let hard = getrlimit(Resource::Nofile).maximum;
    let wanted = hard.unwrap_or(MOST).min(MOST);
    let raised = Rlimit { current: Some(wanted), maximum: hard };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files was not raised");
    }
}

/// The files that may be open.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(MOST)
}

/// How many clients of databases there may be, at most `wanted`, so that enough files
/// are left for the rest. A client over it is told so; one without a file is not.
pub fn clients(wanted: usize, limit: u64) -> usize {
    let room = limit.saturating_sub(RESERVED).max(limit / 4);
    usize::try_from(room).unwrap_or(usize::MAX).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_files_for_the_rest() {
        assert_eq!(clients(10_000, MOST), 10_000);
        assert_eq!(clients(10_000, 4_096), 2_096);
        assert_eq!(clients(10_000, 1_024), 256);
        assert_eq!(clients(100, 4_096), 100);
    }

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        raise_limit();
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(MOST).min(MOST);
        assert_eq!(limit(), hard);
    }
}
