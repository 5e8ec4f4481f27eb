//! Whatever head office, or whoever answers in its place, says to a confirmation: what the branch
//! makes of it, and that nothing it says makes a confirmation be lost, doubled or sent elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::fleet::{
    Branch, MANILA, Office, Way, assert_same_books, assert_verified, database, number,
};
use crate::support::upstream::{Got, Reply, Upstream, reply_body};
use crate::support::{Confirmation, Setup};

/// What becomes of a row after one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It was tried in vain, with this verdict, and delivered soon after.
    Again(&'static str),
    /// It stays, to be tried minutes later.
    Later,
    Parked,
    Delivered,
}

use Then::{Again, Delivered, Later, Parked};

/// The first answer, what becomes of the row, and what is said of the answer.
fn answers() -> Vec<(&'static str, Reply, Then, &'static str)> {
    let ok = |body: &str| Reply::http("200 OK", "Content-Type: application/json\r\n", body);
    let status = |status: &str| Reply::http(status, "", "");
    let with_body = |status: &str, code| Reply::http(status, "", &reply_body(code));
    let comma = "{\"responseTime\":\"2022-10-10 10:10:10.1010\",\"responseCode\":\"1000\",\
                 \"responseDescription\":\"Success\",}";
    vec![
        ("1000", Reply::code(1000), Delivered, ""),
        ("1000 as number", ok("{\"responseCode\":1000}"), Delivered, ""),
        ("trailing comma of seed 004", ok(comma), Delivered, ""),
        ("1000 with 201", with_body("201 Created", 1000), Delivered, ""),
        ("-1015", Reply::code(-1015), Delivered, ""),
        ("-1026", Reply::code(-1026), Parked, "-1026 as programmed"),
        ("-1009", Reply::code(-1009), Again("unknown"), "-1009 as programmed"),
        ("-9999", Reply::code(-9999), Again("unknown"), "-9999 as programmed"),
        ("-1001", Reply::code(-1001), Again("misconfigured"), "are user_name, key, branch"),
        ("-1032", Reply::code(-1032), Again("misconfigured"), "does not know our address"),
        ("2001", Reply::code(2001), Later, "2001 as programmed"),
        ("2002", Reply::code(2002), Later, "2002"),
        ("2003", Reply::code(2003), Later, "2003"),
        ("2004", Reply::code(2004), Later, "2004"),
        ("2005", Reply::code(2005), Later, "2005"),
        ("2006", Reply::code(2006), Later, "2006"),
        ("2999", Reply::code(2999), Later, "2999"),
        ("0", Reply::code(0), Later, "0 as programmed"),
        ("-1010", Reply::code(-1010), Later, "-1010"),
        ("1001", Reply::code(1001), Later, "1001"),
        ("400 around 1000", with_body("400 Bad Request", 1000), Later, "HTTP 400: 1000"),
        ("422", status("422 Unprocessable"), Later, "HTTP 422"),
        ("401", status("401 Unauthorized"), Again("misconfigured"), "HTTP 401"),
        ("404", status("404 Not Found"), Again("misconfigured"), "is the url right?"),
        ("500", status("500 Oh"), Again("unknown"), "HTTP 500"),
        ("503 around 1000", with_body("503 Busy", 1000), Again("unknown"), "HTTP 503: 1000"),
        ("429", status("429 Slower"), Again("unknown"), "HTTP 429"),
        ("web page", ok("<!DOCTYPE html><html>Log in</html>"), Again("unknown"), "login page"),
        ("nothing", ok(""), Again("unknown"), "empty"),
        ("no object", ok("[1000]"), Again("unknown"), ""),
        ("no code", ok("{\"responseDescription\":\"Success\"}"), Again("unknown"), ""),
        ("two commas", ok("{\"responseCode\":1000,,}"), Again("unknown"), ""),
        (
            "endless body",
            Reply::Endless("HTTP/1.1 200 OK\r\n\r\n{".to_owned()),
            Again("unknown"),
            "longer than 64 KiB",
        ),
        (
            "endless head",
            Reply::Endless("HTTP/1.1 200 OK\r\nX: y".to_owned()),
            Again("unknown"),
            "head is too long",
        ),
        (
            "stalled",
            Reply::Stalled("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{".to_owned()),
            Again("unknown"),
            "no answer within",
        ),
        ("no HTTP", Reply::ThenClosed("220 mail\r\n\r\n".to_owned()), Again("unknown"), "not HTTP"),
    ]
}

