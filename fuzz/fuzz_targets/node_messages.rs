//! What nodes say to each other above the mesh, entries of the control log, and
//! the bodies of admin requests: what is read is written and read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_control_plane::{Proposal, State};
use rung_proto::api::{ChangeRequest, TokenRequest};
use rung_proto::soft::NodeSoftState;
use rung_proto::{Failure, encoding};
use serde::Serialize;
use serde::de::DeserializeOwned;

// The node is a program, so its module is taken from its source.
#[expect(dead_code, reason = "only the messages are read here")]
#[path = "../../node/src/protocol.rs"]
mod protocol;

use protocol::{
    ControlGroupRequest, EnvRequest, FetchBundle, FollowFrame, JoinRequest, LeaderAnswer,
    LeaderReply, LeaderRequest, Welcome,
};

// The first byte chooses the type.
fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 16 {
        0 => check::<JoinRequest>(bytes),
        1 => check::<Welcome>(bytes),
        2 => check::<LeaderRequest>(bytes),
        3 => check::<LeaderAnswer>(bytes),
        4 => check::<LeaderReply>(bytes),
        5 => check::<ControlGroupRequest>(bytes),
        6 => check::<FollowFrame>(bytes),
        7 => check::<FetchBundle>(bytes),
        8 => check::<EnvRequest>(bytes),
        9 => check::<Failure>(bytes),
        10 => check::<Proposal>(bytes),
        11 => check::<State>(bytes),
        12 => check_json::<ChangeRequest>(bytes),
        13 => check_json::<TokenRequest>(bytes),
        14 => check::<NodeSoftState>(bytes),
        _ => check_json::<Failure>(bytes),
    }
});

fn check<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = encoding::decode::<T>(bytes) else { return };
    let written = encoding::encode(&value);
    let Ok(again) = encoding::decode::<T>(&written) else {
        panic!("what was written cannot be read: {written:02x?}");
    };
    assert_eq!(encoding::encode(&again), written);
    assert!(encoding::decode::<T>(&[bytes, &[0]].concat()).is_err(), "a byte too many");
}

fn check_json<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return };
    let written = serde_json::to_vec(&value).expect("a message is JSON");
    let again = serde_json::from_slice::<T>(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written));
    // The same value also travels between nodes.
    check::<T>(&encoding::encode(&value));
}
