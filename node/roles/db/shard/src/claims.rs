//! Rows that transactions have changed in their drafts, and have read since: until they
//! end, others do not change them. That keeps what was read true without executing it once
//! more. Nothing relies on it: a transaction whose rows are changed all the same is told,
//! and looks at everything when it is committed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::cancel::Cancel;
use crate::changes::{Changed, Row};
use crate::error::ShardError;

/// Comes when whoever was waited for has ended.
pub(crate) type Ended = oneshot::Receiver<()>;

/// What is said of who waited for that in vain.
pub(crate) const HELD: &str = "waited for another transaction that has changed the same row";

/// Waits for the end of who has claimed something, until a time.
///
/// # Errors
/// [`ShardError::Canceled`].
pub(crate) async fn until_ended(
    ended: Ended,
    until: Instant,
    cancel: &Cancel,
) -> Result<(), ShardError> {
    tokio::select! {
        biased;
        // Either way it is time to look again.
        _ = timeout_at(until.into(), ended) => Ok(()),
        () = cancel.canceled() => Err(ShardError::Canceled),
    }
}

/// Who has claimed what, and what was changed lately.
#[derive(Default)]
pub(crate) struct Claims(Mutex<Book>);

#[derive(Default)]
struct Book {
    owners: HashMap<Row, u64>,
    claimers: HashMap<u64, Claimer>,
    numbers: u64,
    /// What was changed in the transaction that the writer has open, and who waits for its
    /// end.
    open: Option<Changed>,
    waiting: Vec<oneshot::Sender<()>>,
    /// What was committed, by the sequence of its position, which readers may not see yet.
    recent: VecDeque<(u64, Changed)>,
    /// What was committed up to this sequence is not in `recent` any more.
    forgotten: u64,
}

#[derive(Default)]
struct Claimer {
    rows: Vec<Row>,
    is_broken: bool,
    waits_for: Option<u64>,
    /// Who waits for its end. It is told by their being dropped.
    waiting: Vec<oneshot::Sender<()>>,
}

/// What became of the wish to claim rows.
pub(crate) enum Taken {
    All,
    /// The snapshot is older than what is remembered.
    TooOld,
    /// Some of them were changed by what is at this sequence, which is not in the snapshot.
    ChangedAt(u64),
    /// Another has some of them.
    Held(Ended),
}

impl Claims {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more who may claim rows. He must be released.
    pub fn register(&self) -> u64 {
        let mut book = self.book();
        book.numbers += 1;
        let number = book.numbers;
        book.claimers.insert(number, Claimer::default());
        number
    }

    /// He claims nothing any more.
    pub fn release(&self, number: u64) {
        let mut book = self.book();
        book.disown(number);
        book.claimers.remove(&number);
    }

    /// Claims what one has changed, and `more`, with a snapshot of this sequence. Where others
    /// have some of it he waits, or breaks their claims if that is what he `breaks`, or if
    /// they wait for him. The rows are his from then on, also if his snapshot turns out to be
    /// too old.
    pub fn take(
        &self,
        number: u64,
        (rows, more): (&HashSet<Row>, &[Row]),
        seen: u64,
        breaks: bool,
    ) -> Taken {
        let mut book = self.book();
        if let Some(ended) = book.wait(Some(number), rows.iter().chain(more), breaks) {
            return Taken::Held(ended);
        }
        book.own(number, rows.iter().chain(more));
        if seen < book.forgotten {
            return Taken::TooOld;
        }
        let touches = |changed: &Changed| match changed {
            Changed::Rows(changed) => {
                changed.iter().any(|row| rows.contains(row) || more.contains(row))
            }
            Changed::Unknown => !rows.is_empty() || !more.is_empty(),
        };
        if book.open.as_ref().is_some_and(touches) {
            return Taken::Held(book.end_of_open());
        }
        let mut unseen = book.recent.iter().rev().take_while(|(sequence, _)| *sequence > seen);
        match unseen.find(|(_, changed)| touches(changed)) {
            Some((sequence, _)) => Taken::ChangedAt(*sequence),
            None => Taken::All,
        }
    }

    /// Whom a write waits for before it may be kept, if it waits for anybody: it has changed
    /// these rows.
    pub fn wait(&self, number: Option<u64>, changed: &Changed) -> Option<Ended> {
        match changed {
            Changed::Rows(rows) if !rows.is_empty() => self.book().wait(number, rows.iter(), false),
            _ => None,
        }
    }

