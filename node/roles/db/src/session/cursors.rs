//! DECLARE, FETCH, MOVE and CLOSE. The rows of a cursor are collected when it is
//! declared, within the bounds of every result, so that it holds no snapshot.

use rung_sql::{FetchDirection, Formats, Kind, ResultColumn, SqlError, SqlState, Statement};

use super::control::not_in_block;
use super::prepared::Cursor;
use super::transaction::Phase;
use super::{Arguments, Outcome, Session};
use crate::rows::{RowCursor, Rows};

impl Session {
    pub(super) async fn declare(
        &mut self,
        name: &str,
        binary: bool,
        scroll: Option<bool>,
        hold: bool,
        query: &Statement,
        arguments: Arguments,
    ) -> Result<(), SqlError> {
        if !hold && self.transaction.phase == Phase::Idle {
            return Err(not_in_block("DECLARE CURSOR"));
        }
        if !matches!(query.kind(), Kind::Read) {
            return Err(SqlError::not_supported(
                "a cursor for a query that writes or locks",
                "execute the query itself",
            ));
        }
        if self.cursors.contains(name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{name}\" already exists"),
            ));
        }
        let formats = Formats(if binary { vec![1] } else { Vec::new() });
        let answer = self.read(self.call(query, Arguments { formats, ..arguments })).await?;
        let rows = RowCursor::new(answer.rows);
        let scroll = scroll.unwrap_or(true);
        self.cursors.add(name, Cursor { rows, scroll, hold, position: 0 })
    }

    pub(super) fn fetch(
        &mut self,
        name: &str,
        direction: FetchDirection,
        is_move: bool,
    ) -> Result<Outcome, SqlError> {
        let spool = self.shared.spool.clone();
        let cursor = self.cursors.get_mut(name)?;
        let mut rows = Rows::new(&spool);
        rows.columns = cursor.rows.rows.columns.clone();
        rows.has_columns = true;
        let count = cursor.fetch(direction, (!is_move).then_some(&mut rows))?;
        Ok(match is_move {
            true => Outcome::Done { tag: format!("MOVE {count}") },
            false => Outcome::Rows { rows, tag: format!("FETCH {count}") },
        })
    }

    /// The columns of a cursor; clients describe one as if it were a portal.
    pub fn cursor_columns(&mut self, name: &str) -> Option<&[ResultColumn]> {
        let cursor = self.cursors.get_mut(name).ok()?;
        Some(&cursor.rows.rows.columns)
    }

    pub(super) fn close_cursor(&mut self, name: Option<&str>) -> Result<&'static str, SqlError> {
        match name {
            Some(name) => {
                self.cursors.remove(name)?;
                Ok("CLOSE CURSOR")
            }
            None => {
                self.cursors.clear();
                Ok("CLOSE CURSOR ALL")
            }
        }
    }
}

impl Cursor {
    /// Moves, and copies the rows that it passes if they are wanted. Gives how many.
    fn fetch(
        &mut self,
        direction: FetchDirection,
        mut wanted: Option<&mut Rows>,
    ) -> Result<u64, SqlError> {
        let count = self.rows.rows.count();
        let (first, many, backward) = match direction {
            FetchDirection::Forward(n) if n < 0 => (self.position, n.unsigned_abs(), true),
            FetchDirection::Backward(n) if n < 0 => (self.position, n.unsigned_abs(), false),
            FetchDirection::Forward(n) => (self.position, n.unsigned_abs(), false),
            FetchDirection::Backward(n) => (self.position, n.unsigned_abs(), true),
            FetchDirection::ForwardAll => (self.position, u64::MAX, false),
            FetchDirection::BackwardAll => (self.position, u64::MAX, true),
            FetchDirection::Absolute(n) => {
                let place = if n < 0 {
                    (count + 1).saturating_sub(n.unsigned_abs())
                } else {
                    n.unsigned_abs().min(count + 1)
                };
                return self.go_to(place, wanted);
            }
            FetchDirection::Relative(n) => {
                let place = self.position.saturating_add_signed(n).min(count + 1);
                return self.go_to(place, wanted);
            }
        };
        if many == 0 {
            return self.go_to(first, wanted);
        }
        let mut passed = 0;
        while passed < many {
            let next =
                if backward { self.position.checked_sub(1) } else { Some(self.position + 1) };
            let Some(next) = next.filter(|next| *next <= count + 1) else {
                break;
            };
            passed += self.go_to(next, wanted.as_deref_mut())?;
            if next == 0 || next == count + 1 {
                break;
            }
        }
        Ok(passed)
    }

