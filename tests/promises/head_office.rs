//! The good way to head office: what a branch confirms arrives there once, under the branch's name
//! and numbers; and what head office sees that no branch can see.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tilld::domain::provenance::Digest;

use crate::support::fleet::{
    BRANCHES, Branch, CEBU, MANILA, Office, Way, assert_same_books, assert_verified, database,
    number, office_setup, relay, story,
};
use crate::support::site::flags;
use crate::support::upstream::{Reply, Upstream};
use crate::support::wan::Line;
use crate::support::{Confirmation, Setup, authority, cipher};

/// What a site's database calls its life.
fn epoch(branch: &Branch) -> String {
    database(&branch.site)
        .query_row("SELECT epoch FROM birth ORDER BY line DESC", [], |row| row.get(0))
        .unwrap()
}

/// Up to which number head office has everything of this epoch.
fn have(office: &Office, epoch: &str) -> i64 {
    let sql = format!("SELECT last FROM relayed WHERE epoch = '{epoch}' AND first = 1");
    number(&office.site, &sql)
}

#[test]
fn what_branches_confirm_is_at_head_office_under_their_names_and_numbers() {
    let office = Office::open();
    let branches = BRANCHES.map(|name| Branch::of(&office, name).started());
    for branch in &branches {
        branch.collect(50);
    }
    assert_same_books(&office.site, &[&branches[0], &branches[1]]);
    for branch in &branches {
        assert_eq!(have(&office, &epoch(branch)), 50, "{}", branch.name);
        branch.await_count("SELECT have FROM store", |have| have == 50);
        let places: BTreeSet<String> = database(&office.site)
            .prepare("SELECT origin FROM collection WHERE branch = ?1")
            .unwrap()
            .query_map([branch.name], |row| row.get(0))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        let epoch = epoch(branch);
        assert_eq!(places, (1..=50).map(|number| format!("{epoch}-{number}")).collect());
    }
}

#[test]
fn each_confirmation_is_one_post_with_its_number_its_tape_line_and_the_same_bytes_again() {
    // Unknown at first, so that each comes twice.
    let known = Mutex::new(BTreeSet::new());
    let upstream = Upstream::start(move |got| {
        let is_first = known.lock().unwrap().insert(got.contract());
        Reply::code(if is_first { -1009 } else { 1000 })
    });
    let branch = Branch::of_upstream(&upstream).started();
    let confirmations = branch.collect(4);
    branch.await_empty_outbox();
    let (got, epoch) = (upstream.got(), epoch(&branch));
    assert_eq!(got.len(), 8);
    for (i, confirmation) in confirmations.iter().enumerate() {
        let contract = confirmation.get("contractNumber");
        let mut tries = got.iter().filter(|got| got.contract() == contract);
        let (one, two) = (tries.next().unwrap(), tries.next().unwrap());
        assert_eq!((&one.headers, &one.body), (&two.headers, &two.body));
        assert_eq!(one.header("tilld-branch"), Some(MANILA));
        assert_eq!(one.header("tilld-sequence"), Some(&*format!("{epoch}-{}", i + 1)));
        let (line, digest) = one.header("tilld-tape").unwrap().split_once('-').unwrap();
        assert!(line.parse::<i64>().unwrap() > 0 && digest.len() == 64);
        let identity = format!("{contract}\n{}", confirmation.get("receiptNumber"));
        let key = Digest(Sha256::digest(identity).into()).to_string();
        assert_eq!(one.header("idempotency-key"), Some(&*key));
        let sent: Value = serde_json::from_str(&one.body).unwrap();
        let sent = sent.as_object().unwrap();
        assert!(sent.values().all(Value::is_string), "{sent:?}");
        assert_eq!(sent.keys().collect::<Vec<_>>(), FIELDS);
        for name in ["amount", "phone", "receiptNumber", "collectedTime", "payChannel"] {
            assert_eq!(sent[name], confirmation.get(name));
        }
        assert_ne!(sent["userName"], confirmation.get("userName"), "the till's own name");
    }
}

/// In published order.
const FIELDS: [&str; 9] = [
    "userName",
    "action",
    "authentication",
    "contractNumber",
    "amount",
    "phone",
    "receiptNumber",
    "collectedTime",
    "payChannel",
];

#[test]
fn it_may_be_encrypted_and_then_nothing_of_it_is_plain() {
    const PASSWORD: &str = "between-branch-and-office";
    let setup = Setup::live().caller(relay(MANILA).passwords(&[PASSWORD]));
    let setup = setup.caller(relay(CEBU));
    let office = Office::open_as(&setup);
    let upstream = Upstream::before(office.daemon(), |_, pass| pass());
    let with_password = |way: Way| {
        let mut branch = Branch::with(MANILA, &Setup::live(), &way);
        let file = branch.site.secret("upstream.password", &[PASSWORD.to_owned()]);
        branch.configure(&Setup::live(), &way.and(&format!("encryption_file = {file:?}")));
        branch.start();
        branch
    };
    let branch = with_password(Way::to(upstream.address(), upstream.certificate()));
    let confirmations = branch.collect(5);
    assert_same_books(&office.site, &[&branch]);
    for got in upstream.got() {
        let opened = cipher::decrypt(PASSWORD, &got.body).expect("what the password opens");
        let plain: Value = serde_json::from_str(&opened).unwrap();
        let contract = plain["contractNumber"].as_str().unwrap();
        assert!(confirmations.iter().any(|one| one.get("contractNumber") == contract));
    }
    assert_eq!(upstream.got().len(), 5);
}

