//! Identifiers. Each is its own type, so that a node id can never be passed
//! where a group id is meant.
//!
//! In MessagePack they are integers; in JSON the random ones are hexadecimal
//! strings, because JavaScript cannot hold 64-bit integers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What was wrong with a textual identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct ParseIdError {
    expected: &'static str,
    got: String,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// A random identifier; never zero, which stands for "none".
            pub fn random() -> Self {
                loop {
                    let candidate = rand::random::<u64>();
                    if candidate != 0 {
                        return Self(candidate);
                    }
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let error = || ParseIdError { expected: $expected, got: text.chars().take(80).collect() };
                let is_hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
                if !is_hex {
                    return Err(error());
                }
                u64::from_str_radix(text, 16).map(Self).map_err(|_| error())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_u64(self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct IdVisitor;

                impl de::Visitor<'_> for IdVisitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        Ok($name(number))
                    }
                }

                // Within a tagged enum serde buffers the value and then calls
                // every format human-readable, so both forms are taken there.
                if deserializer.is_human_readable() {
                    deserializer.deserialize_any(IdVisitor)
                } else {
                    deserializer.deserialize_u64(IdVisitor)
                }
            }
        }
    };
}

hex_id!(
    /// A node, for as long as its data directory lives. A node that lost its
    /// disk gets another one.
    NodeId,
    "a node id of 16 hexadecimal digits"
);
hex_id!(
    /// A cluster, from the moment its first node created it.
    ClusterId,
    "a cluster id of 16 hexadecimal digits"
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

counter!(
    /// Which start of a node this is. It rises by one each time `rungd` starts
    /// on the same data directory.
    Incarnation
);
counter!(
    /// Which ownership of a thing this is. Storage refuses an older one.
    Epoch
);
counter!(
    /// Which life of the cluster's logs this is. It rises only when an operator
    /// recovers from the loss of a majority.
    Generation
);
counter!(
    /// One replicated log. Zero is the control group.
    GroupId
);
counter!(
    /// One process of an app on one node; never used again.
    InstanceId
);
counter!(
    /// One change that somebody asked for.
    OperationId
);

/// A BLAKE3 hash: the address of a stored bundle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError {
            expected: "a digest of 64 hexadecimal digits",
            got: text.chars().take(80).collect(),
        };
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

struct DigestVisitor;

impl de::Visitor<'_> for DigestVisitor {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a digest of 32 bytes or 64 hexadecimal digits")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Digest, E> {
        let bytes = bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
        Ok(Digest(bytes))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // See the identifiers above for why both forms are taken.
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(DigestVisitor)
        } else {
            deserializer.deserialize_bytes(DigestVisitor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_text_in_json_and_a_number_in_messagepack() {
        let id = NodeId(0x0a0b);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"0000000000000a0b\"");
        assert_eq!(serde_json::from_str::<NodeId>("\"0000000000000a0b\"").unwrap(), id);
        let packed = rmp_serde::to_vec_named(&id).unwrap();
        assert_eq!(rmp_serde::from_slice::<NodeId>(&packed).unwrap(), id);
        assert!("0a0b".parse::<NodeId>().is_err());
        assert!("+00000000000000b".parse::<NodeId>().is_err());
    }

    #[test]
    fn identifiers_survive_messagepack_within_a_tagged_enum() {
        #[derive(PartialEq, Debug, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        enum Tagged {
            Both { digest: Digest, node: NodeId },
        }
        let value = Tagged::Both { digest: Digest([9; 32]), node: NodeId(7) };
        let packed = rmp_serde::to_vec_named(&value).unwrap();
        assert_eq!(rmp_serde::from_slice::<Tagged>(&packed).unwrap(), value);
        let json = serde_json::to_string(&value).unwrap();
        assert_eq!(serde_json::from_str::<Tagged>(&json).unwrap(), value);
    }

    #[test]
    fn a_digest_survives_both_encodings() {
        let digest = Digest([7; 32]);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        let packed = rmp_serde::to_vec_named(&digest).unwrap();
        assert_eq!(packed.len(), 34);
        assert_eq!(rmp_serde::from_slice::<Digest>(&packed).unwrap(), digest);
        assert!("zz".parse::<Digest>().is_err());
    }
}
