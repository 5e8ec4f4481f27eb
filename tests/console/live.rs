//! Pages that keep themselves up to date: what comes is seen by who only looks, and nothing changes
//! under who does something, nor for whom the session is over.

use fantoccini::Locator;

use crate::browser::Browser;
use crate::day::{PASSWORD, add};
use crate::support::fleet::Branch;
use crate::support::upstream::{Reply, Upstream};
use crate::support::{Confirmation, Setup};

/// How often the page has asked for itself.
const LOOKS: &str = "performance.getEntriesByType('resource').filter(
    one => one.initiatorType === 'fetch').length";

#[tokio::test]
async fn a_collection_appears_on_today_without_anybody_touching_the_page() {
    let site = Setup::live().prepare();
    add(&site, "ana", "manager");
    let daemon = site.start();
    let browser = Browser::open(&daemon).await;
    browser.log_in("ana", PASSWORD).await;
    assert!(browser.text().await.contains("Nothing was taken yet."));
    let as_of = browser.run("return document.getElementById('as-of').textContent").await;
    browser.run("window.stays = 'the same page'").await;
    let confirmation = Confirmation::fresh().with("amount", "1234.50");
    assert_eq!(daemon.code(&confirmation), "1000");
    let taken = Locator::XPath("//p[@class='big'][contains(., '1,234.50')]");
    browser.client.wait().for_element(taken).await.expect("it appears");
    assert!(browser.text().await.contains("1 collection, "));
    let later = browser.run("return document.getElementById('as-of').textContent").await;
    assert!(later.as_str() > as_of.as_str(), "{as_of}, then {later}");
    assert_eq!(browser.run("return window.stays").await, "the same page");
    assert_eq!(browser.complaints().await, [""; 0]);

    // A daemon that is gone is told of, and what was seen of it stays.
    daemon.stop();
    browser.until("!document.getElementById('silent').hidden").await;
    let text = browser.text().await;
    assert!(text.contains("may be old") && text.contains("1,234.50"), "{text}");
    browser.close().await;
}

#[tokio::test]
async fn nothing_changes_under_a_hand_and_scroll_and_focus_stay() {
    let upstream = Upstream::start(|_| Reply::code(-1026));
    let branch = Branch::of_upstream(&upstream).started();
    add(&branch.site, "ana", "manager");
    let daemon = branch.daemon();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    branch.await_count("SELECT count(*) FROM parked", |count| count == 1);
    let browser = Browser::open(daemon).await;
    browser.log_in("ana", PASSWORD).await;
    browser.follow("Waiting").await;
    let first = "document.querySelector('button[value=\"collection:1\"]')";
    let second = Locator::Css("button[value='collection:2']");
    browser.run("getSelection().selectAllChildren(document.querySelector('#live h2'))").await;
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    branch.await_count("SELECT count(*) FROM parked", |count| count == 2);
    let looks = browser.run(&format!("return {LOOKS}")).await;
    browser.until(&format!("{LOOKS} > {looks} + 1")).await;
    assert!(browser.client.find(second).await.is_err(), "it came under a hand");
    browser.run("getSelection().removeAllRanges()").await;
    browser.run(&format!("document.body.style = 'padding-bottom: 5000px'; {first}.focus()")).await;
    browser.run("scrollTo(0, 333)").await;
    browser.client.wait().for_element(second).await.expect("it appears");
    let place = browser.run(&format!("return [scrollY, document.activeElement === {first}]")).await;
    assert_eq!(place, serde_json::json!([333, true]));
    browser.close().await;
}

#[tokio::test]
async fn a_page_whose_session_is_over_says_so_and_the_next_click_leads_to_the_login() {
    let site = Setup::live().prepare();
    add(&site, "ana", "manager");
    let daemon = site.start();
    let browser = Browser::open(&daemon).await;
    browser.log_in("ana", PASSWORD).await;
    browser.follow("Waiting").await;
    assert!(site.tilld(&["user", "drop", "ana"]).status.success());
    browser.until("!document.getElementById('ended').hidden").await;
    let text = browser.text().await;
    assert!(text.contains("You are logged out") && text.contains("Nothing is parked."), "{text}");
    assert_eq!(browser.path().await, "/waiting");
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.follow("Today").await;
    assert_eq!(browser.path().await, "/login");
    browser.close().await;
}
