//! `cargo bench -p rung-pages`: what capturing, applying and gated reading cost.
//!
//! A transaction updates one of 200,000 rows and inserts one into a history.

use std::time::{Duration, Instant};

use rung_pages::{Options, PageStore, Writer};

const ROWS: u64 = 200_000;
const TRANSACTIONS: usize = 8192;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = Options { checkpoint_bytes: 1 << 30, ..Options::default() };
    let mut primary = PageStore::open(&dir.path().join("primary"), options.clone()).unwrap();
    let mut replica = PageStore::open(&dir.path().join("replica"), options).unwrap();
    let mut log = vec![primary.barrier(1)];
    apply(&mut primary, &mut replica, &log, 0);
    let writer = primary.writer().unwrap();
    fill(&mut primary, &writer, &mut log);
    apply(&mut primary, &mut replica, &log, 1);
    for batch in [1, 8, 32, 128] {
        primary.checkpoint().unwrap();
        replica.checkpoint().unwrap();
        transactions(&mut primary, &mut replica, &writer, &mut log, batch);
    }
    reads(&primary);
}

fn fill(primary: &mut PageStore, writer: &Writer, log: &mut Vec<Vec<u8>>) {
    let sql = format!(
        "BEGIN; CREATE TABLE a(id INTEGER PRIMARY KEY, v INT, f TEXT); CREATE TABLE h(a, b, c);
         WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {ROWS})
         INSERT INTO a SELECT n, 0, printf('%84s', '') FROM s; COMMIT"
    );
    writer.connection.execute_batch(&sql).unwrap();
    let captured = primary.capture(writer.ticket, 1).unwrap().expect("changes");
    log.extend(captured.parts.map(Result::unwrap));
}

/// Applies the log from an entry on: settles it here, writes it there.
fn apply(
    primary: &mut PageStore,
    replica: &mut PageStore,
    log: &[Vec<u8>],
    from: usize,
) -> Duration {
    let entries: Vec<(u64, &[u8])> =
        log.iter().enumerate().skip(from).map(|(at, entry)| (at as u64 + 1, &entry[..])).collect();
    primary.apply(&entries).unwrap();
    let start = Instant::now();
    for some in entries.chunks(64) {
        replica.apply(some).unwrap();
    }
    start.elapsed()
}

fn transactions(
    primary: &mut PageStore,
    replica: &mut PageStore,
    writer: &Writer,
    log: &mut Vec<Vec<u8>>,
    batch: usize,
) {
    let (from, mut bytes, mut random) = (log.len(), 0, 88_172_645_463_325_252u64);
    let (mut executing, mut capturing) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TRANSACTIONS / batch {
        let start = Instant::now();
        writer.connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for _ in 0..batch {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (id, delta) = (random % ROWS + 1, (random >> 33) % 5000);
            let mut update =
                writer.connection.prepare_cached("UPDATE a SET v = v + ? WHERE id = ?").unwrap();
            update.execute((delta as i64, id as i64)).unwrap();
            let mut insert =
                writer.connection.prepare_cached("INSERT INTO h VALUES (1, ?, ?)").unwrap();
            insert.execute((id as i64, delta as i64)).unwrap();
        }
        writer.connection.execute_batch("COMMIT").unwrap();
        executing += start.elapsed();
        let start = Instant::now();
        let captured = primary.capture(writer.ticket, 1).unwrap().expect("changes");
        for part in captured.parts {
            let part = part.unwrap();
            bytes += part.len();
            log.push(part);
        }
        capturing += start.elapsed();
    }
    let applying = apply(primary, replica, log, from);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / TRANSACTIONS as f64;
    println!(
        "batch {batch:3}: execute {:.1} us, capture and encode {:.1} us, {} bytes a transaction; \
         applied {:.0} transactions/s",
        each(executing),
        each(capturing),
        bytes / TRANSACTIONS,
        TRANSACTIONS as f64 / applying.as_secs_f64()
    );
}

fn reads(store: &PageStore) {
    let gate = store.gate();
    let reader = gate.connect().unwrap();
    let run = |gated: bool| {
        let (start, mut count) = (Instant::now(), 0u64);
        while start.elapsed() < Duration::from_secs(2) {
            for _ in 0..100 {
                let reading = gated.then(|| gate.begin(&reader.connection, reader.ticket).unwrap());
                if !gated {
                    reader.connection.prepare_cached("BEGIN").unwrap().execute([]).unwrap();
                }
                let mut select =
                    reader.connection.prepare_cached("SELECT v FROM a WHERE id = ?").unwrap();
                let id = (count * 7919 % ROWS + 1) as i64;
                let _: i64 = select.query_row([id], |row| row.get(0)).unwrap();
                match reading {
                    Some(reading) => reading.end(&reader.connection).unwrap(),
                    None => {
                        reader.connection.prepare_cached("COMMIT").unwrap().execute([]).unwrap();
                    }
                }
                count += 1;
            }
        }
        count as f64 / start.elapsed().as_secs_f64()
    };
    println!("reads/s of one thread: {:.0} gated, {:.0} ungated", run(true), run(false));
}
