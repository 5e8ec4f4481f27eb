//! What every page looks like at three widths, and that nobody is kept out: pictures for a person,
//! axe-core for what a machine can see.

use chrono::TimeDelta;
use fantoccini::Locator;

use crate::browser::Browser;
use crate::day::{PASSWORD, add};
use crate::support::clock::Clock;
use crate::support::fleet::{Branch, Way, relay};
use crate::support::upstream::{Reply, Upstream};
use crate::support::{Confirmation, Setup, wire_time};

/// A phone, an old screen, and a wide one.
const WIDTHS: [u32; 3] = [360, 1024, 1440];

/// The pages, and what their pictures are called.
const PAGES: [(&str, &str); 9] = [
    ("today", "/"),
    ("find", "/find?q=3900"),
    ("story", "/collections/2"),
    ("waiting", "/waiting"),
    ("refusals", "/refusals"),
    ("close", "/close"),
    ("branches", "/branches"),
    ("health", "/health"),
    ("nowhere", "/collections/4711"),
];

#[tokio::test]
async fn every_page_can_be_used_by_everybody_and_fits_its_width() {
    // Settles one, refuses another for now, and does not take the rest.
    let upstream = Upstream::start(|got| match got.field("receiptNumber").as_str() {
        "PARKED" => Reply::code(-1026),
        "DELIVERED" => Reply::code(1000),
        _ => Reply::code(-1009),
    });
    let way = Way::to(upstream.address(), upstream.certificate());
    let mut branch = Branch::with("MNL-042", &Setup::live().caller(relay("CEB-007")), &way);
    add(&branch.site, "ana.reyes", "manager");
    let clock = Clock::of(&branch.site);
    branch.start_by(clock.wrapper());
    let daemon = branch.daemon();
    let browser = Browser::open(daemon).await;
    browser.go("/login").await;
    look(&browser, "login").await;
    let channels = ["10", "6", "41", "11", "99"];
    let receipts = ["DELIVERED", "PARKED", "B6C13B76E4BF", "B6C13B76E4C0", "B6C13B76E4C1"];
    for (week, earlier) in [(TimeDelta::weeks(-1), 1), (TimeDelta::zero(), 0)] {
        clock.set(week);
        for (n, (channel, receipt)) in channels.into_iter().zip(receipts).enumerate() {
            let amount = format!("{}.00", 3900 * (1 + (3 * earlier + n) % 5));
            let day = &wire_time(week)[..10];
            let confirmation = Confirmation::fresh()
                .with("payChannel", channel)
                .with("receiptNumber", receipt)
                .with("collectedTime", format!("{day} {:02}:15:00", 8 + 2 * n + earlier))
                .with("amount", amount);
            assert_eq!(daemon.code(&confirmation), "1000");
        }
    }
    let refused = Confirmation::fresh().with("amount", "-5 <b>pesos</b>");
    assert_ne!(daemon.code(&refused), "1000");
    branch.await_count("SELECT count(*) FROM delivery", |count| count == 4);
    branch.await_count("SELECT count(*) FROM attempt", |count| count > 0);
    browser.log_in("ana.reyes", PASSWORD).await;
    browser.client.wait().for_element(Locator::Css(".big")).await.expect("what was taken");
    assert_eq!(browser.complaints().await, [""; 0]);
    for (name, path) in PAGES {
        browser.go(path).await;
        look(&browser, name).await;
    }
    browser.close().await;
}

/// Looks at one page at every width.
async fn look(browser: &Browser, name: &str) {
    for width in WIDTHS {
        browser.screenshot(name, width).await;
        let barriers = browser.barriers().await;
        assert_eq!(barriers, [""; 0], "{name} at {width}");
        let beyond = "return document.documentElement.scrollWidth - window.innerWidth";
        let beyond = browser.run(beyond).await.as_i64();
        assert!(beyond <= Some(0), "{name} at {width} is {beyond:?} pixels wider than its window");
    }
}
