use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// A record that owns its payload.
#[derive(Clone, Debug)]
struct Owned(Record<'static>);

fn owned() -> impl Strategy<Value = Owned> {
    let payload = vec(any::<u8>(), 0..200).prop_map(|bytes| &*bytes.leak());
    let group = any::<u64>().prop_map(GroupId);
    let number = any::<u64>;
    prop_oneof![
        number().prop_map(|synced| Record::Batch { synced }),
        (group.clone(), number(), number(), payload.clone()).prop_map(
            |(group, index, header, payload)| Record::Entry { group, index, header, payload }
        ),
        (group.clone(), number(), number(), payload.clone()).prop_map(
            |(group, index, header, payload)| Record::Copy { group, index, header, payload }
        ),
        (group.clone(), number()).prop_map(|(group, index)| Record::Truncate { group, index }),
        (group.clone(), number()).prop_map(|(group, index)| Record::Purge { group, index }),
        (group.clone(), any::<u8>(), payload).prop_map(|(group, key, value)| Record::Meta {
            group,
            key,
            value
        }),
        group.clone().prop_map(|group| Record::Drop { group }),
        number().prop_map(|segment| Record::Free { segment }),
        Just(Record::Cleared),
        Just(Record::HeadEnd),
        (btree_map(number(), number(), 0..9), proptest::option::of((number(), number()))).prop_map(
            |(older, damage)| Record::Manifest {
                older: older.into_iter().map(|(id, end)| OlderSegment { id, end }).collect(),
                damage: damage.map(|(segment, offset)| Position { segment, offset }),
            }
        ),
        (group, image()).prop_map(|(group, (image, runs))| Record::Image { group, image, runs }),
    ]
    .prop_map(Owned)
}

fn image() -> impl Strategy<Value = (Image, Vec<Run>)> {
    let runs = (0..1u64 << 40, vec((any::<u64>(), 1..1000u64), 0..5));
    let meta = btree_map(any::<u8>(), vec(any::<u8>(), 0..50), 0..4);
    let purged = proptest::option::of(0..u64::MAX);
    (runs, meta, purged, any::<bool>()).prop_map(|((start, lengths), meta, purged, corrupt)| {
        let mut first = start;
        let mut runs = Vec::new();
        for (segment, length) in lengths {
            runs.push(Run { segment, first, last: first + length - 1 });
            first += length;
        }
        let range = runs.last().map(|run| (start, run.last));
        let meta = meta.into_iter().map(|(key, value)| (key, value.into())).collect();
        (Image { bounds: Bounds { range, purged, corrupt }, meta }, runs)
    })
}

proptest! {
    #[test]
    fn every_record_reads_back(
        Owned(record) in owned(), base in 0..1u64 << 32, batch: u64, before in 0..64usize,
    ) {
        let seed = Seed::new(7, 9);
        let mut out = vec![0; before];
        let bytes = encode(&mut out, base, seed, batch, &record);
        let decoded = decode(&out[before..], base + before as u64, seed).unwrap();
        prop_assert_eq!(decoded, Decoded { batch, record, bytes });
        prop_assert_eq!(bytes % ALIGNMENT, 0);
    }

    #[test]
    fn a_record_passes_nowhere_else_and_not_with_another_bit(
        Owned(record) in owned(), offset in 0..1u64 << 32, other in 0..1u64 << 32, flip: u32,
    ) {
        let seed = Seed::new(7, 9);
        let mut out = Vec::new();
        encode(&mut out, offset, seed, 3, &record);
        prop_assume!(offset != other);
        prop_assert!(decode(&out, other, seed).is_err());
        prop_assert!(decode(&out, offset, Seed::new(7, 10)).is_err());
        prop_assert!(decode(&out, offset, Seed::new(8, 9)).is_err());
        let body = u32::from_le_bytes([out[4], out[5], out[6], out[7]]) as usize;
        let bit = flip as usize % ((HEADER_BYTES + body) * 8);
        out[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&out, offset, seed).is_err());
    }

    #[test]
    fn any_bytes_give_a_record_or_an_error(bytes in vec(any::<u8>(), 0..300), offset: u64) {
        let seed = Seed::new(1, 2);
        let _ = decode(&bytes, offset, seed);
        let _ = decode_body(&bytes);
        let _ = find_batch(&bytes, offset as usize, seed);
        let _ = crate::segment::Preamble::decode(&bytes);
    }

    #[test]
    fn a_body_of_any_kind_gives_a_record_or_an_error(kind in 0..16u8, rest in vec(any::<u8>(), 0..200)) {
        let mut body = vec![kind];
        body.extend(rest);
        if let Ok(record) = decode_body(&body) {
            let mut out = Vec::new();
            encode(&mut out, 0, Seed::new(1, 2), 1, &record);
            prop_assert_eq!(decode(&out, 0, Seed::new(1, 2)).unwrap().record, record);
        }
    }
}

#[test]
fn zeros_are_told_from_damage() {
    let seed = Seed::new(1, 2);
    assert_eq!(decode(&[0; 64], 0, seed), Err(Invalid::Blank));
    assert_eq!(decode(&[0; 3], 0, seed), Err(Invalid::Short));
    let mut bytes = [0; 64];
    bytes[20] = 1;
    bytes[4] = 9;
    assert_eq!(decode(&bytes, 0, seed), Err(Invalid::Checksum));
}

#[test]
fn batches_are_found_behind_a_damaged_stretch() {
    let seed = Seed::new(1, 2);
    let mut out = vec![0xaa; 800];
    encode(&mut out, 0, seed, 4, &Record::Batch { synced: 640 });
    out.extend_from_slice(&[0x55; 100]);
    assert_eq!(find_batch(&out, 0, seed), Some((800, 640)));
    assert_eq!(find_batch(&out, 801, seed), None);
    assert_eq!(find_batch(&out, usize::MAX, seed), None);
}
