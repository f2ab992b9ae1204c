//! The URI in a certificate that says which node it is: one text for each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_transport::{PeerIdentity, check_dc};

fuzz_target!(|text: &str| {
    if let Ok(peer) = PeerIdentity::from_uri(text) {
        assert_eq!(peer.to_string(), text);
        assert!(check_dc(&peer.dc).is_ok());
    }
});