/// Gives this answer once, and takes everything after that.
fn first_then_1000(reply: Reply) -> Upstream {
    let is_first = AtomicBool::new(true);
    Upstream::start(move |_| {
        if is_first.swap(false, Ordering::Relaxed) { reply.clone() } else { Reply::code(1000) }
    })
}

#[test]
fn each_answer_means_what_the_table_says_and_its_reason_is_kept() {
    thread::scope(|scope| {
        let mut cases: Vec<Vec<_>> = (0..4).map(|_| Vec::new()).collect();
        for (i, case) in answers().into_iter().enumerate() {
            cases[i % 4].push(case);
        }
        for cases in cases {
            scope.spawn(|| {
                for (name, reply, then, reason) in cases {
                    println!("{name}");
                    hold_to(name, reply, then, reason);
                }
            });
        }
    });
}

fn hold_to(name: &str, reply: Reply, then: Then, reason: &str) {
    let upstream = first_then_1000(reply);
    let way = Way::to(upstream.address(), upstream.certificate()).and("timeout = \"2 s\"");
    let branch = Branch::with(MANILA, &Setup::live(), &way).started();
    let contract = branch.collect(1)[0].get("contractNumber");
    match then {
        Later => branch.await_count("SELECT count(*) FROM attempt", |count| count == 1),
        _ => branch.await_empty_outbox(),
    }
    let story = branch.story(&contract);
    let attempt = &story["attempts"][0];
    let delivery = &story["deliveries"][0];
    let (state, tries, verdict, said) = match then {
        Again(verdict) => ("delivered", 2, verdict, &attempt["reason"]),
        Later => ("queued", 1, "refused", &attempt["reason"]),
        Parked => ("parked", 1, "settled", &delivery["reason"]),
        Delivered => ("delivered", 1, "", &delivery["reason"]),
    };
    let told = format!("{name}: {story}");
    assert_eq!(story["head_office"], state, "{told}");
    assert_eq!(upstream.got().len(), tries, "{told}");
    assert!(said.as_str().is_some_and(|said| said.contains(reason)), "{told}");
    match then {
        Again(_) | Later => assert_eq!(attempt["verdict"], verdict, "{told}"),
        Parked => assert_eq!(delivery["fate"], verdict, "{told}"),
        Delivered => assert_eq!(story["attempts"], Value::Array(Vec::new()), "{told}"),
    }
    assert_verified(&branch.site);
}

#[test]
fn what_is_there_although_it_was_never_sent_is_flagged_and_what_was_sent_before_is_not() {
    let known = Mutex::new(BTreeSet::new());
    let upstream = Upstream::start(move |got| {
        let is_first = known.lock().unwrap().insert(got.contract());
        if is_first && got.field("amount") == "1.00" {
            return Reply::code(-1009);
        }
        Reply::code(-1015)
    });
    let branch = Branch::of_upstream(&upstream).started();
    for (amount, already_there) in [("1.00", false), ("2.00", true)] {
        let confirmation = Confirmation::fresh().by_till().with("amount", amount);
        assert_eq!(branch.daemon().code(&confirmation), "1000");
        branch.await_empty_outbox();
        let story = branch.story(&confirmation.get("contractNumber"));
        assert_eq!(story["deliveries"][0]["already_there"], already_there, "{story}");
    }
}

#[test]
fn a_redirect_is_never_followed() {
    let elsewhere = Upstream::start(|_| Reply::code(1000));
    let to = elsewhere.address();
    for status in ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"] {
        let location = format!("Location: https://{to}/collectionCollect\r\n");
        let upstream = first_then_1000(Reply::http(status, &location, &reply_body(1000)));
        let branch = Branch::of_upstream(&upstream).started();
        let contract = branch.collect(1)[0].get("contractNumber");
        branch.await_empty_outbox();
        let story = branch.story(&contract);
        let reason = story["attempts"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("sends us elsewhere"), "{status}: {reason}");
    }
    assert!(elsewhere.got().is_empty());
}

