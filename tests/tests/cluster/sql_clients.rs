//! The clients that people use, as they are, through nodes that hold the primary and
//! nodes that do not.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rung_tests::clients::{self, missing};
use rung_tests::sql::Door;
use rung_tests::{Cluster, Run, run, until};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

const PATIENCE: Duration = Duration::from_secs(60);

fn psql(url: &str, words: &[&str]) -> Run {
    run(Command::new("psql").args(["-X", url]).args(words), PATIENCE)
}

#[test]
fn psql_describes_copies_and_reports_through_every_node() {
    let cluster = Cluster::builder().nodes(3).start();
    let (primary, other) = cluster.database_with_others("towns");
    let url = cluster.url(&other, "towns");
    let file = cluster.dir().join("towns.csv");
    fs::write(&file, "name,people\nBerlin,3700000\n\"Weimar, Thuringia\",\n").unwrap();
    let schema = "CREATE TABLE town (id serial PRIMARY KEY, name varchar(40) NOT NULL UNIQUE,
            people integer CHECK (people >= 0));
        CREATE TABLE street (id integer PRIMARY KEY,
            town integer NOT NULL REFERENCES town (id) ON DELETE CASCADE);
        CREATE INDEX street_town ON street (town);
        CREATE VIEW large AS SELECT * FROM town WHERE people > 1000000;";
    psql(&url, &["-qc", schema]).expect(0);
    let copy = format!("\\copy town (name, people) from '{}' csv header", file.display());
    psql(&url, &["-c", &copy]).expect(0).saying("COPY 2");
    let out = "\\copy (select name, people from town order by id) to stdout csv header";
    for node in [&primary, &other] {
        let url = cluster.url(node, "towns");
        let copied = psql(&url, &["-c", out]).expect(0);
        assert_eq!(copied.stdout, fs::read_to_string(&file).unwrap());
        let described = psql(&url, &["-c", "\\d town"]).expect(0);
        for line in [
            "                                   Table \"public.town\"",
            " name   | character varying(40) |           | not null | ",
            " id     | integer               |           | not null | nextval('town_id_seq'::regclass)",
            "    \"town_pkey\" PRIMARY KEY, btree (id)",
            "    \"town_name_key\" UNIQUE CONSTRAINT, btree (name)",
            "    \"town_people_check\" CHECK (people >= 0)",
            "    TABLE \"street\" CONSTRAINT \"street_town_fkey\" FOREIGN KEY (town) \
             REFERENCES town(id) ON DELETE CASCADE",
        ] {
            assert!(described.stdout.lines().any(|found| found == line), "{line}\n{described}");
        }
        let tables = psql(&url, &["-At", "-c", "\\dt", "-c", "\\dv", "-c", "\\ds", "-c", "\\di"]);
        let expected = "public|street|table|towns\npublic|town|table|towns\n\
            public|large|view|towns\npublic|town_id_seq|sequence|towns\n\
            public|street_pkey|index|towns|street\npublic|street_town|index|towns|street\n\
            public|town_name_key|index|towns|town\npublic|town_pkey|index|towns|town\n";
        assert_eq!(tables.expect(0).stdout, expected);
        for command in ["\\d", "\\d+ town", "\\d street", "\\d large", "\\l", "\\du", "\\dn"] {
            let described = psql(&url, &["-c", command]).expect(0);
            assert!(described.stderr.is_empty(), "{described}");
        }
        psql(&url, &["-c", "\\timing on", "-c", "SELECT 1 / 0"])
            .expect(1)
            .saying("ERROR:  division by zero")
            .saying("Time: ");
        let verbose = ["-c", "\\set VERBOSITY verbose", "-c", "INSERT INTO street VALUES (1, 99)"];
        psql(&url, &verbose)
            .expect(1)
            .saying("23503: insert or update on table \"street\" violates foreign key constraint")
            .saying("DETAIL:  Key (town)=(99) is not present in table \"town\".")
            .saying("CONSTRAINT NAME:  street_town_fkey");
    }
}

#[test]
fn pgbench_runs_in_all_its_modes() {
    let cluster = Cluster::builder().nodes(3).alone().start();
    let (primary, other) = cluster.database_with_others("bench");
    let bench = |node: &str, words: &[&str]| {
        let url = cluster.url(node, "bench");
        run(Command::new("pgbench").args(words).arg(&url), PATIENCE).expect(0)
    };
    // A busy machine may have another primary meanwhile; nothing was done then.
    until("the tables are filled", PATIENCE, || {
        let url = cluster.url(&other, "bench");
        let words = ["-i", "-s", "1", "-q", &url];
        let filled = run(Command::new("pgbench").args(words), PATIENCE);
        let begin_again = filled.code != 0 && filled.says("the primary of the database changed");
        (!begin_again).then(|| filled.expect(0))
    });
    for (node, mode) in [(&other, "simple"), (&other, "extended"), (&primary, "prepared")] {
        for script in ["tpcb-like", "simple-update", "select-only"] {
            // A transaction that another's primary undid is begun again, as it should.
            let words =
                ["-n", "-M", mode, "-b", script, "-c", "2", "-t", "10", "--max-tries", "20"];
            bench(node, &words).saying("actually processed: 20/20");
        }
    }
    let sums = "SELECT (SELECT count(*) FROM pgbench_history),
        (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)";
    let counted = psql(&cluster.url(&other, "bench"), &["-Atc", sums]).expect(0);
    assert_eq!(counted.stdout, "120|t\n");
}

