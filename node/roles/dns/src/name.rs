//! Domain names in wire format: labels, each after its length byte, ended by
//! the zero byte of the root (RFC 1035 section 3.1). Lower case wherever names
//! are compared.

/// The longest name in wire format, in bytes (RFC 1035 section 2.3.4).
pub(crate) const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

/// Why a text is no domain name that we serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Two dots in a row, or a dot at the start.
    #[error("the name {0:?} has an empty label")]
    EmptyLabel(String),
    /// A label has more than 63 bytes.
    #[error("the name {0:?} has a label of more than 63 bytes")]
    LongLabel(String),
    /// The name has more than 255 bytes in wire format.
    #[error("the name {0:?} is longer than 255 bytes")]
    Long(String),
    /// A byte that no host name has; names in other scripts are given in their
    /// ASCII form (xn--...).
    #[error("the name {name:?} has the character {character:?}; allowed are a-z, 0-9, - and _")]
    Character { name: String, character: char },
}

/// Reads a dotted name, with or without the final dot, into lower-case wire
/// format. A `*` is allowed as the first label.
pub(crate) fn from_text(text: &str) -> Result<Vec<u8>, NameError> {
    let text_or_root = text.strip_suffix('.').unwrap_or(text);
    let mut wire = Vec::with_capacity(text.len() + 2);
    if !text_or_root.is_empty() {
        for (position, label) in text_or_root.split('.').enumerate() {
            check_label(text, label, position == 0)?;
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
    }
    wire.push(0);
    if wire.len() > MAX_NAME {
        return Err(NameError::Long(text.to_owned()));
    }
    Ok(wire)
}

fn check_label(name: &str, label: &str, first: bool) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel(name.to_owned()));
    }
    if label.len() > MAX_LABEL {
        return Err(NameError::LongLabel(name.to_owned()));
    }
    if first && label == "*" {
        return Ok(());
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_';
    match label.chars().find(|c| !allowed(c)) {
        Some(character) => Err(NameError::Character { name: name.to_owned(), character }),
        None => Ok(()),
    }
}

/// The length of the uncompressed name at the start of `bytes`, with its final
/// zero, and its number of labels. `None` where it is cut off, too long, or has
/// a compression pointer.
pub(crate) fn measure(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    let mut labels = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length == 0 {
            return Some((at + 1, labels));
        }
        if length > MAX_LABEL {
            return None;
        }
        at += length + 1;
        labels += 1;
        if at >= MAX_NAME {
            return None;
        }
    }
}

/// A name in lower case, without an allocation.
pub(crate) struct Lower {
    bytes: [u8; MAX_NAME],
    length: usize,
}

impl Lower {
    /// Lowers a valid wire name of at most 255 bytes. Length bytes are below 64
    /// and so never change.
    pub(crate) fn new(wire: &[u8]) -> Self {
        let length = wire.len().min(MAX_NAME);
        let mut bytes = [0; MAX_NAME];
        bytes[..length].copy_from_slice(&wire[..length]);
        bytes[..length].make_ascii_lowercase();
        Self { bytes, length }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The name without its first label; `None` for the root.
pub(crate) fn parent(wire: &[u8]) -> Option<&[u8]> {
    match wire.first() {
        None | Some(0) => None,
        Some(&length) => wire.get(usize::from(length) + 1..),
    }
}

/// The number of labels of a valid wire name.
pub(crate) fn count_labels(wire: &[u8]) -> usize {
    std::iter::successors(Some(wire), |name| parent(name)).count().saturating_sub(1)
}

/// Whether `name` is `ancestor` or below it; both valid and in lower case.
pub(crate) fn is_within(name: &[u8], ancestor: &[u8]) -> bool {
    std::iter::successors(Some(name), |name| parent(name)).any(|name| name == ancestor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotted_name_becomes_lower_case_labels() {
        assert_eq!(from_text("WWW.Photos.test.").unwrap(), b"\x03www\x06photos\x04test\0");
        assert_eq!(from_text("*.a").unwrap(), b"\x01*\x01a\0");
        assert_eq!(from_text(".").unwrap(), b"\0");
    }

    #[test]
    fn bad_names_are_refused_with_the_reason() {
        assert!(matches!(from_text("a..b"), Err(NameError::EmptyLabel(_))));
        assert!(matches!(from_text(&"a".repeat(64)), Err(NameError::LongLabel(_))));
        assert!(matches!(from_text(&"a.".repeat(128)), Err(NameError::Long(_))));
        assert!(matches!(from_text("a.*.b"), Err(NameError::Character { character: '*', .. })));
        assert!(matches!(from_text("bücher.test"), Err(NameError::Character { .. })));
    }

    #[test]
    fn measuring_stops_at_pointers_cut_names_and_255_bytes() {
        assert_eq!(measure(b"\x03www\x01a\0rest"), Some((7, 2)));
        assert_eq!(measure(b"\0"), Some((1, 0)));
        assert_eq!(measure(b"\x03ww"), None);
        assert_eq!(measure(b"\xc0\x0c"), None);
        let longest = [&[1, b'a'].repeat(127)[..], &[0]].concat();
        assert_eq!(longest.len(), 255);
        assert_eq!(measure(&longest), Some((255, 127)));
        let longer = [&[1, b'a'].repeat(128)[..], &[0]].concat();
        assert_eq!(measure(&longer), None);
    }

    #[test]
    fn ancestry_goes_by_labels_and_not_by_bytes() {
        let apex = from_text("photos.test").unwrap();
        assert!(is_within(&from_text("a.photos.test").unwrap(), &apex));
        assert!(is_within(&apex, &apex));
        assert!(!is_within(&from_text("xphotos.test").unwrap(), &apex));
        assert_eq!(count_labels(&apex), 2);
    }
}
