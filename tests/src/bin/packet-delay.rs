//! `packet-delay QUEUE MILLISECONDS`: delays the packets that a rule of iptables
//! (`-j NFQUEUE --queue-num QUEUE`) hands over, until it is killed. For
//! `scripts/bench-db.sh`, on kernels without netem.

use std::process::ExitCode;
use std::time::Duration;

use rung_tests::packet_delay::PacketDelay;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let queue = words.next().and_then(|word| word.parse().ok());
    let delay = words.next().and_then(|word| word.parse().ok());
    let (Some(queue), Some(delay)) = (queue, delay) else {
        eprintln!("usage: packet-delay QUEUE MILLISECONDS");
        return ExitCode::from(2);
    };
    match PacketDelay::start(None, queue, Duration::from_millis(delay)).and_then(PacketDelay::wait)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("packet-delay: queue {queue}: {error}");
            ExitCode::FAILURE
        }
    }
}
