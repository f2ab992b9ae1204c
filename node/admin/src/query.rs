//! The query part of a request, read strictly: an unknown parameter is an error,
//! so that a misspelt one is never silently ignored.

use std::collections::BTreeMap;
use std::str::FromStr;

use rung_proto::{Code, Failure};

/// Parameters by name. Longest query accepted: [`Query::MAX_BYTES`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    pub const MAX_BYTES: usize = 2048;

    /// Reads `a=1&b=2`, of which every name must be one of `allowed`.
    ///
    /// # Errors
    /// [`Code::Usage`] for a parameter that is unknown, repeated, or not encoded
    /// as RFC 3986 says.
    pub fn parse(text: &str, allowed: &[&str]) -> Result<Self, Failure> {
        if text.len() > Self::MAX_BYTES {
            return Err(Failure::new(Code::Usage, "the query is too long").because(format!(
                "{} bytes, at most {}",
                text.len(),
                Self::MAX_BYTES
            )));
        }
        let mut found = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !allowed.contains(&name) {
                return Err(Failure::new(Code::Usage, format!("there is no parameter {name:?}"))
                    .because(format!("known here: {}", allowed.join(", "))));
            }
            let value = decode(value).ok_or_else(|| {
                Failure::new(Code::Usage, format!("the value of {name:?} is badly encoded"))
            })?;
            if found.insert(name.to_owned(), value).is_some() {
                return Err(Failure::new(Code::Usage, format!("{name:?} is given twice")));
            }
        }
        Ok(Self(found))
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// A value of a type that reads itself.
    ///
    /// # Errors
    /// [`Code::Usage`] when it does not.
    pub fn value<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error: T::Err| {
            Failure::new(Code::Usage, format!("{name}={text:?} cannot be used")).because(error)
        })
    }

    /// A flag: absent is false.
    ///
    /// # Errors
    /// [`Code::Usage`] for anything but `true` and `false`.
    pub fn flag(&self, name: &str) -> Result<bool, Failure> {
        Ok(self.value(name)?.unwrap_or(false))
    }
}

/// Decodes percent-encoding (RFC 3986, section 2.1). Nothing for text that is
/// badly encoded, not UTF-8, or holds a NUL.
pub fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let digits = bytes.get(at + 1..at + 3)?;
            let high = char::from(digits[0]).to_digit(16)?;
            let low = char::from(digits[1]).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    String::from_utf8(out).ok().filter(|decoded| !decoded.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_strictly() {
        let query = Query::parse("since=7&follow=true", &["since", "follow"]).unwrap();
        assert_eq!(query.value::<u64>("since").unwrap(), Some(7));
        assert!(query.flag("follow").unwrap());
        assert!(Query::parse("sinse=7", &["since"]).is_err());
        assert!(Query::parse("since=1&since=2", &["since"]).is_err());
        let query = Query::parse("since=seven", &["since"]).unwrap();
        assert_eq!(query.value::<u64>("since").unwrap_err().code, Code::Usage);
    }

    #[test]
    fn percent_encoding_is_decoded_and_bad_encoding_refused() {
        assert_eq!(decode("a%20b").as_deref(), Some("a b"));
        assert_eq!(decode("%e2%9c%93").as_deref(), Some("✓"));
        for bad in ["%", "%4", "%zz", "%+1", "%ff", "%00"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,64}") {
            let _ = Query::parse(&text, &["since"]);
            let _ = decode(&text);
        }
    }
}
