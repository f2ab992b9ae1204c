//! What is read from a request, within bounds.

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::photos::{Upload, media_type};

pub const MAX_IMAGE: usize = 5 << 20;
const MAX_FORM: usize = 64 << 10;
const MAX_CAPTION: usize = 500;
const COOKIE: &str = "session";

/// Why a body is not taken: a status and a sentence.
pub type Refusal = (u16, &'static str);

/// The secret of the visitor's session.
pub fn session(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|all| all.split(';')).filter_map(|one| one.split_once('='));
    let (_, token) = pairs.find(|(name, _)| name.trim() == COOKIE)?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty() && token.len() <= 128)
}

pub fn set_cookie(token: &str) -> String {
    let age = if token.is_empty() { 0 } else { 30 * 86_400 };
    format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age}")
}

/// Whether the visitor would rather have JSON than a page.
pub fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let place = |what: &str| accept.find(what).unwrap_or(usize::MAX);
    let json = place("application/json");
    json < place("text/html") || (json == usize::MAX && !accept.contains("text/html"))
}

/// Another site's page must not act in the visitor's name.
pub fn is_from_this_site(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, authority)| authority == host)
        }
        (Some(_), None) => false,
        (None, _) => true,
    }
}

async fn body(request: Request<Incoming>, most: usize) -> Result<Bytes, Refusal> {
    match Limited::new(request.into_body(), most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err((413, "That is too large.")),
        Err(_) => Err((400, "The request ended early.")),
    }
}

pub async fn json<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, String> {
    let bytes = body(request, MAX_FORM).await.map_err(|(_, why)| why.to_owned())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// The fields of a form, by their names.
pub async fn form<const N: usize>(
    request: Request<Incoming>,
    names: [&str; N],
) -> Result<[String; N], Refusal> {
    let bytes = body(request, MAX_FORM).await?;
    let text = std::str::from_utf8(&bytes).map_err(|_| (400, "The form is not text."))?;
    Ok(names.map(|wanted| {
        let mut fields = text.split('&').filter_map(|field| field.split_once('='));
        fields.find(|(name, _)| *name == wanted).map(|(_, value)| decode(value)).unwrap_or_default()
    }))
}

/// Undoes the encoding of forms; what is no encoding stays as it is.
fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |byte: &u8| (*byte as char).to_digit(16);
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if digit(high).is_some() && digit(low).is_some() => {
                let value = digit(high).unwrap_or(0) * 16 + digit(low).unwrap_or(0);
                bytes.push(u8::try_from(value).unwrap_or(b'?'));
                rest = after;
                continue;
            }
            _ => bytes.push(*first),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A photo with its caption.
pub async fn upload(request: Request<Incoming>) -> Result<Upload, Refusal> {
    const BROKEN: Refusal = (400, "The form cannot be read.");
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = multer::parse_boundary(kind.unwrap_or_default()).map_err(|_| BROKEN)?;
    let limit = MAX_IMAGE + MAX_FORM;
    let bytes = body(request, limit).await?;
    let stream = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(bytes)]);
    let mut form = multer::Multipart::new(stream, boundary);
    let (mut caption, mut image) = (String::new(), Bytes::new());
    while let Some(field) = form.next_field().await.map_err(|_| BROKEN)? {
        match field.name() {
            Some("caption") => caption = field.text().await.map_err(|_| BROKEN)?,
            Some("photo") => image = field.bytes().await.map_err(|_| BROKEN)?,
            _ => {}
        }
    }
    if image.len() > MAX_IMAGE {
        return Err((413, "A photo has at most 5 MiB."));
    }
    if caption.chars().count() > MAX_CAPTION || caption.contains('\0') {
        return Err((400, "A caption has at most 500 characters."));
    }
    let media_type = media_type(&image);
    let media_type = media_type.ok_or((415, "That is no JPEG, PNG, GIF or WebP image."))?;
    Ok(Upload { caption, media_type, image })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn forms_are_decoded_and_never_fail() {
        assert_eq!(decode("a+b%21%c3%A9"), "a b!é");
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%4"), "%zz%4");
    }

    #[test]
    fn the_session_is_found_among_other_cookies() {
        let all = headers(&[("cookie", "theme=dark; session=abc")]);
        assert_eq!(session(&all).as_deref(), Some("abc"));
        assert_eq!(session(&headers(&[("cookie", "session=")])), None);
        assert!(set_cookie("").contains("Max-Age=0"));
    }

    #[test]
    fn json_is_given_to_programs_and_pages_to_browsers() {
        assert!(wants_json(&headers(&[("accept", "application/json")])));
        assert!(wants_json(&headers(&[("accept", "*/*")])));
        assert!(!wants_json(&headers(&[("accept", "text/html,application/json;q=0.9")])));
    }

    #[test]
    fn another_sites_form_is_recognised() {
        let same = headers(&[("host", "photos.test:8080"), ("origin", "http://photos.test:8080")]);
        let other = headers(&[("host", "photos.test"), ("origin", "https://evil.test")]);
        assert!(is_from_this_site(&same) && !is_from_this_site(&other));
        assert!(is_from_this_site(&headers(&[("host", "photos.test")])));
    }
}
