use proptest::prelude::*;

use super::*;

fn chunked(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, BadBody> {
    decode_body(input, BodyLength::Chunked)
}

/// Decodes `input` handed over in pieces that end at `cuts`.
fn in_pieces(
    input: &[u8],
    length: BodyLength,
    cuts: &[usize],
) -> Result<(Vec<u8>, usize), BadBody> {
    let mut decoder = BodyDecoder::new(length);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    let (mut data, mut at) = (Vec::new(), 0);
    for end in ends {
        while at < end && !decoder.is_done() {
            let step = decoder.decode(&input[at..end])?;
            data.extend_from_slice(&input[at + step.skip..at + step.skip + step.data]);
            at += step.skip + step.data;
        }
    }
    Ok((data, at))
}

#[test]
fn a_chunked_body_is_put_together_and_its_end_found() {
    let input = b"4\r\nWiki\r\n5;a=b;c=\"d;\\\"\"\r\npedia\r\n0\r\nTrailer: x\r\n\r\nGET /";
    let (data, end) = chunked(input).unwrap().unwrap();
    assert_eq!(data, b"Wikipedia");
    assert_eq!(&input[end..], b"GET /");
}

#[test]
fn what_is_not_chunked_by_the_letter_is_refused() {
    let wrong: [&[u8]; 22] = [
        b"\r\n",
        b" 4\r\nWiki\r\n0\r\n\r\n",
        b"4 \r\nWiki\r\n0\r\n\r\n",
        b"0x4\r\nWiki\r\n0\r\n\r\n",
        b"+4\r\nWiki\r\n0\r\n\r\n",
        b"-4\r\nWiki\r\n0\r\n\r\n",
        b"4\nWiki\r\n0\r\n\r\n",
        b"4\rWiki\r\n0\r\n\r\n",
        b"4\r\nWiki\n0\r\n\r\n",
        b"4\r\nWikiX0\r\n\r\n",
        b"4\r\nWikipedia\r\n0\r\n\r\n",
        b"4;a\nb\r\nWiki\r\n0\r\n\r\n",
        b"4;a\x00b\r\nWiki\r\n0\r\n\r\n",
        b"4;\"a\r\nWiki\r\n0\r\n\r\n",
        b"1234567890123456\r\n",
        b"ffffffffffffffff\r\n",
        b"0\r\n\n",
        b"0\r\nTrailer\r\n\r\n",
        b"0\r\n: x\r\n\r\n",
        b"0\r\nTrailer : x\r\n\r\n",
        b"0\r\nTrailer: x\x01\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
    ];
    for input in wrong {
        assert!(chunked(input).is_err(), "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn long_extensions_and_trailers_are_refused() {
    let mut input = b"1;".to_vec();
    input.extend(std::iter::repeat_n(b'a', 300));
    assert!(chunked(&input).is_err());
    let mut input = b"0\r\n".to_vec();
    for _ in 0..2000 {
        input.extend_from_slice(b"a: b\r\n");
    }
    assert!(chunked(&input).is_err());
}

#[test]
fn a_counted_body_leaves_what_follows() {
    let (data, end) = decode_body(b"abcdef", BodyLength::Known(4)).unwrap().unwrap();
    assert_eq!((data.as_slice(), end), (b"abcd".as_slice(), 4));
    assert_eq!(decode_body(b"abc", BodyLength::Known(4)), Ok(None));
    assert_eq!(decode_body(b"abc", BodyLength::Empty), Ok(Some((vec![], 0))));
}

proptest! {
    #[test]
    fn what_is_written_chunked_reads_back_however_it_is_split(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut wire = Vec::new();
        for piece in &pieces {
            BodyFraming::Chunked.write(piece, &mut wire);
        }
        BodyFraming::Chunked.finish(&mut wire);
        let end = wire.len();
        wire.extend_from_slice(&tail);
        let (data, at) = in_pieces(&wire, BodyLength::Chunked, &cuts).unwrap();
        prop_assert_eq!(data, pieces.concat());
        prop_assert_eq!(at, end);
    }

    #[test]
    fn any_bytes_decode_alike_whole_and_split(
        input in prop::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), Just(b':'),
                        Just(b'a'), any::<u8>()], 0..60),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let whole = in_pieces(&input, BodyLength::Chunked, &[]);
        prop_assert_eq!(in_pieces(&input, BodyLength::Chunked, &cuts), whole);
    }
}
