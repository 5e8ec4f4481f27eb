//! A person's way through the console: in, to what was taken, to one collection, to an act, and
//! what is refused on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::TimeDelta;
use fantoccini::key::Key;
use fantoccini::{Locator, actions};

use crate::browser::Browser;
use crate::support::fleet::Branch;
use crate::support::site::flags;
use crate::support::upstream::{Reply, Upstream};
use crate::support::{Confirmation, Setup, Site, eventually, wire_time};

pub const PASSWORD: &str = "four words are long";

/// Lets somebody log in.
pub fn add(site: &Site, user: &str, role: &str) {
    let added = site.tilld_reading(&["user", "add", user, "--role", role], PASSWORD);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
}

#[tokio::test]
async fn a_manager_logs_in_sees_what_was_posted_finds_it_and_sends_a_parked_one_again() {
    let takes = Arc::new(AtomicBool::new(false));
    let is_taken = Arc::clone(&takes);
    let upstream = Upstream::start(move |_| {
        Reply::code(if is_taken.load(Ordering::Relaxed) { 1000 } else { -1026 })
    });
    let branch = Branch::of_upstream(&upstream).started();
    add(&branch.site, "ana", "manager");
    let daemon = branch.daemon();
    let browser = Browser::open(daemon).await;
    browser.go("/").await;
    assert_eq!(browser.path().await, "/login");
    browser.log_in("ana", "not her password").await;
    assert!(browser.text().await.contains("do not belong together"));
    // The browser notes the status of what it was refused.
    assert_eq!(browser.complaints().await.len(), 1);
    browser.log_in("ana", PASSWORD).await;
    assert_eq!(browser.path().await, "/");
    assert!(browser.text().await.contains("Nothing was taken yet."));

    let confirmation = Confirmation::fresh().with("amount", "1234.50");
    assert_eq!(daemon.code(&confirmation), "1000");
    browser.go("/").await;
    let text = browser.text().await;
    assert!(text.contains("₱1,234.50") && text.contains("1 collection, "), "{text}");

    browser.follow("Find").await;
    browser.type_into("#q", &confirmation.get("receiptNumber")).await;
    browser.click("form.find button").await;
    browser.follow(&confirmation.get("contractNumber")).await;
    let text = browser.text().await;
    for expected in ["Received", "Stored", "On the tape", "as number 1"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }

    let parked = branch.site.state_dir();
    eventually(|| {
        let reader = tilld::store::reader::Reader::open(&parked).expect("the books");
        reader.parked_sum().expect("a sum").count == 1
    });
    browser.follow("Waiting").await;
    assert!(browser.text().await.contains("-1026"), "{}", browser.text().await);
    takes.store(true, Ordering::Relaxed);
    browser.click("form.act button[value='collection:1']").await;
    let text = browser.text().await;
    assert!(text.contains("To be sent again: 1 collection."), "{text}");
    branch.await_empty_outbox();
    browser.go("/collections/1").await;
    let text = browser.text().await;
    assert!(text.contains("Parked") && text.contains("Delivered"), "{text}");

    browser.click("form.out button").await;
    assert_eq!(browser.path().await, "/login");
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
}