    /// The writer keeps what this one has changed, or somebody who claims nothing. Whoever has
    /// claimed it learns of that.
    pub fn keep(&self, by: Option<u64>, changed: Changed) {
        let mut book = self.book();
        book.change(by, &changed);
        book.open.get_or_insert_with(Changed::nothing).add(changed);
    }

    /// Nothing is kept of what the writer has changed.
    pub fn drop_open(&self) {
        let mut book = self.book();
        book.open = None;
        book.waiting.clear();
    }

    /// What the writer has kept, and `more`, was committed, and will be at this sequence. All
    /// who begin see what is at `settled` and before.
    pub fn commit(&self, (sequence, settled): (u64, u64), more: Changed) {
        let mut book = self.book();
        while let Some((first, _)) = book.recent.front()
            && *first <= settled
        {
            book.forgotten = book.forgotten.max(*first);
            book.recent.pop_front();
        }
        // What was there was taken back.
        while book.recent.back().is_some_and(|(last, _)| *last > sequence) {
            book.recent.pop_back();
        }
        book.change(None, &more);
        let mut all = book.open.take().unwrap_or(Changed::nothing());
        all.add(more);
        book.waiting.clear();
        match book.recent.back_mut() {
            Some((last, before)) if *last == sequence => before.add(all),
            _ if all == Changed::nothing() => {}
            _ => book.recent.push_back((sequence, all)),
        }
    }

    /// What was committed after this sequence has changed nothing.
    pub fn forget_after(&self, sequence: u64) {
        let mut book = self.book();
        while book.recent.back().is_some_and(|(last, _)| *last > sequence) {
            book.recent.pop_back();
        }
    }

    /// This copy is not the primary any more, or has become it: all claims are broken. What
    /// was committed before is seen by all, or is nowhere.
    pub fn forget(&self) {
        let mut book = self.book();
        let owners: Vec<u64> = book.claimers.keys().copied().collect();
        owners.into_iter().for_each(|owner| book.break_claims(owner));
        book.recent.clear();
        book.open = None;
        book.waiting.clear();
    }

    /// Whether rows that he has claimed were changed by others.
    pub fn is_broken(&self, number: u64) -> bool {
        self.book().claimers.get(&number).is_none_or(|claimer| claimer.is_broken)
    }

    /// Whether anybody has claimed anything.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let book = self.book();
        book.owners.is_empty() && book.claimers.is_empty()
    }
}

