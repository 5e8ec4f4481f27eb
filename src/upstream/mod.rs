//! Head office, as far as one try to deliver one confirmation goes: what is sent, and what the
//! answer means.
//!
//! It must not know when to try again, which link is up or what is stored: one try, one verdict.

use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::collection::{Collection, is_printable};
use crate::domain::delivery::{Holdings, Place, TapeLine, UnknownCause, Verdict};
use crate::skypay::answer::{Answer, Unreadable};

mod connect;
pub mod https;

/// The most characters of [`Tried::reason`]: it stands in a log line and in a table.
const REASON_CHARS_MAX: usize = 200;

/// Within these bounds head office says when it wants to be asked again: neither at once, nor so
/// late that somebody who has mended it must wait for us.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(15 * 60);

/// Whoever takes our confirmations.
pub trait Upstream: Send + Sync + 'static {
    /// Tries once to deliver one confirmation. It ends by itself, within a time that is configured.
    /// Whoever drops the future does not know whether head office has it.
    fn deliver(&self, outgoing: &Outgoing) -> impl Future<Output = Tried> + Send;
}

/// One confirmation on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its number among ours, without gaps.
    pub sequence: Place,
    /// What was confirmed.
    pub collection: Collection,
    /// Its line on our tape, when that is known.
    pub line: Option<TapeLine>,
}

/// What one try brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What it means.
    pub verdict: Verdict,
    /// The HTTP status, if one came.
    pub http: Option<u16>,
    /// The protocol's code, if one came, whatever the HTTP status was.
    pub code: Option<i32>,
    /// In words for a person what came back or went wrong; empty when delivered. At most 200
    /// printable characters, and no secret.
    pub reason: String,
    /// How long it took.
    pub took: Duration,
    /// What head office says that it has of our epoch (`Tilld-Have`, `Tilld-Held`).
    pub held: Option<Holdings>,
}

/// The table of upstream's answers: what an answer that came whole means, and in words what it
/// was (empty when delivered).
///
/// The HTTP status decides, unless it is a success: a gateway may put its 503 around anything, and
/// only who answered 2xx has seen to its body. Then the protocol's code decides.
pub fn judge(
    http: u16,
    retry_after: Option<Duration>,
    reply: &Result<Answer, Unreadable>,
) -> (Verdict, String) {
    let unknown = Verdict::Unknown { cause: UnknownCause::NoAnswer, retry_after };
    match (http, reply) {
        (200..=299, Ok(answer)) => judge_code(answer, unknown),
        (200..=299, Err(unreadable)) => (unknown, unreadable.to_string()),
        (300..=399, _) => {
            (unknown, format!("HTTP {http}, which sends us elsewhere; is the url right?"))
        }
        (401 | 403, _) => (
            Verdict::Misconfigured,
            status_in_words(http, reply) + "; do the key and the client certificate let us in?",
        ),
        (404 | 405, _) => {
            (Verdict::Misconfigured, status_in_words(http, reply) + "; is the url right?")
        }
        // What HTTP does not define above 599 is taken for 5xx (RFC 9110, 15), and a final 1xx is
        // no answer at all.
        (408 | 425 | 429 | 500.. | ..=199, _) => (unknown, status_in_words(http, reply)),
        _ => (Verdict::Refused, status_in_words(http, reply)),
    }
}

fn judge_code(answer: &Answer, unknown: Verdict) -> (Verdict, String) {
    let Answer { code, description } = answer;
    let words = format!("{code} {description}");
    match code {
        1000 | -1015 => (Verdict::Delivered, String::new()),
        -1026 => (Verdict::Settled, words),
        -1009 | -9999 => (unknown, words),
        -1001 => (
            Verdict::Misconfigured,
            words + "; are user_name, key, branch and password as head office knows them?",
        ),
        -1032 => (Verdict::Misconfigured, words + "; head office does not know our address"),
        _ => (Verdict::Refused, words),
    }
}

fn status_in_words(http: u16, reply: &Result<Answer, Unreadable>) -> String {
    match reply {
        Ok(Answer { code, description }) => format!("HTTP {http}: {code} {description}"),
        Err(_) => format!("HTTP {http}"),
    }
}

