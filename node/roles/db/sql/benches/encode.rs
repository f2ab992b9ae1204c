//! Cost of writing a result's row, since every result passes through it: int4, text and
//! timestamptz in both formats. `cargo bench -p rung-sql --bench encode`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rung_sql::{Context, PgType, TypeUse, encode_binary, encode_text};
use rusqlite::types::ValueRef;

const LEAST: Duration = Duration::from_millis(500);

fn measure(name: &str, mut row: impl FnMut()) {
    for _ in 0..10_000 {
        row();
    }
    let (start, mut rows) = (Instant::now(), 0_u32);
    while start.elapsed() < LEAST {
        for _ in 0..1000 {
            row();
        }
        rows += 1000;
    }
    println!("{name}: {:.1} ns a row", start.elapsed().as_nanos() as f64 / f64::from(rows));
}

fn main() {
    let context = Context::new("", "");
    let fields = [
        (PgType::Int4, ValueRef::Integer(1_234_567)),
        (PgType::Text, ValueRef::Text(b"a text of an ordinary length")),
        (PgType::Timestamptz, ValueRef::Integer(757_382_400_123_456)),
    ]
    .map(|(base, value)| (TypeUse { base, modifier: -1 }, value));
    // The buffer is kept from row to row, as the executor keeps it.
    let mut out = Vec::with_capacity(256);
    measure("text", || {
        out.clear();
        for (data_type, value) in &fields {
            encode_text(&mut out, *value, data_type, &context).expect("a stored value");
        }
        black_box(&out);
    });
    measure("binary", || {
        out.clear();
        for (data_type, value) in &fields {
            encode_binary(&mut out, *value, data_type).expect("a stored value");
        }
        black_box(&out);
    });
}
