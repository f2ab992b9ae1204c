//! A member that gets arbitrary datagrams and states from others: it must go on
//! living, and what it sends must be readable.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rung_membership::{
    Identity, MAX_PACKET, Output, Settings, Swim, Text, decode_packet, decode_state,
};
use rung_proto::{Incarnation, NodeId};

const ME: NodeId = NodeId(1);

// A list of messages: a byte that says what it is and how much time passes, two
// for its length, and the message.
fuzz_target!(|input: &[u8]| {
    let identity = Identity {
        node: ME,
        incarnation: Incarnation(3),
        renewal: 0,
        left: false,
        address: SocketAddr::from(([127, 0, 0, 11], 7400)),
        dc: Text::new("east").expect("short"),
        name: Text::new("n1").expect("short"),
    };
    let mut now = Duration::from_secs(100);
    let mut swim = Swim::new(identity, Settings::lan(), Vec::new(), 7, now);
    let mut rest = input;
    for _ in 0..16 {
        let [kind, high, low, after @ ..] = rest else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (message, after) = after.split_at(length);
        rest = after;
        now += Duration::from_millis(u64::from(kind >> 2) * 10);
        step(&mut swim, now, kind & 3, message);
        let due: Vec<Duration> = swim.next_timeout().into_iter().filter(|at| *at <= now).collect();
        if !due.is_empty() {
            swim.handle_timeout(now);
        }
        assert!(swim.next_timeout().is_none_or(|at| at > now), "a timer that never ends");
        check_outputs(&mut swim);
    }
    assert_eq!(swim.identity().node, ME);
    let _ = swim.view();
});

fn step(swim: &mut Swim, now: Duration, kind: u8, message: &[u8]) {
    let sender = decode_packet(message).map(|packet| packet.header.src.node);
    let first = decode_state(message).map(|members| members[0].id().node);
    match kind {
        0 | 1 => {
            let _ = swim.handle_datagram(now, sender.unwrap_or(NodeId(2)), message);
        }
        2 => {
            let from = first.unwrap_or(NodeId(2));
            if let Ok(answer) = swim.exchange(now, from, message) {
                let members = decode_state(&answer).expect("what we answer can be read");
                assert_eq!(members[0].id().node, ME);
            }
        }
        _ => {
            let _ = swim.exchanged(now, first.unwrap_or(NodeId(2)), Some(message));
        }
    }
}

fn check_outputs(swim: &mut Swim) {
    let mut count = 0;
    while let Some(output) = swim.poll_output() {
        count += 1;
        assert!(count < 20_000, "one message causes too many");
        match output {
            Output::Send { body, .. } => {
                assert!(body.len() <= MAX_PACKET);
                let packet = decode_packet(&body).expect("what we send can be read");
                assert_eq!(packet.header.src.node, ME);
            }
            Output::Exchange { body, .. } => {
                decode_state(&body).expect("what we send can be read");
            }
            _ => {}
        }
    }
}
