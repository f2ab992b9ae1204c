//! One SQLite database as the state of a replicated log.
//!
//! The primary executes and commits; what its commit changed becomes an entry:
//! the pages, compressed against what they were, with the position they start
//! from. Every copy, the primary's included, hands the committed entries to
//! [`PageStore::apply`]. Readers see exactly what is committed, through a [`Gate`].
//!
//! What a caller uses (the planned interface, until this paragraph goes away):
//!
//! ```text
//! pub struct Options { checkpoint_bytes: u64, in_flight_bytes: u64, max_transaction_pages: u32, reader_patience: Duration, disk: Disk }  // Default
//! impl PageStore {                                     // Send, not Sync: one owner or a Mutex
//!   fn open(dir: &Path, options: Options) -> Result<PageStore, PagesError>;
//!   fn position(&self) -> Position;                    // last applied (= settled)
//!   fn tip(&self) -> Position;                         // with what is in flight
//!   fn applied_index(&self) -> u64;                    // last index given to apply; at open: durable_index()
//!   fn durable_index(&self) -> u64;                    // entries up to it may be purged from the log
//!   // primary
//!   fn writer(&mut self) -> Result<Writer, PagesError>;     // Writer { connection: rusqlite::Connection, ticket: WriterTicket }
//!       // the tickets of earlier writers go stale after undo, or when a foreign entry was applied: open a new one
//!   fn capture(&mut self, ticket: WriterTicket, epoch: u64) -> Result<Option<Captured>, PagesError>;
//!       // call after each COMMIT of the writer, before its next BEGIN, on any thread. None: nothing changed.
//!       // Captured { position: Position, parts: Parts }; Parts: Iterator<Item = io::Result<Vec<u8>>>, Send, len();
//!       // propose each part, in order, as one log entry (<= MAX_PART_BYTES); on Err the commit is not in flight: call undo
//!   fn load(&self) -> Load;                            // Load { in_flight: usize, in_flight_bytes, wal_bytes, stop_writing: bool, checkpoint_due: bool }
//!   fn undo(&mut self) -> Result<usize, PagesError>;   // takes back everything not committed by the log; the writer must not be in a transaction
//!   fn barrier(&self, epoch: u64) -> Vec<u8>;          // a new primary's first entry; it may execute once that is Applied
//!   // every copy
//!   fn apply(&mut self, entries: &[(u64, &[u8])]) -> Result<Vec<Outcome>, PagesError>;
//!       // (log index, entry bytes) in log order. On the primary its own entries at the front of the in-flight list are settled,
//!       // anything else undoes what is in flight first. PagesError::WriterBusy: roll the writer's transaction back, call again.
//!   fn gate(&self) -> Gate;                            // Clone, Send, Sync
//!   fn checkpoint_if_due(&mut self) -> Result<Checkpoint, PagesError>; // NotDue | InFlight (pause batches) | Blocked { readers } (interrupt them) | Done
//!   fn checkpoint(&mut self) -> Result<Checkpoint, PagesError>;        // whatever the size
//!   fn snapshot(&mut self) -> Result<Snapshot, PagesError>;  // impl Read + Send, at position(); hold it no longer than needed
//!   fn restore(&mut self, source: &mut dyn Read) -> Result<(), PagesError>; // a new file: readers' and writer's connections go stale
//!   fn scrub(&self) -> Result<[u8; 32], PagesError>;   // equal on equal copies at equal positions
//! }
//! pub enum Outcome { Applied(Position), Settled(Position) /* own entry */, Skipped, Part /* not the last one of its transaction */ }
//! impl Gate {
//!   fn connect(&self) -> Result<Reader, PagesError>;   // Reader { connection, ticket: ReaderTicket }
//!   fn begin(&self, connection: &Connection, ticket: ReaderTicket) -> Result<Reading, PagesError>;  // Stale: connect again
//!   fn position(&self) -> Position;
//! }
//! impl Reading { fn position(&self) -> Position; fn end(self, connection: &Connection) -> Result<(), PagesError>; } // Send, owns no borrow
//! ```

mod position;

pub use position::Position;