impl Book {
    fn own<'a>(&mut self, number: u64, rows: impl Iterator<Item = &'a Row>) {
        let Some(claimer) = self.claimers.get_mut(&number) else { return };
        for row in rows {
            if self.owners.insert(*row, number) != Some(number) {
                claimer.rows.push(*row);
            }
        }
    }

    fn disown(&mut self, number: u64) {
        let Some(claimer) = self.claimers.get_mut(&number) else { return };
        for row in std::mem::take(&mut claimer.rows) {
            self.owners.remove(&row);
        }
    }

    fn break_claims(&mut self, number: u64) {
        self.disown(number);
        if let Some(claimer) = self.claimers.get_mut(&number) {
            claimer.is_broken = true;
            claimer.waiting.clear();
        }
    }

    fn end_of_open(&mut self) -> Ended {
        let (sender, ended) = oneshot::channel();
        self.waiting.push(sender);
        ended
    }

    fn change(&mut self, by: Option<u64>, changed: &Changed) {
        if self.owners.is_empty() {
            return;
        }
        let mut owners: Vec<u64> = match changed {
            Changed::Rows(rows) => {
                rows.iter().filter_map(|row| self.owners.get(row).copied()).collect()
            }
            Changed::Unknown => self.owners.values().copied().collect(),
        };
        owners.retain(|owner| Some(*owner) != by);
        owners.into_iter().for_each(|owner| self.break_claims(owner));
    }

    fn wait<'a>(
        &mut self,
        number: Option<u64>,
        rows: impl Iterator<Item = &'a Row>,
        breaks: bool,
    ) -> Option<Ended> {
        self.waits(number, None);
        for row in rows {
            let Some(owner) = self.owners.get(row).copied() else { continue };
            if Some(owner) == number {
                continue;
            }
            if breaks || number.is_some_and(|number| self.waits_for(owner, number)) {
                self.break_claims(owner);
                continue;
            }
            self.waits(number, Some(owner));
            let (sender, ended) = oneshot::channel();
            self.claimers.entry(owner).or_default().waiting.push(sender);
            return Some(ended);
        }
        None
    }

    fn waits(&mut self, number: Option<u64>, owner: Option<u64>) {
        if let Some(claimer) = number.and_then(|number| self.claimers.get_mut(&number)) {
            claimer.waits_for = owner;
        }
    }

    /// Whether one waits for another, be it through others. Nobody waits for himself, so
    /// this ends.
    fn waits_for(&self, one: u64, other: u64) -> bool {
        let mut at = one;
        while let Some(next) = self.claimers.get(&at).and_then(|claimer| claimer.waits_for) {
            if next == other {
                return true;
            }
            at = next;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(claims: &Claims, number: u64, rows: &[Row], seen: u64) -> Taken {
        claims.take(number, (&rows.iter().copied().collect(), &[]), seen, false)
    }

    fn takes_all(claims: &Claims, number: u64, rows: &[Row]) -> bool {
        matches!(take(claims, number, rows, 0), Taken::All)
    }

    fn waits(claims: &Claims, number: u64, rows: &[Row]) -> Ended {
        match take(claims, number, rows, 0) {
            Taken::Held(ended) => ended,
            _ => panic!("it is held by nobody"),
        }
    }

    fn rows(rows: &[Row]) -> Changed {
        Changed::Rows(rows.to_vec())
    }

    /// Committed by those who claim nothing.
    fn commit(claims: &Claims, place: (u64, u64), changed: &[Changed]) {
        changed.iter().for_each(|changed| claims.keep(None, changed.clone()));
        claims.commit(place, Changed::nothing());
    }

    #[test]
    fn who_wants_a_claimed_row_waits_until_its_owner_ends() {
        let claims = Claims::default();
        let (one, other) = (claims.register(), claims.register());
        assert!(takes_all(&claims, one, &[1, 2]) && takes_all(&claims, one, &[2, 3]));
        assert!(takes_all(&claims, other, &[4]));
        let mut ended = waits(&claims, other, &[4, 3]);
        let mut writes = claims.wait(None, &rows(&[1])).unwrap();
        assert!(claims.wait(Some(one), &rows(&[1, 2, 3])).is_none());
        assert!(ended.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        claims.release(one);
        for ended in [&mut ended, &mut writes] {
            assert!(ended.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        }
        assert!(takes_all(&claims, other, &[4, 3]));
        assert!(!claims.is_broken(other));
        claims.release(other);
        assert!(claims.is_empty());
    }

    #[test]
    fn who_would_wait_for_one_who_waits_for_him_breaks_his_claims() {
        let claims = Claims::default();
        let [one, two, three] = [(); 3].map(|()| claims.register());
        for (number, row) in [(one, 1), (two, 2), (three, 3)] {
            assert!(takes_all(&claims, number, &[row]));
        }
        let _waiting = (waits(&claims, one, &[2]), waits(&claims, two, &[3]));
        assert!(takes_all(&claims, three, &[1]));
        assert_eq!([one, two, three].map(|it| claims.is_broken(it)), [true, false, false]);
        // It waits for nobody once it has what it waited for.
        claims.release(three);
        assert!(takes_all(&claims, two, &[3]));
        let _waiting = waits(&claims, one, &[2]);
    }

    #[test]
    fn who_has_waited_for_long_enough_breaks_them() {
        let claims = Claims::default();
        let (one, other) = (claims.register(), claims.register());
        assert!(takes_all(&claims, one, &[1, 2]));
        assert!(matches!(claims.take(other, (&HashSet::from([1]), &[]), 0, true), Taken::All));
        assert!(claims.is_broken(one));
        // All of them: it looks at everything anyway.
        assert!(takes_all(&claims, other, &[2]));
    }

    #[test]
    fn who_changes_a_claimed_row_breaks_the_claim_and_his_own_he_may_change() {
        let claims = Claims::default();
        let [one, two, three] = [(); 3].map(|()| claims.register());
        for (number, row) in [(one, 1), (two, 2), (three, 3)] {
            assert!(takes_all(&claims, number, &[row]));
        }
        claims.keep(Some(one), rows(&[1, 9]));
        assert!(!claims.is_broken(one));
        claims.keep(None, rows(&[2]));
        assert!(claims.is_broken(two));
        claims.keep(Some(one), Changed::Unknown);
        assert_eq!([one, two, three].map(|it| claims.is_broken(it)), [false, true, true]);
        claims.commit((1, 0), rows(&[1]));
        assert!(claims.is_broken(one));
    }

    #[test]
    fn what_a_snapshot_lacks_cannot_be_claimed() {
        let claims = Claims::default();
        let one = claims.register();
        commit(&claims, (5, 4), &[rows(&[1]), rows(&[2])]);
        commit(&claims, (6, 4), &[rows(&[3])]);
        assert!(matches!(take(&claims, one, &[2, 8], 4), Taken::ChangedAt(5)));
        assert!(matches!(take(&claims, one, &[1, 3], 5), Taken::ChangedAt(6)));
        assert!(matches!(take(&claims, one, &[1, 2], 5), Taken::All));
        commit(&claims, (7, 6), &[Changed::Unknown]);
        assert!(matches!(take(&claims, one, &[8], 5), Taken::TooOld));
        assert!(matches!(take(&claims, one, &[8], 6), Taken::ChangedAt(7)));
        assert!(matches!(take(&claims, one, &[], 6), Taken::All));
        assert!(matches!(take(&claims, one, &[8], 7), Taken::All));
    }

    #[test]
    fn who_must_see_more_first_owns_what_he_wants() {
        let claims = Claims::default();
        let (one, other) = (claims.register(), claims.register());
        commit(&claims, (5, 4), &[rows(&[1])]);
        assert!(matches!(take(&claims, one, &[1], 4), Taken::ChangedAt(5)));
        assert!(matches!(take(&claims, other, &[1], 5), Taken::Held(_)));
        assert!(matches!(take(&claims, one, &[1], 5), Taken::All));
        claims.keep(None, rows(&[1]));
        assert!(claims.is_broken(one));
    }

    #[test]
    fn who_wants_what_the_writer_has_open_waits_for_its_end() {
        let claims = Claims::default();
        let one = claims.register();
        claims.keep(None, rows(&[1]));
        let mut ended = waits(&claims, one, &[1]);
        assert!(ended.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        assert!(takes_all(&claims, one, &[2]));
        commit(&claims, (5, 4), &[]);
        assert!(ended.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert!(matches!(take(&claims, one, &[1], 4), Taken::ChangedAt(5)));
        assert!(!claims.is_broken(one));
        claims.keep(None, rows(&[3]));
        claims.drop_open();
        assert!(matches!(take(&claims, one, &[3], 4), Taken::All));
    }

    #[test]
    fn who_waits_for_a_claim_that_is_broken_is_told() {
        let claims = Claims::default();
        let (one, other) = (claims.register(), claims.register());
        assert!(takes_all(&claims, one, &[1]));
        let mut ended = waits(&claims, other, &[1]);
        claims.keep(None, rows(&[1]));
        assert!(ended.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert!(claims.is_broken(one));
        claims.drop_open();
        assert!(takes_all(&claims, other, &[1]));
        claims.forget();
        assert!(claims.is_broken(other));
    }

    #[test]
    fn commits_that_become_one_entry_are_one() {
        let claims = Claims::default();
        let one = claims.register();
        commit(&claims, (5, 0), &[rows(&[1])]);
        commit(&claims, (5, 0), &[rows(&[2])]);
        commit(&claims, (5, 0), &[rows(&[])]);
        for row in [1, 2] {
            assert!(matches!(take(&claims, one, &[row], 4), Taken::ChangedAt(5)));
        }
        claims.forget();
        assert!(takes_all(&claims, one, &[1, 2]));
    }

    #[test]
    fn what_was_taken_back_was_not_changed() {
        let claims = Claims::default();
        let one = claims.register();
        commit(&claims, (5, 0), &[rows(&[1])]);
        commit(&claims, (6, 0), &[rows(&[2])]);
        commit(&claims, (5, 0), &[rows(&[3])]);
        assert!(matches!(take(&claims, one, &[3], 4), Taken::ChangedAt(5)));
        assert!(matches!(take(&claims, one, &[2], 4), Taken::All));
    }
}
