//! What this node has done for its clients: counters, the statements that took
//! most time, and the slow ones.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rung_proto::NodeId;

/// Different statements that are kept apart.
const MAX_STATEMENTS: usize = 1000;
/// Slow statements that are remembered.
const MAX_SLOW: usize = 100;
/// Bytes of a statement's text that are kept.
const MAX_TEXT: usize = 500;

/// What a statement was served as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    Write,
    ReadAny,
    ReadBounded,
    ReadSession,
    ReadLinearizable,
    /// At the primary, within a transaction or since no copy was fresh enough.
    ReadPrimary,
}

/// Counters since the start, for `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub connections: u64,
    pub connections_refused: u64,
    pub logins_failed: u64,
    pub statements: u64,
    pub errors: u64,
    pub writes: u64,
    pub reads_any: u64,
    pub reads_bounded: u64,
    pub reads_session: u64,
    pub reads_linearizable: u64,
    pub reads_primary: u64,
    /// Operations that were sent to other nodes.
    pub sent: u64,
    /// Operations that were executed here for sessions of other nodes.
    pub served_for_others: u64,
    pub canceled: u64,
    /// Statements that waited for a primary.
    pub waited_for_primary: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Atomics {
    pub connections: AtomicU64,
    pub connections_refused: AtomicU64,
    pub logins_failed: AtomicU64,
    statements: AtomicU64,
    errors: AtomicU64,
    served: [AtomicU64; 6],
    pub sent: AtomicU64,
    pub served_for_others: AtomicU64,
    pub canceled: AtomicU64,
    pub waited_for_primary: AtomicU64,
}

/// A statement, or those that differ from it in constants only.
#[derive(Clone, PartialEq, Debug)]
pub struct StatementStatistics {
    /// With `?` for constants.
    pub text: String,
    pub calls: u64,
    pub errors: u64,
    pub total: Duration,
    pub longest: Duration,
}

/// A statement that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    pub text: &'a str,
    /// What [`hash_of_normal_form`] makes of the text.
    pub hash: u64,
    pub took: Duration,
    pub failed: bool,
    pub database: &'a str,
    pub user: &'a str,
    /// Rows that it gave or changed; none where that is not counted.
    pub rows: Option<u64>,
    /// The node that executed it, if that was not this one.
    pub executed_on: Option<NodeId>,
}

/// A statement that took long.
#[derive(Clone, PartialEq, Debug)]
pub struct SlowStatement {
    pub at: SystemTime,
    pub took: Duration,
    /// With `?` for constants, since these may be secrets.
    pub text: String,
    pub database: String,
    pub user: String,
    pub rows: Option<u64>,
    /// The node that executed it, if that was not this one.
    pub executed_on: Option<NodeId>,
}

/// What a node counts. Shared by all its connections.
#[derive(Debug)]
pub struct Statistics {
    pub(crate) counters: Atomics,
    /// By the hash of their texts without constants.
    statements: Mutex<HashMap<u64, StatementStatistics>>,
    slow: Mutex<VecDeque<SlowStatement>>,
    /// None where no statement is logged.
    slow_from: Option<Duration>,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Statistics {
    /// Statements that take at least `slow_from` are logged.
    pub fn new(slow_from: Option<Duration>) -> Self {
        Self {
            counters: Atomics::default(),
            statements: Mutex::default(),
            slow: Mutex::default(),
            slow_from,
        }
    }

    pub fn counters(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let served = |served: Served| get(&counters.served[served as usize]);
        Counters {
            connections: get(&counters.connections),
            connections_refused: get(&counters.connections_refused),
            logins_failed: get(&counters.logins_failed),
            statements: get(&counters.statements),
            errors: get(&counters.errors),
            writes: served(Served::Write),
            reads_any: served(Served::ReadAny),
            reads_bounded: served(Served::ReadBounded),
            reads_session: served(Served::ReadSession),
            reads_linearizable: served(Served::ReadLinearizable),
            reads_primary: served(Served::ReadPrimary),
            sent: get(&counters.sent),
            served_for_others: get(&counters.served_for_others),
            canceled: get(&counters.canceled),
            waited_for_primary: get(&counters.waited_for_primary),
        }
    }

    pub(crate) fn served(&self, served: Served) {
        count(&self.counters.served[served as usize]);
    }

    /// A statement has ended.
    pub(crate) fn statement(&self, ended: &Ended<'_>) {
        let Ended { took, failed, .. } = *ended;
        count(&self.counters.statements);
        if failed {
            count(&self.counters.errors);
        }
        if self.slow_from.is_some_and(|from| took >= from) {
            self.remember_slow(&normal_form(ended.text), ended);
        }
        let mut statements = lock(&self.statements);
        if let Some(known) = statements.get_mut(&ended.hash) {
            known.add(took, failed);
            return;
        }
        if statements.len() >= MAX_STATEMENTS {
            forget_cheapest(&mut statements);
        }
        let mut new = StatementStatistics {
            text: normal_form(ended.text),
            calls: 0,
            errors: 0,
            total: Duration::ZERO,
            longest: Duration::ZERO,
        };
        new.add(took, failed);
        statements.insert(ended.hash, new);
    }

    fn remember_slow(&self, text: &str, ended: &Ended<'_>) {
        let Ended { took, database, user, rows, executed_on, failed, .. } = *ended;
        tracing::info!(
            role = "db",
            took_ms = took.as_millis() as u64,
            database,
            user,
            rows,
            executed_on = executed_on.map(tracing::field::display),
            failed,
            statement = text,
            "slow statement"
        );
        let mut slow = lock(&self.slow);
        if slow.len() >= MAX_SLOW {
            slow.pop_front();
        }
        slow.push_back(SlowStatement {
            at: SystemTime::now(),
            took,
            text: text.to_owned(),
            database: database.to_owned(),
            user: user.to_owned(),
            rows,
            executed_on,
        });
    }

    /// The statements that took most time together, at most so many.
    pub fn top(&self, most: usize) -> Vec<StatementStatistics> {
        let mut all: Vec<_> = lock(&self.statements).values().cloned().collect();
        all.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.text.cmp(&b.text)));
        all.truncate(most);
        all
    }

    /// The last slow statements, oldest first.
    pub fn slow(&self) -> Vec<SlowStatement> {
        lock(&self.slow).iter().cloned().collect()
    }
}