/// When head office wants to be asked again: `Retry-After` in seconds or as a date (RFC 9110,
/// 10.2.3), from 1 s to 15 min. A date counts from the answer's own `Date`, because our clock may
/// be wrong; from `now` when that is missing.
pub fn retry_after(header: &str, date: Option<&str>, now: DateTime<Utc>) -> Option<Duration> {
    let header = header.trim();
    let wait = if !header.is_empty() && header.bytes().all(|b| b.is_ascii_digit()) {
        // More seconds than a number holds are more than are waited for.
        header.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let at = http_date(header)?;
        (at - date.and_then(http_date).unwrap_or(now)).to_std().unwrap_or_default()
    };
    Some(wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that may be generated since 1999.
fn http_date(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(text).ok().map(|date| date.to_utc())
}

/// A reason as it may stand in a line, however long and odd what came back is.
fn in_one_line(reason: &str) -> String {
    let harmless = |c| if is_printable(c) { c } else { ' ' };
    reason.chars().take(REASON_CHARS_MAX).map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: Verdict =
        Verdict::Unknown { cause: UnknownCause::NoAnswer, retry_after: Some(Duration::ZERO) };

    fn reply(code: i32) -> Answer {
        Answer { code, description: "Words".to_owned() }
    }

    fn verdict(http: u16, reply: &Result<Answer, Unreadable>) -> Verdict {
        judge(http, Some(Duration::ZERO), reply).0
    }

    #[test]
    fn code_1000_and_minus_1015_are_delivered() {
        for code in [1000, -1015] {
            assert_eq!(judge(200, None, &Ok(reply(code))), (Verdict::Delivered, String::new()));
        }
        assert_eq!(verdict(201, &Ok(reply(1000))), Verdict::Delivered);
    }

    #[test]
    fn code_minus_1026_is_settled() {
        let (verdict, words) = judge(200, None, &Ok(reply(-1026)));
        assert_eq!((verdict, words.as_str()), (Verdict::Settled, "-1026 Words"));
    }

    #[test]
    fn codes_minus_1009_and_minus_9999_leave_the_outcome_unknown() {
        for code in [-1009, -9999] {
            assert_eq!(verdict(200, &Ok(reply(code))), UNKNOWN);
        }
    }

    #[test]
    fn a_redirect_leaves_the_outcome_unknown() {
        for http in [300, 301, 302, 303, 304, 307, 308] {
            assert_eq!(verdict(http, &Ok(reply(1000))), UNKNOWN);
        }
    }

    #[test]
    fn a_status_of_a_server_in_trouble_leaves_the_outcome_unknown() {
        for http in [408, 425, 429, 500, 502, 503, 504, 511, 599, 600, 999, 101] {
            for reply in [Ok(reply(1000)), Ok(reply(-1009)), Err(Unreadable::NoReply)] {
                assert_eq!(verdict(http, &reply), UNKNOWN, "{http}");
            }
        }
    }

    #[test]
    fn a_success_that_is_no_reply_leaves_the_outcome_unknown() {
        let unreadable =
            [Unreadable::Empty, Unreadable::WebPage, Unreadable::NotOpened, Unreadable::NoReply];
        for why in unreadable {
            for http in [200, 202, 204] {
                assert_eq!(verdict(http, &Err(why)), UNKNOWN);
            }
        }
        let (_, words) = judge(200, None, &Err(Unreadable::WebPage));
        assert_eq!(words, "a web page instead of a reply: is there a login page on this line?");
    }

    #[test]
    fn codes_minus_1001_and_minus_1032_mean_a_wrong_configuration() {
        for code in [-1001, -1032] {
            assert_eq!(verdict(200, &Ok(reply(code))), Verdict::Misconfigured);
        }
    }

    #[test]
    fn statuses_401_403_404_and_405_mean_a_wrong_configuration() {
        for http in [401, 403, 404, 405] {
            for reply in [Ok(reply(1000)), Ok(reply(-1001)), Err(Unreadable::WebPage)] {
                assert_eq!(verdict(http, &reply), Verdict::Misconfigured, "{http}");
            }
        }
    }

    #[test]
    fn codes_from_2_on_and_any_other_are_refused() {
        for code in [2001, 2002, 2003, 2004, 2005, 2006, 2999, 0, 1, -1, 1001, -1010, -1027] {
            assert_eq!(verdict(200, &Ok(reply(code))), Verdict::Refused, "{code}");
        }
    }

    #[test]
    fn statuses_400_413_415_422_and_any_other_are_refused() {
        for http in [400, 413, 415, 422, 402, 406, 409, 410, 418, 451] {
            for reply in [Ok(reply(1000)), Ok(reply(-1009)), Err(Unreadable::Empty)] {
                assert_eq!(verdict(http, &reply), Verdict::Refused, "{http}");
            }
        }
        assert_eq!(judge(400, None, &Ok(reply(2003))).1, "HTTP 400: 2003 Words");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_kept_within_bounds() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let now = at("1994-11-06T08:49:30Z");
        let seconds = |header, date| retry_after(header, date, now).map(|wait| wait.as_secs());
        for (header, expected) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", Some(1)),
            ("3600", Some(900)),
            ("99999999999999999999999", Some(900)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(1)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", Some(900)),
            ("", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(seconds(header, None), expected, "{header}");
        }
        let header = "Tue, 06 Nov 2029 08:49:37 GMT";
        assert_eq!(seconds(header, Some("Tue, 06 Nov 2029 08:49:07 GMT")), Some(30));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT", Some("yesterday")), Some(7));
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(in_one_line("a\r\n\u{1b}[2Jb"), "a   [2Jb");
        assert_eq!(in_one_line(&"\u{d1}".repeat(1000)), "\u{d1}".repeat(200));
    }
}
