//! The header of a stream that carries requests to an instance. The balancer
//! writes it and the web role reads it, so both must mean the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_web::relay;

fuzz_target!(|input: &[u8]| {
    let balancer = rung_lb::parse_stream_header(input);
    if let Some((id, flags)) = balancer {
        assert_eq!(&rung_lb::stream_header(id, flags)[..], input);
    }
    if let Some((id, long_lived)) = relay::parse_stream_header(input) {
        assert_eq!(relay::stream_header(id, long_lived), input);
        let flags = if long_lived { rung_lb::LONG_LIVED } else { 0 };
        assert_eq!(balancer, Some((id, flags)));
    }
});
