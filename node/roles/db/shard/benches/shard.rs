//! Figures of one shard with a single voter, on real files: `cargo bench -p rung-shard`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use rung_consensus::{ByteStream, Consensus, ConsensusConfig, GroupConfig, Network, NetworkError};
use rung_proto::{Generation, GroupId, NodeId};
use rung_shard::{Cancel, CopyState, First, ReadLevel, Shard, ShardConfig, Turn, Verdict};
use rung_sql::Executor;
use rung_wal::disk::RealDisk;
use rung_wal::{Wal, WalConfig};

const TIME: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(10);
const ROWS: u64 = 100_000;

/// There is nobody else.
struct Nobody;

impl Network for Nobody {
    fn call(
        &self,
        to: NodeId,
        _body: bytes::Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<bytes::Bytes, NetworkError>> {
        ready(Err(NetworkError::Unreachable(to, "there is nobody".to_owned()))).boxed()
    }

    fn open_stream(
        &self,
        to: NodeId,
        _header: bytes::Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetworkError>> {
        ready(Err(NetworkError::Unreachable(to, "there is nobody".to_owned()))).boxed()
    }
}

async fn open(dir: &std::path::Path) -> Shard {
    let (wal, _) = Wal::open(Arc::new(RealDisk), WalConfig::new(dir.join("wal"))).unwrap();
    let node = NodeId(1);
    let consensus = Consensus::start(ConsensusConfig {
        node,
        generation: Generation(1),
        dir: dir.join("groups"),
        disk: Arc::new(RealDisk),
        wal,
        network: Arc::new(Nobody),
    });
    let group = GroupConfig::new(GroupId(1), "db/bench/0");
    let config = ShardConfig::new(dir.join("shard"), group, node);
    let first = First::Create { voters: BTreeSet::from([node]) };
    let shard = Shard::open(config, &consensus, first).await.unwrap();
    let mut state = shard.state();
    state.wait_for(CopyState::is_primary).await.unwrap();
    shard
}

async fn execute(shard: &Shard, sql: &'static str, value: i64) {
    let work = move |executor: &mut Executor| {
        let mut statement = executor.connection().prepare_cached(sql).unwrap();
        let count = statement.parameter_count();
        let done = if count == 0 { statement.execute([]) } else { statement.execute([value]) };
        done.map_or_else(|error| Verdict::Undo(Some(error)), |_| Verdict::Keep(None))
    };
    let (failed, _) = shard.write(DEADLINE, &Cancel::new(), work).await.unwrap();
    assert!(failed.is_none(), "{failed:?}");
}

async fn inserts(shard: &Shard, clients: u64) {
    let (before, began) = (shard.status(), Instant::now());
    let client = |_| {
        let shard = shard.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            while began.elapsed() < TIME {
                let sent = Instant::now();
                execute(&shard, "INSERT INTO log(x) VALUES (?1)", 7).await;
                took.push(sent.elapsed());
            }
            took
        })
    };
    let mut took = Vec::new();
    for client in (0..clients).map(client).collect::<Vec<_>>() {
        took.extend(client.await.unwrap());
    }
    took.sort_unstable();
    let (after, seconds) = (shard.status(), began.elapsed().as_secs_f64());
    let (writes, batches) = (after.writes - before.writes, after.batches - before.batches);
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!(
        "inserts, {clients:>2} clients: {:>7.0}/s, {:.1} in a batch, p50 {p50:?}, p99 {p99:?}",
        writes as f64 / seconds,
        writes as f64 / batches as f64
    );
}

async fn reads(shard: &Shard) {
    let (began, cancel) = (Instant::now(), Cancel::new());
    let mut done = 0_u64;
    while began.elapsed() < TIME {
        let key = (done * 7_919 % ROWS) as i64;
        let work = move |executor: &mut Executor, _: &Turn| {
            let mut statement =
                executor.connection().prepare_cached("SELECT v FROM kv WHERE k = ?1").unwrap();
            statement.query_row([key], |row| row.get::<_, i64>(0)).unwrap()
        };
        shard.read(ReadLevel::Any, DEADLINE, &cancel, work).await.unwrap();
        done += 1;
    }
    println!("reads by key, one thread: {:.0}/s", done as f64 / began.elapsed().as_secs_f64());
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let shard = open(dir.path()).await;
        execute(&shard, "CREATE TABLE log(id INTEGER PRIMARY KEY, x)", 0).await;
        execute(&shard, "CREATE TABLE kv(k INTEGER PRIMARY KEY, v)", 0).await;
        let fill = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < \
                    99999) INSERT INTO kv SELECT i, i FROM n";
        execute(&shard, fill, 0).await;
        for clients in [1, 8, 64] {
            inserts(&shard, clients).await;
        }
        reads(&shard).await;
        shard.close().await;
    });
}
