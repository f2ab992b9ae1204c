//! Consistent hashing: a key stays with its instance while that is there, and
//! the keys of one that leaves spread over all others.

use rung_proto::InstanceId;

/// Points of each instance on the ring: shares differ by about a tenth.
const POINTS: u64 = 100;

/// Instances, by their place in a list, on a circle of hashes.
#[derive(Clone, Debug, Default)]
pub(crate) struct HashRing {
    points: Vec<(u64, u32)>,
}

impl HashRing {
    pub fn new(instances: impl Iterator<Item = InstanceId>) -> HashRing {
        let mut points: Vec<(u64, u32)> = instances
            .enumerate()
            .flat_map(|(index, id)| {
                (0..POINTS).map(move |point| (mix(mix(id.0).wrapping_add(point)), index as u32))
            })
            .collect();
        points.sort_unstable();
        HashRing { points }
    }

    /// The instances for a key, the best first, some of them more than once.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|(hash, _)| *hash < key);
        self.points[start..].iter().chain(&self.points[..start]).map(|(_, index)| *index as usize)
    }
}

/// The hash of a key: FNV-1a with a final mix, the same on every node.
pub(crate) fn hash_key(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash)
}

/// The finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(ids: &[u64], key: u64) -> u64 {
        let ring = HashRing::new(ids.iter().map(|id| InstanceId(*id)));
        ids[ring.walk(key).next().unwrap()]
    }

    #[test]
    fn keys_spread_and_only_those_of_a_lost_instance_move() {
        let keys: Vec<u64> = (0..4000_u64).map(|key| hash_key(&key.to_le_bytes())).collect();
        let mut counts = [0; 5];
        for key in &keys {
            let before = owner(&[1, 2, 3, 4], *key);
            counts[before as usize] += 1;
            if before != 3 {
                assert_eq!(owner(&[1, 2, 4], *key), before);
            }
        }
        assert!(counts[1..].iter().all(|count| (700..1300).contains(count)), "{counts:?}");
    }

    #[test]
    fn an_empty_ring_has_nobody() {
        assert_eq!(HashRing::default().walk(7).next(), None);
    }
}