impl StatementStatistics {
    fn add(&mut self, took: Duration, failed: bool) {
        self.calls += 1;
        self.errors += u64::from(failed);
        self.total += took;
        self.longest = self.longest.max(took);
    }
}

/// Makes room: the tenth that took least time goes.
fn forget_cheapest(statements: &mut HashMap<u64, StatementStatistics>) {
    let mut totals: Vec<Duration> = statements.values().map(|known| known.total).collect();
    let tenth = totals.len() / 10;
    let (_, limit, _) = totals.select_nth_unstable(tenth);
    let limit = *limit;
    statements.retain(|_, known| known.total > limit);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A text with `?` for numbers and strings, and one space for white space and
/// comments.
fn normal_form(text: &str) -> String {
    let mut normal = String::with_capacity(text.len().min(MAX_TEXT) + 4);
    pieces(text, |piece| normal.push_str(piece));
    normal.truncate(cut(&normal, MAX_TEXT).len());
    normal
}

/// Tells texts apart that differ in more than constants, without a copy of them.
pub(crate) fn hash_of_normal_form(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    pieces(text, |piece| hasher.write(piece.as_bytes()));
    hasher.finish()
}

/// Gives the pieces of a text's normal form, up to about [`MAX_TEXT`] bytes.
fn pieces(text: &str, mut take: impl FnMut(&str)) {
    let text = cut(text, 4 * MAX_TEXT);
    let bytes = text.as_bytes();
    let (mut start, mut at, mut taken) = (0, 0, 0);
    let mut after_space = false;
    while at < bytes.len() && taken < MAX_TEXT {
        let (end, instead) = part(bytes, at);
        if let Some(instead) = instead {
            take(&text[start..at]);
            taken += at - start + 1;
            after_space &= start == at;
            if instead != " " || !after_space {
                take(instead);
            }
            after_space = instead == " ";
            start = end;
        }
        at = end;
    }
    take(&text[start..at.max(start)]);
}

/// One past the end of what begins at a place, and what stands for it, if not itself.
fn part(bytes: &[u8], at: usize) -> (usize, Option<&'static str>) {
    let rest = &bytes[at..];
    let until = |is_part: &dyn Fn(&u8) -> bool| {
        at + rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len())
    };
    let is_word =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80;
    let before = at.checked_sub(1).map(|before| bytes[before]);
    match rest {
        [b'\'', ..] => {
            // E'...' knows the backslash.
            let escapes = matches!(before, Some(b'e' | b'E'))
                && at.checked_sub(2).is_none_or(|before| !is_word(bytes[before]));
            (end_of_string(bytes, at, escapes), Some("?"))
        }
        [b'"', ..] => (end_of_string(bytes, at, false), None),
        [b'-', b'-', ..] => (until(&|byte| *byte != b'\n'), Some(" ")),
        [b'/', b'*', ..] => (after(bytes, at + 2, b"*/"), Some(" ")),
        [b'$', ..] if !before.is_some_and(is_word) => match tag(rest) {
            Some(tag) => (after(bytes, at + tag.len(), tag), Some("?")),
            None => (at + 1, None),
        },
        [b'0'..=b'9', ..] if !before.is_some_and(is_word) => {
            (until(&|byte| byte.is_ascii_alphanumeric() || *byte == b'.'), Some("?"))
        }
        [b' ' | b'\n' | b'\t' | b'\r', ..] => (until(&u8::is_ascii_whitespace), Some(" ")),
        _ => (at + 1, None),
    }
}

