//! What the pages need of HTTP: forms, queries, cookies, and answers with the headers that every
//! page has. Knows no page.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    self, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HeaderMap,
    HeaderName, HeaderValue, LOCATION, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use hyper::{Response, StatusCode};
use maud::Markup;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// The longest form, in bytes.
const FORM_BYTES_MAX: usize = 8 * 1024;

/// A form must be complete within this time.
const FORM_TIME_MAX: Duration = Duration::from_secs(5);

/// Nothing comes from anywhere else, and nothing is written into the page.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; \
     connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What a page sends that asks for itself again, so that its script does not count as a person.
const REFRESH: HeaderName = HeaderName::from_static("tilld-refresh");

/// What is answered.
pub type Answer = Response<Full<Bytes>>;

/// Names and values that came with a request.
#[derive(Default)]
pub struct Fields(Vec<(String, Zeroizing<String>)>);

impl Fields {
    /// Reads `a=1&b=2`; what is no UTF-8 is replaced.
    pub fn parse(text: &str) -> Fields {
        let decode = |text: &str| {
            let text = Zeroizing::new(text.replace('+', " "));
            percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), Zeroizing::new(decode(value)))
        });
        Fields(pairs.collect())
    }

    /// The value with this name; empty when there is none.
    pub fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

/// Reads the form in a body; `None` when it is too long or takes too long.
pub async fn form(body: Incoming) -> Option<Fields> {
    let reading = timeout(FORM_TIME_MAX, Limited::new(body, FORM_BYTES_MAX).collect());
    let bytes = reading.await.ok()?.ok()?.to_bytes();
    std::str::from_utf8(&bytes).ok().map(Fields::parse)
}

/// The cookie with this name.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split("; ")).filter_map(|one| one.split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Whether a request that would change something comes from a page of ours, as far as its browser
/// tells: by `Sec-Fetch-Site`, or else by `Origin`, which pages without a referrer leave "null" in
/// browsers that know nothing newer. Then the form's token has to do alone.
pub fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(&HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    match text(&header::ORIGIN) {
        None | Some("null") => true,
        Some(origin) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == text(&header::HOST)
        }
    }
}

/// Whether a page asks for itself again, and no person.
pub fn is_refresh(headers: &HeaderMap) -> bool {
    headers.contains_key(REFRESH)
}

/// A page.
pub fn page(status: StatusCode, markup: Markup) -> Answer {
    let mut answer = Response::new(Full::from(markup.into_string()));
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, "text/html; charset=utf-8");
    set(&mut answer, CACHE_CONTROL, "no-store");
    guarded(answer)
}

/// A file that is part of the program.
pub fn asset(content_type: &'static str, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    set(&mut answer, CONTENT_TYPE, content_type);
    // The address holds the version.
    set(&mut answer, CACHE_CONTROL, "max-age=86400");
    guarded(answer)
}

/// Have the browser ask for another page.
pub fn see_other(path: &str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(path) = HeaderValue::from_str(path) {
        answer.headers_mut().insert(LOCATION, path);
    }
    set(&mut answer, CACHE_CONTROL, "no-store");
    guarded(answer)
}

/// The same answer, that tells which methods there are.
pub fn allowing(mut answer: Answer, methods: &'static str) -> Answer {
    set(&mut answer, ALLOW, methods);
    answer
}

/// The same answer with a cookie that no script, no other site and no plain connection sees;
/// without a value it is removed.
pub fn with_cookie(mut answer: Answer, name: &str, value: Option<&str>, is_plain: bool) -> Answer {
    let secure = if is_plain { "" } else { "; Secure" };
    let ended = if value.is_none() { "; Max-Age=0" } else { "" };
    let value = value.unwrap_or_default();
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{ended}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        answer.headers_mut().append(SET_COOKIE, cookie);
    }
    answer
}

fn guarded(mut answer: Answer) -> Answer {
    set(&mut answer, CONTENT_SECURITY_POLICY, POLICY);
    set(&mut answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut answer, X_FRAME_OPTIONS, "DENY");
    set(&mut answer, REFERRER_POLICY, "no-referrer");
    set(&mut answer, HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(&mut answer, HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    answer
}

fn set(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn forms_are_read_as_browsers_write_them() {
        let fields = Fields::parse("q=3%2C900.00&name=Pe%C3%B1a+x&empty=&bad=%ff%zz&q=second");
        assert_eq!(fields.get("q"), "3,900.00");
        assert_eq!(fields.get("name"), "Peña x");
        assert_eq!((fields.get("empty"), fields.get("absent")), ("", ""));
        assert_eq!(fields.get("bad"), "\u{fffd}%zz");
    }

    #[test]
    fn the_script_says_that_it_is_no_person() {
        let script = include_str!("live.js").to_lowercase();
        assert!(script.contains(&format!("headers: {{ \"{REFRESH}\": \"1\" }}")), "{script}");
        assert!(is_refresh(&headers(&[(REFRESH.as_str(), "1")])));
        assert!(!is_refresh(&headers(&[("host", "127.0.0.1:9443")])));
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let sent = headers(&[("cookie", "xtilld=1; tilld=2; tilldx=3"), ("cookie", "other=4")]);
        assert_eq!(cookie(&sent, "tilld"), Some("2"));
        assert_eq!(cookie(&sent, "other"), Some("4"));
        assert_eq!(cookie(&sent, "till"), None);
    }

    #[test]
    fn what_another_site_has_a_browser_send_is_not_from_here() {
        let host = ("host", "127.0.0.1:9443");
        for (pairs, expected) in [
            (vec![host], true),
            (vec![host, ("sec-fetch-site", "same-origin")], true),
            (vec![host, ("sec-fetch-site", "cross-site")], false),
            (vec![host, ("sec-fetch-site", "same-site")], false),
            (vec![host, ("origin", "http://127.0.0.1:9443")], true),
            (vec![host, ("origin", "http://127.0.0.1:9444")], false),
            (vec![host, ("origin", "https://evil.example")], false),
            (vec![host, ("origin", "null")], true),
            (vec![host, ("origin", "null"), ("sec-fetch-site", "cross-site")], false),
        ] {
            assert_eq!(is_from_here(&headers(&pairs)), expected, "{pairs:?}");
        }
    }
}