#[test]
fn retry_after_is_waited_for_in_seconds_and_to_a_date_and_not_much_longer() {
    let in_seconds = "Retry-After: 3\r\n";
    let to_a_date = "Date: Sun, 06 Nov 1994 08:49:34 GMT\r\n\
                     Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    for status in ["503 Busy", "500 Oh", "429 Slower"] {
        for headers in [in_seconds, to_a_date] {
            let upstream = first_then_1000(Reply::http(status, headers, "busy"));
            let branch = Branch::of_upstream(&upstream).started();
            branch.collect(1);
            let got = upstream.await_requests(2);
            let waited = got[1].at - got[0].at;
            assert!(waited >= Duration::from_secs(3), "{status} {headers}: {waited:?}");
            branch.await_empty_outbox();
        }
    }
}

/// Contracts that have come, and after how many bytes the first reply to some of them was cut.
#[derive(Default)]
struct Cut {
    seen: BTreeSet<String>,
    places: BTreeMap<String, usize>,
}

/// The reply is lost after head office has committed: at every byte of it.
#[test]
fn a_reply_that_breaks_off_at_any_byte_ends_in_one_delivery_that_is_known_as_ours() {
    let office = Office::open();
    // The first try of every second row is cut, each at the next byte.
    let cut: Arc<Mutex<Cut>> = Arc::default();
    let length = Arc::new(Mutex::new(0));
    let (noted, measured) = (Arc::clone(&cut), Arc::clone(&length));
    let upstream = Upstream::before(office.daemon(), move |got: &Got, pass| {
        let reply = pass();
        let Reply::Whole(text) = &reply else { panic!("{reply:?}") };
        let Cut { seen, places: cut } = &mut *noted.lock().unwrap();
        let is_first = seen.insert(got.contract());
        let place = cut.len();
        if is_first {
            // Head office counts up, so a later reply may have a digit more.
            *measured.lock().unwrap() = text.len();
        }
        if !is_first || seen.len().is_multiple_of(2) || place >= text.len() {
            return reply;
        }
        cut.insert(got.contract(), place);
        reply.cut_after(place)
    });
    let way = Way::to(upstream.address(), upstream.certificate()).and("concurrency = 4");
    let branch = Branch::with(MANILA, &Setup::live(), &way).started();
    branch.collect(1);
    branch.await_empty_outbox();
    let length = *length.lock().unwrap();
    assert!(length > 100, "no reply is so short");
    branch.collect(2 * length + 20);
    assert_same_books(&office.site, &[&branch]);
    let cut = &cut.lock().unwrap().places;
    assert!(cut.len() >= length, "{} of {length} places were tried", cut.len());
    let sql = "SELECT contract, code, already_there,
                   (SELECT count(*) FROM attempt WHERE attempt.sequence = collection.sequence)
               FROM collection JOIN delivery USING (sequence)";
    let database = database(&branch.site);
    let mut statement = database.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let contract: String = row.get(0).unwrap();
        let found: (i32, bool, i64) =
            (row.get(1).unwrap(), row.get(2).unwrap(), row.get(3).unwrap());
        let place = cut.get(&contract);
        let expected = if place.is_some() { (-1015, false, 1) } else { (1000, false, 0) };
        assert_eq!(found, expected, "{contract}, cut at {place:?}");
    }
}

