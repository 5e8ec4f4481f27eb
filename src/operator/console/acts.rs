//! What a manager asks for with a form, and where that leads.

use super::http::Fields;
use crate::domain::decision::Sequence;
use crate::operator::control::{Reply, Request, Which};

/// What the form that was sent to this path asks for; `None` when it is none of ours.
pub fn wished(path: &str, form: &Fields, actor: &str) -> Option<Request> {
    let (text, actor) = (|name| form.get(name).to_owned(), actor.to_owned());
    Some(match path {
        "/waiting" => {
            let which = match form.get("which") {
                "all" => Which::AllParked,
                number => Which::These(vec![number.to_owned()]),
            };
            Request::Retry { which, actor }
        }
        "/notes" => Request::Note { reference: text("about"), text: text("text"), actor },
        "/refusals" => {
            let refusal = form.get("refusal").parse().ok()?;
            Request::Accept { refusal, reason: text("reason"), actor }
        }
        "/close" => {
            let with_undelivered = form.get("with_undelivered") == "yes";
            Request::Close { day: text("day"), with_undelivered, actor }
        }
        path if is_story(path) => {
            Request::Reopen { contract: text("contract"), reason: text("reason"), actor }
        }
        _ => return None,
    })
}

/// Whether this is a collection's own page, where its contract can be reopened.
pub fn is_story(path: &str) -> bool {
    let number = path.strip_prefix("/collections/").map(str::parse::<Sequence>);
    number.is_some_and(|number| number.is_ok())
}

/// The page on which an act was asked for, by a form that was sent to this path.
pub fn page_of(act: &Request, path: &str) -> String {
    match act {
        Request::Note { reference, .. } => match reference.strip_prefix("collection:") {
            Some(number) => format!("/collections/{number}"),
            None => "/refusals".to_owned(),
        },
        Request::Reopen { .. } => path.to_owned(),
        _ => "/".to_owned(),
    }
}

/// The page that shows what an act came to, when that is another one.
pub fn page_after(reply: &Reply) -> Option<String> {
    match reply {
        Reply::SentAgain { count } => Some(format!("/waiting?sent={count}")),
        Reply::Accepted { sequence, .. } => Some(format!("/collections/{sequence}")),
        Reply::Closed { close } => Some(format!("/close?day={}", close.day)),
        _ => None,
    }
}
