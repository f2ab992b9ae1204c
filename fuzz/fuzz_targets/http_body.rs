//! Bodies with every kind of framing: whole and cut at any byte they must decode
//! alike, and what is decoded must survive being written as chunks again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_lb::body::{BodyDecoder, BodyFraming, decode_body};
use rung_lb::head::BodyLength;

// The first two bytes choose the framing and the size of the pieces.
fuzz_target!(|input: &[u8]| {
    let [kind, piece, body @ ..] = input else { return };
    let length = match kind % 8 {
        0 => BodyLength::UntilClose,
        1 => BodyLength::Known(u64::from(*piece)),
        2 => BodyLength::Empty,
        _ => BodyLength::Chunked,
    };
    let whole = run(body, length, usize::MAX);
    for size in [1, usize::from(*piece).max(1)] {
        assert_eq!(whole, run(body, length, size), "pieces of {size}");
    }
    if length != BodyLength::UntilClose {
        let complete = whole.as_ref().ok().filter(|body| body.done);
        let expected = complete.map(|body| (body.data.clone(), body.consumed));
        assert_eq!(decode_body(body, length).ok().flatten(), expected);
    }
    if let Ok(Body { data, .. }) = whole {
        write_and_read_back(&data, usize::from(*piece).max(1));
    }
});

#[derive(PartialEq, Debug)]
struct Body {
    data: Vec<u8>,
    consumed: usize,
    done: bool,
}

/// Decodes as a connection does, which gets at most `size` bytes at a time.
/// An error comes with the data that was handed on before it.
fn run(input: &[u8], length: BodyLength, size: usize) -> Result<Body, (Vec<u8>, &'static str)> {
    let mut decoder = BodyDecoder::new(length);
    let (mut data, mut at) = (Vec::new(), 0_usize);
    loop {
        let end = at.saturating_add(size).min(input.len());
        let step = match decoder.decode(&input[at..end]) {
            Ok(step) => step,
            Err(error) => return Err((data, error.0)),
        };
        let start = at + step.skip;
        data.extend_from_slice(&input[start..start + step.data]);
        at = start + step.data;
        assert!(at <= end, "consumed more than there was");
        assert_eq!(step.done, decoder.is_done());
        if step.done {
            return Ok(Body { data, consumed: at, done: true });
        }
        if step.skip == 0 && step.data == 0 {
            assert_eq!(at, input.len(), "stopped before the end");
            return Ok(Body { data, consumed: at, done: false });
        }
    }
}

fn write_and_read_back(data: &[u8], size: usize) {
    let mut wire = Vec::new();
    data.chunks(size).for_each(|piece| BodyFraming::Chunked.write(piece, &mut wire));
    BodyFraming::Chunked.finish(&mut wire);
    let length = wire.len();
    wire.extend_from_slice(b"GET / HTTP/1.1\r\n");
    let read = decode_body(&wire, BodyLength::Chunked).expect("we wrote it ourselves");
    assert_eq!(read, Some((data.to_vec(), length)));
}
