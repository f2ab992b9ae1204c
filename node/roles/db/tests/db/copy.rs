//! COPY in both directions.

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::client::{Client, kinds};
use crate::cluster::Cluster;

fn data(out: &mut BytesMut, bytes: &[u8]) {
    out.extend_from_slice(b"d");
    out.extend_from_slice(&(bytes.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn with_table(client: &mut Client) {
    client.run("CREATE TABLE t (a int PRIMARY KEY, b text)");
}

#[test]
fn data_goes_in_and_comes_out_the_same() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    with_table(&mut client);
    client.write(|out| frontend::query("COPY t FROM STDIN", out).unwrap());
    assert_eq!(client.next().unwrap().kind, b'G');
    client.write(|out| {
        // Cut in the middle of a line and of a value.
        data(out, b"1\ton");
        data(out, b"e\n2\t\\N\n3");
        data(out, b"\ta\\tb\n");
        frontend::copy_done(out);
    });
    let replies = client.until_ready();
    assert_eq!((kinds(&replies).as_str(), replies[0].text().as_str()), ("CZ", "COPY 3"));
    let replies = client.ask("COPY t TO STDOUT");
    assert_eq!(kinds(&replies), "HdddcCZ");
    let lines: Vec<String> = replies[1..4].iter().map(|reply| reply.text()).collect();
    assert_eq!(lines, ["1\tone\n", "2\t\\N\n", "3\ta\\tb\n"]);
    let replies = client.ask("COPY (SELECT a FROM t WHERE a > 1) TO STDOUT WITH (FORMAT csv)");
    assert_eq!(kinds(&replies), "HddcCZ");
}

#[test]
fn a_copy_that_fails_leaves_nothing_and_the_session_goes_on() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    with_table(&mut client);
    client.write(|out| {
        frontend::query("COPY t FROM STDIN", out).unwrap();
        data(out, b"1\tone\n1\tagain\n");
        data(out, b"2\ttwo\n");
        frontend::copy_done(out);
    });
    assert_eq!(client.next().unwrap().kind, b'G');
    let replies = client.until_ready();
    assert_eq!(replies[0].state(), "23505");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    client.write(|out| {
        frontend::query("COPY t FROM STDIN", out).unwrap();
        data(out, b"1\tone\n");
        frontend::copy_fail("changed my mind", out).unwrap();
    });
    assert_eq!(client.next().unwrap().kind, b'G');
    assert_eq!(client.until_ready()[0].state(), "57014");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn much_data_passes_through_in_pieces() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    with_table(&mut client);
    client.write(|out| frontend::query("COPY t FROM STDIN", out).unwrap());
    assert_eq!(client.next().unwrap().kind, b'G');
    let filler = "x".repeat(100);
    let mut all = Vec::new();
    for number in 0..20_000 {
        all.extend_from_slice(format!("{number}\t{filler}\n").as_bytes());
    }
    // One message of over two megabytes.
    let mut out = BytesMut::new();
    data(&mut out, &all);
    frontend::copy_done(&mut out);
    client.send(&out);
    assert_eq!(client.until_ready()[0].text(), "COPY 20000");
    let replies = client.ask("COPY t TO STDOUT");
    assert_eq!(replies.iter().filter(|reply| reply.kind == b'd').count(), 20_000);
}