/// The `$...$` that a string begins with.
fn tag(bytes: &[u8]) -> Option<&[u8]> {
    let end = 1 + bytes[1..].iter().position(|byte| *byte == b'$')?;
    let name = &bytes[1..end];
    let is_name =
        name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80)
            && !name.first().is_some_and(u8::is_ascii_digit);
    is_name.then_some(&bytes[..=end])
}

/// One past the next `wanted`, or the end.
fn after(bytes: &[u8], from: usize, wanted: &[u8]) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let found = rest.windows(wanted.len()).position(|window| window == wanted);
    found.map_or(bytes.len(), |found| from + found + wanted.len())
}

/// The longest part of a text of at most so many bytes that ends with a whole
/// character.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// One past the closing quote of the string or name that begins at `start`. A quote
/// within is doubled, or follows a backslash where that escapes.
fn end_of_string(bytes: &[u8], start: usize, escapes: bool) -> usize {
    let quote = bytes[start];
    let mut at = start + 1;
    while at < bytes.len() {
        if bytes[at] == quote {
            if bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        } else if escapes && bytes[at] == b'\\' {
            at += 1;
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ended(text: &str, took: Duration, failed: bool) -> Ended<'_> {
        Ended {
            text,
            hash: hash_of_normal_form(text),
            took,
            failed,
            database: "shop",
            user: "app",
            rows: Some(3),
            executed_on: None,
        }
    }

    #[test]
    fn statements_that_differ_in_constants_are_one() {
        let statistics = Statistics::new(Some(Duration::from_secs(1)));
        for number in 0..5 {
            let text = format!("SELECT a1 FROM  t\n WHERE b = {number} AND c = 'it''s {number}'");
            statistics.statement(&ended(&text, Duration::from_millis(number), false));
        }
        let top = statistics.top(10);
        assert_eq!(top.len(), 1);
        assert_eq!(top[0].text, "SELECT a1 FROM t WHERE b = ? AND c = ?");
        assert_eq!((top[0].calls, top[0].total), (5, Duration::from_millis(10)));
    }

    #[test]
    fn no_constant_is_seen_however_it_is_written() {
        for (text, expected) in [
            (r"select E'it\'s secret', 1", "select E?, ?"),
            (r"select 'a\', b, 'secret'", "select ?, b, ?"),
            ("select $$it's secret$$, $1, $a$ $$ secret $a$", "select ?, $1, ?"),
            ("select 1 -- it's\n, 'secret'", "select ? , ?"),
            ("select /* it's */ 'secret'", "select ?"),
            ("select \"it's\", 'secret'", "select \"it's\", ?"),
            ("select a$b$c, 'secret'", "select a$b$c, ?"),
            ("select 'secret", "select ?"),
            ("select $$secret", "select ?"),
            ("select a2, 0xff, 1.5e10, é1", "select a2, ?, ?, é1"),
        ] {
            assert_eq!(normal_form(text), expected, "{text}");
        }
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_took_long() {
        let statistics = Statistics::new(None);
        statistics.statement(&ended("select expensive", Duration::from_secs(9), false));
        for number in 0..3 * MAX_STATEMENTS {
            let text = format!("select a_{number}");
            statistics.statement(&ended(&text, Duration::from_micros(number as u64), true));
        }
        assert!(statistics.top(usize::MAX).len() <= MAX_STATEMENTS);
        assert_eq!(statistics.top(1)[0].text, "select expensive");
        assert_eq!(statistics.counters().errors, 3 * MAX_STATEMENTS as u64);
        assert!(statistics.slow().is_empty());
    }

    #[test]
    fn slow_statements_are_remembered_up_to_a_number() {
        let statistics = Statistics::new(Some(Duration::from_millis(10)));
        statistics.statement(&ended("select 1", Duration::from_millis(9), false));
        assert!(statistics.slow().is_empty());
        for _ in 0..2 * MAX_SLOW {
            statistics.statement(&ended("select 'secret'", Duration::from_millis(10), false));
        }
        assert_eq!(statistics.slow().len(), MAX_SLOW);
        let slow = &statistics.slow()[0];
        assert_eq!((slow.text.as_str(), slow.database.as_str()), ("select ?", "shop"));
        assert_eq!((slow.user.as_str(), slow.rows), ("app", Some(3)));
    }

    proptest! {
        #[test]
        fn any_text_has_a_bounded_form(text in ".{0,2000}") {
            prop_assert!(normal_form(&text).len() <= MAX_TEXT);
        }
    }
}
