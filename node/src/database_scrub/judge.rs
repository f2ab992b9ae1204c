//! Who is wrong when copies differ: decided only where it is sure.

use std::collections::BTreeMap;

use rung_proto::NodeId;

/// What a copy has of some pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Their hash, and that of the position at which they were read.
    Pages { position: [u8; 32], hash: [u8; 32] },
    /// They could not be read, which says that they are damaged.
    Unreadable,
    /// It did not answer, or could not look.
    Silent,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All that answered are equal.
    Equal,
    /// These are damaged; the others are equal, and one of them at least is there.
    Damaged(Vec<NodeId>),
    /// They differ, and nothing here says who is right.
    Undecided(Vec<NodeId>),
}

/// Compares what the copies of a shard found of the same pages.
///
/// A majority of those that could read them is believed, if there are three at least:
/// two copies are damaged in the same way by chance no more than two files are.
pub fn judge(found: &BTreeMap<NodeId, Found>) -> Verdict {
    let mut kinds: BTreeMap<([u8; 32], [u8; 32]), Vec<NodeId>> = BTreeMap::new();
    let mut damaged = Vec::new();
    for (node, found) in found {
        match found {
            Found::Pages { position, hash } => {
                kinds.entry((*position, *hash)).or_default().push(*node);
            }
            Found::Unreadable => damaged.push(*node),
            Found::Silent => {}
        }
    }
    let readable: usize = kinds.values().map(Vec::len).sum();
    let largest = kinds.values().max_by_key(|nodes| nodes.len()).cloned().unwrap_or_default();
    let is_sure = kinds.len() == 1 || (readable >= 3 && largest.len() * 2 > readable);
    if !is_sure {
        // Nobody can read them, or opinions differ.
        let all = kinds.into_values().flatten().chain(damaged).collect();
        return Verdict::Undecided(all);
    }
    damaged.extend(kinds.into_values().filter(|nodes| *nodes != largest).flatten());
    damaged.sort_unstable();
    if damaged.is_empty() { Verdict::Equal } else { Verdict::Damaged(damaged) }
}

/// After copies were checked by themselves, when what they have did not decide it:
/// those that are damaged, if that leaves one that is not.
pub fn judge_checked(sound: &BTreeMap<NodeId, Option<bool>>) -> Option<Vec<NodeId>> {
    let those = |is: bool| -> Vec<NodeId> {
        sound.iter().filter(|(_, sound)| **sound == Some(is)).map(|(node, _)| *node).collect()
    };
    let (damaged, good) = (those(false), those(true));
    let is_sure = damaged.len() + good.len() == sound.len() && good.len() == 1;
    (is_sure && !damaged.is_empty()).then_some(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(hash: u8) -> Found {
        Found::Pages { position: [9; 32], hash: [hash; 32] }
    }

    fn of(found: &[Found]) -> Verdict {
        judge(&(1..).map(NodeId).zip(found.iter().cloned()).collect())
    }

    #[test]
    fn equal_copies_are_equal_whoever_is_silent() {
        assert_eq!(of(&[pages(1), pages(1), pages(1)]), Verdict::Equal);
        assert_eq!(of(&[pages(1), Found::Silent, pages(1)]), Verdict::Equal);
        assert_eq!(of(&[pages(1)]), Verdict::Equal);
    }

    #[test]
    fn a_majority_of_three_says_who_is_wrong() {
        assert_eq!(of(&[pages(1), pages(2), pages(1)]), Verdict::Damaged(vec![NodeId(2)]));
        assert_eq!(of(&[pages(2), pages(1), pages(1)]), Verdict::Damaged(vec![NodeId(1)]));
        let five = [pages(1), pages(2), pages(1), pages(3), pages(1)];
        assert_eq!(of(&five), Verdict::Damaged(vec![NodeId(2), NodeId(4)]));
    }

    #[test]
    fn what_cannot_be_read_is_damaged_if_another_can_be() {
        assert_eq!(of(&[Found::Unreadable, pages(1)]), Verdict::Damaged(vec![NodeId(1)]));
        assert_eq!(of(&[Found::Unreadable]), Verdict::Undecided(vec![NodeId(1)]));
    }

    #[test]
    fn two_that_differ_are_not_guessed_at() {
        let both = vec![NodeId(1), NodeId(2)];
        assert_eq!(of(&[pages(1), pages(2)]), Verdict::Undecided(both.clone()));
        assert_eq!(of(&[pages(1), pages(2), Found::Silent]), Verdict::Undecided(both));
        let four = of(&[pages(1), pages(2), pages(1), pages(2)]);
        assert!(matches!(four, Verdict::Undecided(all) if all.len() == 4));
    }

    #[test]
    fn other_positions_are_not_compared_as_equal() {
        let other = Found::Pages { position: [8; 32], hash: [1; 32] };
        assert!(matches!(of(&[pages(1), other]), Verdict::Undecided(_)));
    }

    #[test]
    fn a_check_decides_between_two_when_exactly_one_is_sound() {
        let checked = |one, two| judge_checked(&[(NodeId(1), one), (NodeId(2), two)].into());
        assert_eq!(checked(Some(true), Some(false)), Some(vec![NodeId(2)]));
        assert_eq!(checked(Some(true), Some(true)), None);
        assert_eq!(checked(Some(false), Some(false)), None);
        assert_eq!(checked(None, Some(false)), None);
    }
}
