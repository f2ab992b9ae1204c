//! A name server on its own, for measurements and for a look with `dig`:
//!
//!     cargo run --release -p rung-dns --example standalone -- 127.0.0.1:5300 1
//!
//! It serves `bench.test`, with no rate limit, until it is killed.

use std::net::SocketAddr;
use std::process::ExitCode;

use rung_dns::{DnsConfig, DnsServer, LbTarget, NameServer, Zone, Zones};

fn zones() -> Zones {
    let server = |n: u8| NameServer {
        name: format!("ns{n}.bench.test"),
        addresses: vec![[192, 0, 2, 50 + n].into()],
    };
    let mut zone = Zone::new("bench.test", vec![server(1), server(2)]);
    zone.names = ["@", "www", "cdn", "api"].map(str::to_owned).to_vec();
    zone.targets = (1..=4)
        .flat_map(|n: u8| {
            let v6: std::net::IpAddr = [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)].into();
            [[192, 0, 2, n].into(), v6]
        })
        .map(|address| LbTarget { address, dc: "east".to_owned() })
        .collect();
    Zones { version: 1, zones: vec![zone], ..Zones::default() }
}

fn arguments() -> Option<(SocketAddr, usize)> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next()?.parse().ok()?;
    let threads = arguments.next().map_or(Some(0), |n| n.parse().ok())?;
    Some((listen, threads))
}

fn main() -> ExitCode {
    let Some((listen, threads)) = arguments() else {
        eprintln!("usage: standalone ADDRESS:PORT [UDP-THREADS]");
        return ExitCode::from(2);
    };
    let mut config = DnsConfig::new(listen);
    config.threads = threads;
    config.limits.rate.per_second = 0;
    let served = DnsServer::start(config).and_then(|server| {
        server.update(zones())?;
        Ok(server)
    });
    let server = match served {
        Ok(server) => server,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("bench.test is served on {}", server.local_addr());
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    match runtime {
        Ok(runtime) => eprintln!("{}", runtime.block_on(server.failed())),
        Err(error) => eprintln!("cannot wait for the server: {error}"),
    }
    ExitCode::FAILURE
}