#[tokio::test]
async fn a_manager_accepts_what_was_refused_writes_a_note_and_closes_the_day() {
    let site = Setup { prefixes: &["SKY01"], ..Setup::live() }.prepare();
    let daemon = site.start();
    add(&site, "ana", "manager");
    let today = wire_time(TimeDelta::zero())[..10].to_owned();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    let refused = Confirmation::fresh().with("contractNumber", "SKY0212345678");
    assert_eq!(daemon.code(&refused), "2006");
    let browser = Browser::open(&daemon).await;
    browser.log_in("ana", PASSWORD).await;

    let open = "document.querySelector('details.acts').open = true";
    browser.follow("Refusals").await;
    browser.run(open).await;
    browser.type_into("form.reasoned input[name=text]", "he waits at the counter").await;
    browser.click("form.reasoned[action='/notes'] button").await;
    assert!(browser.text().await.contains("by ana: he waits at the counter"));
    browser.run(open).await;
    browser.type_into("form.reasoned input[name=reason]", "the cash is in the drawer").await;
    browser.click("form.reasoned[action='/refusals'] button").await;
    assert_eq!(browser.path().await, "/collections/2");
    let text = browser.text().await;
    for expected in ["accepted", "by ana: the cash is in the drawer", "SKY0212345678"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    browser.type_into("form.reasoned input[name=text]", "counted twice").await;
    browser.click("form.reasoned button").await;
    assert_eq!(browser.path().await, "/collections/2");
    assert!(browser.text().await.contains("by ana: counted twice"));
    browser.run(open).await;
    browser.type_into("form.reasoned input[name=reason]", "the first was paid back").await;
    browser.click("form.reasoned[action='/collections/2'] button").await;
    assert_eq!(browser.path().await, "/collections/2");
    let text = browser.text().await;
    assert!(text.contains("Contract reopened") && text.contains("the first was paid back"));
    browser.follow("Refusals").await;
    browser.follow("accepted as number 2").await;
    assert_eq!(browser.path().await, "/collections/2");

    browser.follow("Day close").await;
    assert!(browser.text().await.contains("This day is open."));
    browser.click("form:not(.pick):not(.out) button").await;
    let text = browser.text().await;
    for expected in ["Closed by ana", "7,800.00"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let late = Confirmation::fresh();
    assert_eq!(daemon.code(&late), "1000");
    assert_eq!(flags(&site.only(&late.get("contractNumber"))), ["late"]);
    browser.go(&format!("/close?day={today}")).await;
    assert!(browser.text().await.contains("7,800.00"), "as it was closed");
    // Nothing of it waits for a script, a font or anybody else.
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
    daemon.stop();
    assert_eq!(site.verify().code, Some(0));
}

#[tokio::test]
async fn a_viewer_and_a_form_with_a_wrong_token_are_refused() {
    let upstream = Upstream::start(|_| Reply::code(-1026));
    let branch = Branch::of_upstream(&upstream).started();
    for (user, role) in [("ana", "manager"), ("ben", "viewer")] {
        add(&branch.site, user, role);
    }
    assert_eq!(branch.daemon().code(&Confirmation::fresh()), "1000");
    branch.await_empty_outbox();
    let browser = Browser::open(branch.daemon()).await;
    browser.log_in("ben", PASSWORD).await;
    browser.follow("Waiting").await;
    assert!(browser.client.find(Locator::Css("form.act")).await.is_err(), "no button for him");
    // What he is not shown he can still send.
    let form = "const form = document.forms[0]; form.action = '/waiting'; form.insertAdjacentHTML(
        'beforeend', '<input name=\"which\" value=\"all\">'); form.querySelector('button').click()";
    browser.leave_by(form).await;
    let text = browser.text().await;
    assert!(text.contains("Your account may look, and not act."), "{text}");
    browser.click("form.out button").await;

    browser.log_in("ana", PASSWORD).await;
    browser.follow("Waiting").await;
    let forge = "document.querySelector('form.act input[name=token]').value = '0'.repeat(64)";
    browser.run(forge).await;
    browser.click("form.act button").await;
    let text = browser.text().await;
    assert!(text.contains("This form is not valid any more."), "{text}");
    assert_eq!(upstream.got().len(), 1, "nothing was sent again");
    browser.close().await;
}

#[tokio::test]
async fn the_keyboard_alone_is_enough() {
    let site = Setup::live().prepare();
    add(&site, "ana", "manager");
    let daemon = site.start();
    let confirmation = Confirmation::fresh();
    assert_eq!(daemon.code(&confirmation), "1000");
    let browser = Browser::open(&daemon).await;
    browser.go("/").await;
    // The first stop of a page leads past what all pages have.
    press(&browser, &[Key::Tab.into(), Key::Tab.into()]).await;
    write(&browser, "ana").await;
    press(&browser, &[Key::Tab.into()]).await;
    write(&browser, PASSWORD).await;
    press(&browser, &[Key::Enter.into()]).await;
    browser.client.wait().for_element(Locator::Css(".big")).await.expect("what was taken");
    for _ in 0..3 {
        press(&browser, &[Key::Tab.into()]).await;
    }
    press(&browser, &[Key::Enter.into()]).await;
    let field = browser.client.wait().for_element(Locator::Css("#q")).await.expect("the box");
    while browser.client.active_element().await.expect("a focus").attr("id").await.expect("an id")
        != Some("q".to_owned())
    {
        press(&browser, &[Key::Tab.into()]).await;
    }
    write(&browser, &confirmation.get("contractNumber")).await;
    assert_eq!(field.prop("value").await.unwrap(), Some(confirmation.get("contractNumber")));
    press(&browser, &[Key::Enter.into()]).await;
    let found = confirmation.get("contractNumber");
    browser.client.wait().for_element(Locator::LinkText(&found)).await.expect("it is found");
    browser.close().await;
}

async fn press(browser: &Browser, keys: &[char]) {
    use actions::{InputSource as _, KeyAction, KeyActions};
    let mut pressed = KeyActions::new("keyboard".to_owned());
    for key in keys {
        pressed = pressed.then(KeyAction::Down { value: *key });
        pressed = pressed.then(KeyAction::Up { value: *key });
    }
    browser.client.perform_actions(pressed).await.expect("keys");
}

async fn write(browser: &Browser, text: &str) {
    press(browser, &text.chars().collect::<Vec<char>>()).await;
}