    /// Goes to one row, or to before the first or after the last.
    fn go_to(&mut self, place: u64, wanted: Option<&mut Rows>) -> Result<u64, SqlError> {
        let count = self.rows.rows.count();
        if place < self.position && !self.scroll {
            return Err(SqlError::new(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                "cursor can only scan forward",
            )
            .hint("declare it with SCROLL"));
        }
        self.position = place;
        if place == 0 || place > count {
            return Ok(0);
        }
        self.rows.seek(place - 1)?;
        if let Some(row) = self.rows.next()?
            && let Some(rows) = wanted
        {
            rows.append(row, 1)?;
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use rung_sql::RowSink;

    use super::*;
    use crate::rows::Spool;

    fn cursor(count: u8, scroll: bool) -> Cursor {
        let mut rows = Rows::new(&Spool::new(std::env::temp_dir(), 1 << 20, 1 << 20));
        for number in 1..=count {
            assert!(rows.row(&[0, 0, 0, 1, number], 1).is_continue());
        }
        Cursor { rows: RowCursor::new(rows), scroll, hold: false, position: 0 }
    }

    /// The numbers of the rows that a fetch gives.
    fn fetch(cursor: &mut Cursor, direction: FetchDirection) -> Vec<u8> {
        let mut rows = Rows::new(&Spool::new(std::env::temp_dir(), 1 << 20, 1 << 20));
        let count = cursor.fetch(direction, Some(&mut rows)).unwrap();
        assert_eq!(count, rows.count());
        rows.in_memory().unwrap().chunks(12).map(|row| row[11]).collect()
    }

    #[test]
    fn a_cursor_goes_both_ways_as_in_postgresql() {
        use FetchDirection::*;
        let mut cursor = cursor(5, true);
        assert_eq!(fetch(&mut cursor, Forward(2)), [1, 2]);
        assert_eq!(fetch(&mut cursor, Forward(0)), [2]);
        assert_eq!(fetch(&mut cursor, Backward(1)), [1]);
        assert_eq!(fetch(&mut cursor, Relative(2)), [3]);
        assert_eq!(fetch(&mut cursor, Absolute(-1)), [5]);
        assert!(fetch(&mut cursor, Forward(1)).is_empty());
        assert_eq!(fetch(&mut cursor, BackwardAll), [5, 4, 3, 2, 1]);
        assert!(fetch(&mut cursor, Backward(1)).is_empty());
        assert_eq!(fetch(&mut cursor, ForwardAll), [1, 2, 3, 4, 5]);
        assert!(fetch(&mut cursor, Absolute(0)).is_empty());
        assert!(fetch(&mut cursor, Forward(-1)).is_empty());
        assert!(fetch(&mut cursor, Absolute(9)).is_empty());
        assert_eq!(fetch(&mut cursor, Relative(-3)), [3]);
    }

    #[test]
    fn without_scroll_it_does_not_go_back() {
        let mut cursor = cursor(3, false);
        assert_eq!(fetch(&mut cursor, FetchDirection::Forward(2)), [1, 2]);
        let refused = cursor.fetch(FetchDirection::Backward(1), None).unwrap_err();
        assert_eq!(refused.state, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    }
}