/// One row that always fails, in whatever way, holds back neither its neighbours nor the link.
#[test]
fn a_poison_row_in_front_holds_back_nobody() {
    for poison in [
        Reply::http("500 Oh", "", ""),
        Reply::code(2003),
        Reply::ThenClosed(String::new()),
        Reply::code(-1026),
        Reply::http("404 Not Found", "", ""),
    ] {
        let office = Office::open();
        let is_healed = Arc::new(AtomicBool::new(false));
        let (healed, answer) = (Arc::clone(&is_healed), poison.clone());
        let upstream = Upstream::before(office.daemon(), move |got, pass| {
            let is_bad = got.field("amount") == "6.66" && !healed.load(Ordering::Relaxed);
            if is_bad { answer.clone() } else { pass() }
        });
        let branch = Branch::of_upstream(&upstream).started();
        let bad = Confirmation::fresh().by_till().with("amount", "6.66");
        assert_eq!(branch.daemon().code(&bad), "1000");
        upstream.await_requests(1);
        branch.collect(60);
        let delivered = "SELECT count(*) FROM delivery WHERE fate = 'delivered'";
        branch.await_count(delivered, |count| count == 60);
        assert_eq!(office.site.all().len(), 60, "{poison:?}");
        let story = branch.story(&bad.get("contractNumber"));
        assert_ne!(story["head_office"], "delivered", "{poison:?}");
        is_healed.store(true, Ordering::Relaxed);
        if matches!(&poison, Reply::Whole(text) if text.contains("2003") || text.contains("-1026"))
        {
            // Minutes later, or when a person says so.
            continue;
        }
        assert_same_books(&office.site, &[&branch]);
    }
}

#[test]
fn a_head_office_that_refuses_everything_pauses_the_lane_and_nothing_is_parked() {
    let office = Office::open();
    let is_healed = Arc::new(AtomicBool::new(false));
    let healed = Arc::clone(&is_healed);
    let upstream = Upstream::before(office.daemon(), move |_, pass| {
        if healed.load(Ordering::Relaxed) { pass() } else { Reply::code(2003) }
    });
    let branch = Branch::of_upstream(&upstream).started();
    branch.collect(60);
    let line = branch.daemon().await_line("head office takes nothing from here");
    assert!(line.contains("it refuses everything: 2003"), "{line}");
    let tries = upstream.got().len();
    assert!((20..40).contains(&tries), "{tries} tries");
    assert_eq!(number(&branch.site, "SELECT count(*) FROM parked"), 0);
    is_healed.store(true, Ordering::Relaxed);
    assert_same_books(&office.site, &[&branch]);
}

/// Head office books what comes first as the payment and flags what comes later.
#[test]
fn a_later_receipt_of_a_contract_waits_for_an_earlier_one_and_for_no_other() {
    let known = Mutex::new(BTreeSet::new());
    let upstream = Upstream::start(move |got| {
        let is_first = known.lock().unwrap().insert(got.field("receiptNumber"));
        let is_slow = got.field("payChannel") == "6";
        Reply::code(if is_first && is_slow { -1009 } else { 1000 })
    });
    let way = Way::to(upstream.address(), upstream.certificate());
    let branch = Branch::with(MANILA, &Setup::installments(), &way).started();
    let first = Confirmation::fresh().by_till().with("payChannel", "6");
    for receipt in ["A", "B", "C"] {
        let confirmation = first.clone().with("receiptNumber", receipt);
        assert_eq!(branch.daemon().code(&confirmation), "1000");
    }
    let other = branch.collect(1).remove(0).get("contractNumber");
    branch.await_empty_outbox();
    let got = upstream.got();
    let contract = first.get("contractNumber");
    let of_contract = got.iter().filter(|got| got.contract() == contract);
    let order: String = of_contract.map(|got| got.field("receiptNumber")).collect();
    assert_eq!(order, "AABBCC");
    let place = got.iter().position(|got| got.contract() == other).unwrap();
    assert!(place < got.len() - 2, "it waited for another contract's rows");
}

#[test]
fn what_head_office_calls_paid_otherwise_is_counted_before_it_is_deleted() {
    let upstream = Upstream::start(|_| Reply::code(-1026));
    let mut branch = Branch::of_upstream(&upstream).started();
    branch.collect(1);
    branch.await_count("SELECT count(*) FROM parked", |count| count == 1);
    branch.stop();
    let undelivered = branch.site.state_dir().join("undelivered");
    assert_eq!(fs::read_to_string(undelivered).unwrap(), "1\n");
}