#[test]
fn a_head_office_that_asks_for_a_certificate_is_shown_it() {
    let (ca, issuer) = authority();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["mnl-042".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();

    let extra = "[endpoint.tls]\nclient_ca = \"ca.pem\"".to_owned();
    let site = Setup { extra, ..office_setup() }.prepare();
    fs::write(site.path().join("ca.pem"), &ca).unwrap();
    let office = Office::of_site(site);
    let mut branch = Branch::of(&office, MANILA).started();
    branch.collect(6);
    branch.daemon().await_line("head office cannot be reached");
    // Said in at least one of the tries: the alert may be lost with the connection.
    let told = "SELECT count(*) FROM attempt WHERE reason LIKE '%CertificateRequired%'";
    branch.await_count(told, |count| count > 0);
    assert!(office.site.all().is_empty());
    branch.stop();

    fs::write(branch.site.path().join("own.pem"), certificate).unwrap();
    branch.site.secret("own.key", &[key.serialize_pem()]);
    let way = office.way().and("client_certificate = \"own.pem\"\nclient_key = \"own.key\"");
    branch.configure(&Setup::live(), &way);
    branch.start();
    assert_same_books(&office.site, &[&branch]);
    for row in office.site.all() {
        let told = story(&office.site, row["contract"].as_str().unwrap());
        assert!(told["client_certificate"].is_string(), "{told}");
    }
}

/// Branch, hub and head office: three daemons, two hops.
#[test]
fn a_hub_passes_on_what_its_branches_passed_to_it_as_a_branch_of_its_own() {
    let office = Office::open();
    let hub = Branch::with(MANILA, &Setup::live().caller(relay(CEBU)), &office.way());
    let hub_office = Office::of_site(hub.site);
    let branch = Branch::of(&hub_office, CEBU).started();
    branch.collect(20);
    for number in 0..5 {
        let at_the_counter = Confirmation::fresh().by_till();
        assert_eq!(hub_office.daemon().code(&at_the_counter), "1000", "{number}");
    }
    assert_same_books(&hub_office.site, &[&branch]);
    assert_same_books(&office.site, &[&hub_office.into_branch(MANILA)]);
    assert_eq!(office.site.all().len(), 25);
    assert_eq!(number(&office.site, "SELECT count(DISTINCT branch) FROM collection"), 1);
}

#[test]
fn without_a_head_office_rows_are_kept_and_sent_when_one_is_configured() {
    let office = Office::open();
    let mut branch = Branch::of(&office, MANILA);
    branch.site.configure(&Setup::live());
    branch.start();
    branch.collect(10);
    let log = branch.stop();
    assert!(!log.contains("head office"), "{log}");
    assert!(office.site.all().is_empty());
    branch.configure(&Setup::live(), &office.way());
    branch.start();
    assert_same_books(&office.site, &[&branch]);
    assert_eq!(office.site.all().len(), 10);
}

#[test]
fn a_sandbox_sends_nothing() {
    let office = Office::open();
    let mut branch = Branch::with(MANILA, &Setup::sandbox(), &office.way());
    branch.start();
    branch.collect(3);
    let log = branch.stop();
    assert!(log.contains("sandbox"), "{log}");
    assert_eq!(office.wan.calls(), 0);
    assert!(office.site.all().is_empty());
}

/// Each answered 1000 with the cash in its drawer, so head office must have both.
#[test]
fn two_offline_branches_that_collect_the_same_contract_show_as_overpaid_at_head_office() {
    let office = Office::open();
    office.wan.set(Line::Cut);
    let branches = BRANCHES.map(|name| Branch::of(&office, name).started());
    let paid = Confirmation::fresh().by_till();
    for branch in &branches {
        let receipt = format!("R-{}", branch.name);
        let here = paid.clone().with("receiptNumber", receipt).with("amount", "100.00");
        assert_eq!(branch.daemon().code(&here), "1000");
        assert_eq!(branch.daemon().code(&here.with("receiptNumber", "another")), "-1026");
    }
    office.wan.set(Line::Up);
    assert_same_books(&office.site, &[&branches[0], &branches[1]]);
    let rows = office.site.list(&["--contract", &paid.get("contractNumber")]);
    let flagged: Vec<_> = rows.iter().filter(|row| flags(row).contains(&"overpaid")).collect();
    assert_eq!((rows.len(), flagged.len()), (2, 1), "{rows:?}");
    assert!(flags(flagged[0]).contains(&"possible-double"), "{flagged:?}");
    assert_eq!(number(&office.site, "SELECT sum(overpaid) FROM relay"), 1);
}

/// SkyPay's servers reach head office, the till reaches the branch: one payment, told twice.
#[test]
fn what_a_branch_and_skypay_both_report_is_flagged_and_both_stand() {
    let office = Office::open();
    let branch = Branch::of(&office, MANILA).started();
    let confirmation = branch.collect(1).remove(0);
    branch.await_empty_outbox();
    let by_skypay = Confirmation::fresh();
    let same = by_skypay.with("contractNumber", confirmation.get("contractNumber"));
    assert_eq!(office.daemon().code(&same), "-1026", "the contract is paid");
    let early = Confirmation::fresh();
    assert_eq!(office.daemon().code(&early), "1000");
    let late = early.by_till().with("receiptNumber", "of the till");
    assert_eq!(branch.daemon().code(&late), "1000");
    branch.await_empty_outbox();
    let rows = office.site.list(&["--flag", "possible-double"]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0]["branch"], &rows[0]["receipt"]), (&MANILA.into(), &"of the till".into()));
    assert_verified(&office.site);
}
