//! The one encoding of everything that another version may read: MessagePack
//! with structs as maps.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};

/// Bytes that are not the type they were read as.
#[derive(Debug, thiserror::Error)]
#[error("malformed {type_name}: {source}")]
pub struct DecodeError {
    type_name: &'static str,
    source: rmp_serde::decode::Error,
}

/// Encodes a value. Our own types always encode: they hold no maps with
/// non-string-like keys that MessagePack could refuse and no unsized sequences.
///
/// # Panics
/// When `T`'s own `Serialize` fails, which is a bug in that type.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("a Rung type refused to be encoded")
}

/// Reads a value back.
///
/// # Errors
/// When the bytes are not a `T`, or not wholly one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    read_whole(bytes)
        .map_err(|source| DecodeError { type_name: std::any::type_name::<T>(), source })
}

fn read_whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    use rmp_serde::decode::Error;
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    let value = T::deserialize(&mut deserializer)?;
    // The deserializer does not say how far it came, but it cannot read another
    // value where nothing is left.
    match bool::deserialize(&mut deserializer) {
        Err(Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err(Error::custom("more bytes follow it")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Code, Digest, Failure, Role};

    fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
        let bytes = encode(value);
        assert_eq!(&decode::<T>(&bytes).unwrap(), value);
        // A value, an array that lacks its element, a reserved byte, plain text.
        for more in [&[0][..], &[0x91], &[0xc1], &[0xc0], b"text"] {
            let longer = [&bytes, more].concat();
            assert!(decode::<T>(&longer).is_err(), "{value:?} followed by {more:02x?}");
        }
        for cut in 0..bytes.len() {
            assert!(decode::<T>(&bytes[..cut]).is_err(), "{value:?} cut at {cut}");
        }
    }

    #[test]
    fn bytes_before_their_end_or_behind_it_are_refused() {
        check(&Failure::new(Code::NoQuorum, "it was not done").because("why"));
        check(&Role::Web);
        check(&(Some(7_u64), None::<Role>));
        check(&None::<Role>);
        check(&());
        check(&true);
        check(&Digest([7; 32]));
        check(&BTreeMap::from([(Role::Lb, vec!["a".to_owned()])]));
        check(&bytes::Bytes::from_static(b"raw"));
        check(&Ok::<u8, Failure>(3));
    }
}