/// Whether the clients are there.
fn installed() -> bool {
    if let Some(why) = missing() {
        println!("skipped: {why}");
    }
    missing().is_none()
}

#[test]
fn psycopg_and_node_postgres_work_as_they_are() {
    if installed() {
        let cluster = Cluster::builder().nodes(3).start();
        cluster.run_client("psycopg_client.py").saying("psycopg 3");
        cluster.run_client("node_postgres.js").saying("node-postgres 8");
    }
}

#[test]
fn pgjdbc_prepares_batches_copies_and_describes() {
    if let Some(why) = clients::missing_java() {
        println!("skipped: {why}");
        return;
    }
    let cluster = Cluster::builder().nodes(3).start();
    cluster.run_client("JdbcClient.java").saying("pgjdbc 42");
}

#[test]
fn sqlalchemy_creates_reflects_and_stores() {
    if installed() {
        let cluster = Cluster::builder().nodes(3).start();
        cluster.run_client("sqlalchemy_client.py").saying("SQLAlchemy 2");
    }
}

#[test]
fn django_migrates_and_stores() {
    if installed() {
        let cluster = Cluster::builder().nodes(3).start();
        cluster.run_client("django_client.py").saying("Django 5");
    }
}

async fn rows_and_parameters(client: &Client) -> Result<(), Error> {
    client
        .batch_execute(
            "CREATE TABLE parcels (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                label text NOT NULL UNIQUE, weight double precision, fragile boolean,
                pieces integer, content bytea)",
        )
        .await?;
    let insert = "INSERT INTO parcels (label, weight, fragile, pieces, content)
        VALUES ($1, $2, $3, $4, $5) RETURNING id";
    let insert = client.prepare(insert).await?;
    let content: &[u8] = &[0, 255, 7];
    let row = client.query_one(&insert, &[&"a", &2.5f64, &true, &3i32, &content]).await?;
    assert_eq!(row.get::<_, i64>(0), 1);
    let nothing: Option<f64> = None;
    client.execute(&insert, &[&"b", &nothing, &false, &0i32, &content]).await?;
    let found = client.query("SELECT * FROM parcels ORDER BY id", &[]).await?;
    assert_eq!(found[0].get::<_, Vec<u8>>("content"), content);
    assert_eq!(found[1].get::<_, Option<f64>>("weight"), None);
    let ids = vec![2i64, 3];
    let some = client.query("SELECT label FROM parcels WHERE id = ANY($1)", &[&ids]).await?;
    assert!(some.len() == 1 && some[0].get::<_, &str>(0) == "b");
    let taken = client.execute(&insert, &[&"a", &nothing, &false, &0i32, &content]).await;
    let error = taken.expect_err("the label is taken");
    let said = error.as_db_error().expect("the server's word");
    assert_eq!(
        (said.code(), said.constraint()),
        (&SqlState::UNIQUE_VIOLATION, Some("parcels_label_key"))
    );
    Ok(())
}

async fn transactions_and_portals(client: &mut Client) -> Result<(), Error> {
    let mut transaction = client.transaction().await?;
    transaction.execute("UPDATE parcels SET pieces = 100", &[]).await?;
    let savepoint = transaction.savepoint("before").await?;
    savepoint.execute("DELETE FROM parcels", &[]).await?;
    savepoint.rollback().await?;
    let portal = transaction.bind("SELECT pieces FROM parcels ORDER BY id", &[]).await?;
    let first = transaction.query_portal(&portal, 1).await?;
    let rest = transaction.query_portal(&portal, 0).await?;
    assert_eq!((first.len(), rest.len(), rest[0].get::<_, i32>(0)), (1, 1, 100));
    transaction.commit().await?;
    let transaction = client.transaction().await?;
    transaction.execute("DELETE FROM parcels", &[]).await?;
    drop(transaction);
    let count = client.query_one("SELECT count(*) FROM parcels", &[]).await?;
    assert_eq!(count.get::<_, i64>(0), 2);
    // Sent without waiting for the answers.
    let one = client.query_one("SELECT pieces + $1::int FROM parcels WHERE id = 1", &[&1i32]);
    let two = client.query_one("SELECT pieces + $1::int FROM parcels WHERE id = 2", &[&2i32]);
    let (one, two) = tokio::try_join!(one, two)?;
    assert_eq!((one.get::<_, i32>(0), two.get::<_, i32>(0)), (101, 102));
    Ok(())
}

async fn everything(client: &mut Client) -> Result<(), Error> {
    client.batch_execute("DROP TABLE IF EXISTS parcels").await?;
    rows_and_parameters(client).await?;
    transactions_and_portals(client).await?;
    client.batch_execute("DROP TABLE parcels").await
}

#[test]
fn tokio_postgres_works_through_every_node() {
    let cluster = Cluster::builder().nodes(3).start();
    let (primary, other) = cluster.database_with_others("parcels");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for node in [primary, other] {
        let door = Door::new(&node, &cluster.url(&node, "parcels"), None);
        runtime.block_on(async {
            let mut connection = door.connect().await.expect("a connection");
            let client = &mut connection.client;
            // A busy machine may have another primary meanwhile.
            let mut again = 3;
            while let Err(error) = everything(client).await {
                assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error}");
                again -= 1;
                assert!(again > 0, "the primary changed by itself three times: {error}");
            }
        });
    }
}
