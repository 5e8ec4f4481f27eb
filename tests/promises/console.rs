//! The web console without a browser: who gets in, what every page has, what a form must bring, and
//! that nobody's text becomes more than text. What it looks like is tested in `tests/console`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::support::fleet::Branch;
use crate::support::upstream::{Reply, Upstream};
use crate::support::{Confirmation, Daemon, Setup, Site, Till, eventually};

const PASSWORD: &str = "four words are long";

/// What keeps a page up to date.
const LIVE: &str =
    concat!("<script src=\"/live.js?", env!("CARGO_PKG_VERSION"), "\" defer></script>");

/// A browser without a window: keeps cookies, and knows what it was answered last.
struct Browser {
    address: SocketAddr,
    cookies: Vec<(String, String)>,
    /// Head and body.
    page: String,
}

impl Browser {
    fn new(daemon: &Daemon) -> Browser {
        Browser { address: daemon.operator(), cookies: Vec::new(), page: String::new() }
    }

    /// A browser that is logged in.
    fn of(daemon: &Daemon, user: &str) -> Browser {
        let mut browser = Browser::new(daemon);
        assert_eq!(browser.log_in(user, PASSWORD), 303, "{}", browser.page);
        browser
    }

    fn get(&mut self, path: &str) -> u16 {
        self.ask("GET", path, "", "")
    }

    /// Sends a form of the page that it shows, with its token.
    fn post(&mut self, path: &str, form: &str) -> u16 {
        let form = format!("token={}&{form}", self.token());
        self.ask("POST", path, "", &form)
    }

    fn log_in(&mut self, user: &str, password: &str) -> u16 {
        assert_eq!(self.get("/login"), 200);
        self.post("/login", &format!("user={user}&password={}", password.replace(' ', "+")))
    }

    fn ask(&mut self, method: &str, path: &str, headers: &str, body: &str) -> u16 {
        let cookies: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nCookie: {}\r\n\
             Content-Length: {}\r\n{headers}\r\n{body}",
            self.address,
            cookies.join("; "),
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.write_all(request.as_bytes()).expect("it takes a request");
        self.page.clear();
        stream.read_to_string(&mut self.page).expect("an answer");
        let set: Vec<(String, String)> = self
            .page
            .lines()
            .filter_map(|line| {
                line.strip_prefix("set-cookie: ")?.split(';').next()?.split_once('=')
            })
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        for (name, value) in set {
            self.cookies.retain(|(known, _)| *known != name);
            self.cookies.extend((!value.is_empty()).then_some((name, value)));
        }
        self.page[9..12].parse().expect("a status")
    }

    fn token(&self) -> String {
        let (_, rest) = self.page.split_once("name=\"token\" value=\"").expect("a form");
        rest.split('"').next().expect("a token").to_owned()
    }

    fn shows(&self, text: &str) -> bool {
        self.page.contains(text)
    }

    /// Whether there is a script on the page besides the one that keeps it up to date.
    fn has_foreign_script(&self) -> bool {
        self.page.replace(LIVE, "").contains("<script")
    }
}

/// A site where ana is manager and ben is viewer.
fn with_people(setup: &Setup) -> Site {
    let site = setup.prepare();
    add(&site, "ana", "manager");
    add(&site, "ben", "viewer");
    site
}

fn add(site: &Site, user: &str, role: &str) {
    let added = site.tilld_reading(&["user", "add", user, "--role", role], PASSWORD);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
}

#[test]
fn without_an_account_the_page_says_how_to_make_one_and_the_change_holds_at_once() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut browser = Browser::new(&daemon);
    assert_eq!(browser.get("/"), 303);
    assert!(browser.shows("location: /login"), "{}", browser.page);
    browser.get("/login");
    assert!(browser.shows("sudo tilld user add NAME --role manager"), "{}", browser.page);
    add(&site, "ana", "manager");
    let mut browser = Browser::of(&daemon, "ana");
    assert_eq!(browser.get("/"), 200);
    assert!(browser.shows("ana, manager"), "{}", browser.page);
    assert!(site.tilld(&["user", "drop", "ana"]).status.success());
    assert_eq!(browser.get("/"), 303, "who was dropped is logged out");
}

#[test]
fn a_short_password_and_an_odd_name_are_refused_and_users_are_listed_without_their_hashes() {
    let site = Setup::live().prepare();
    let add = |name, password| site.tilld_reading(&["user", "add", name], password).status.code();
    assert_eq!(add("ana", "too short"), Some(65));
    assert_eq!(add("ana reyes", PASSWORD), Some(2));
    assert_eq!(add("ana", "two\nlines are one too many"), Some(65));
    assert_eq!(add("ana", PASSWORD), Some(0));
    let listed = site.tilld(&["user", "list", "--output", "csv"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "user,role\nana,viewer\n");
    assert_eq!(site.tilld(&["user", "drop", "ben"]).status.code(), Some(5));
}

#[test]
fn a_wrong_password_an_unknown_user_and_a_wrong_token_let_nobody_in() {
    let site = with_people(&Setup::live());
    let daemon = site.start();
    let mut browser = Browser::new(&daemon);
    for (user, password) in [("ana", "four words are lonG"), ("eva", PASSWORD), ("", "")] {
        assert_eq!(browser.log_in(user, password), 403, "{user}");
        assert!(browser.shows("do not belong together"), "{}", browser.page);
        assert_eq!(browser.get("/"), 303);
    }
    browser.get("/login");
    let form = format!("token={}&user=ana&password={PASSWORD}", "0".repeat(64));
    assert_eq!(browser.ask("POST", "/login", "", &form), 403);
    browser.get("/login");
    let form = format!("token={}&user=ana&password={PASSWORD}", browser.token());
    let cross_site = "Sec-Fetch-Site: cross-site\r\n";
    assert_eq!(browser.ask("POST", "/login", cross_site, &form), 403);
    browser.cookies.clear();
    assert_eq!(browser.ask("POST", "/login", "", &form), 403, "the token's cookie is missing");
    assert_eq!(browser.get("/"), 303);
}

#[test]
fn who_guesses_passwords_must_wait_and_who_knows_one_need_not() {
    let site = with_people(&Setup::live());
    let daemon = site.start();
    for _ in 0..12 {
        Browser::of(&daemon, "ben");
    }
    let mut browser = Browser::new(&daemon);
    let guesses: Vec<u16> = (0..11).map(|_| browser.log_in("ana", "guessed it, did I")).collect();
    assert_eq!(guesses[..10], [403; 10]);
    assert_eq!(guesses[10], 429);
    assert!(browser.shows("Too many wrong passwords. Wait "), "{}", browser.page);
}

#[test]
fn the_memory_that_a_login_takes_is_given_back() {
    let site = with_people(&Setup::live());
    let daemon = site.start();
    let resident_kb = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
        line.split_whitespace().nth(1).expect("a figure").parse().expect("a number")
    };
    let before = resident_kb();
    for _ in 0..4 {
        Browser::of(&daemon, "ana");
    }
    let after = resident_kb();
    assert!(after < before + 10_000, "{before} kB before, {after} kB after, 19 MiB for each login");
}

#[test]
fn every_answer_is_guarded_and_the_cookie_is_for_this_site_alone() {
    let site = with_people(&Setup::live());
    let daemon = site.start();
    let mut browser = Browser::of(&daemon, "ana");
    assert!(browser.shows("; HttpOnly; SameSite=Strict\r\n"), "{}", browser.page);
    for path in ["/", "/find?q=1", "/waiting", "/refusals", "/branches", "/health", "/nowhere"] {
        browser.get(path);
        for header in [
            "content-security-policy: default-src 'none'; style-src 'self'; img-src 'self'; \
             script-src 'self'; connect-src 'self'; form-action 'self'; ",
            "frame-ancestors 'none'; base-uri 'none'\r\n",
            "x-content-type-options: nosniff\r\n",
            "referrer-policy: no-referrer\r\n",
            "cache-control: no-store\r\n",
        ] {
            assert!(browser.shows(header), "{path}, {header}: {}", browser.page);
        }
        assert!(!browser.has_foreign_script() && !browser.shows(" style="), "{path}");
    }
    browser.get("/");
    assert_eq!(browser.post("/logout", ""), 303);
    assert_eq!(browser.get("/"), 303, "logged out");
}

#[test]
fn a_page_that_is_kept_up_to_date_is_whole_without_a_script() {
    let site = with_people(&Setup::live());
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh().with("amount", "1234.50")), "1000");
    let mut browser = Browser::of(&daemon, "ana");
    for (path, text) in [("/", "₱1,234.50"), ("/waiting", "Nothing is parked.")] {
        assert_eq!(browser.get(path), 200);
        for expected in [LIVE, text, ">As of 20", "</main></body></html>"] {
            assert!(browser.shows(expected), "{path}, {expected}: {}", browser.page);
        }
        // What only a script can know is not seen without one.
        for untrue in ["may be old", "You are logged out"] {
            let (before, _) = browser.page.split_once(untrue).expect("it is there, hidden");
            let paragraph = before.rsplit("<p ").next().expect("a paragraph");
            assert!(paragraph.contains(" hidden>"), "{path}: {paragraph}");
        }
    }
    let others =
        ["/find", "/collections/1", "/refusals", "/close", "/branches", "/health", "/nowhere"];
    for path in others {
        browser.get(path);
        assert!(!browser.shows("<script"), "{path}: {}", browser.page);
    }
    assert_eq!(browser.get("/live.js"), 200);
    for expected in ["content-type: text/javascript; charset=utf-8\r\n", "max-age=86400\r\n"] {
        assert!(browser.shows(expected), "{expected}: {}", browser.page);
    }
}

#[test]
fn elsewhere_than_on_loopback_the_cookie_never_leaves_tls() {
    let site = with_people(&Setup::live());
    let configuration = std::fs::read_to_string(site.config()).unwrap();
    let (old, new) = ("[operator]\nlisten = \"127.0.0.1:0\"", "[operator]\nlisten = \"0.0.0.0:0\"");
    std::fs::write(site.config(), configuration.replace(old, new)).unwrap();
    let daemon = site.start();
    let address = SocketAddr::from(([127, 0, 0, 1], daemon.operator().port()));
    let mut client = Till::connect(address, daemon.tls()).expect("a handshake");
    client.send(b"GET /login HTTP/1.1\r\nHost: tilld\r\n\r\n").unwrap();
    let answer = client.receive().unwrap();
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.starts_with("__Host-tilld-login="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
}

#[test]
fn a_collection_is_found_by_all_that_is_known_of_it_and_its_page_is_its_story() {
    let site = with_people(&Setup::live());
    let daemon = site.start();
    let confirmation = Confirmation::fresh().with("amount", "1234.50").with("phone", "09271118095");
    assert_eq!(daemon.code(&confirmation), "1000");
    assert_eq!(daemon.code(&confirmation), "-1015");
    for _ in 0..3 {
        daemon.code(&Confirmation::fresh());
    }
    let (contract, receipt) =
        (confirmation.get("contractNumber"), confirmation.get("receiptNumber"));
    let mut browser = Browser::of(&daemon, "ben");
    let link = format!("<a href=\"/collections/1\">{contract}</a>");
    for text in [&contract, &receipt, "8095", "1,234.50", "%231"] {
        assert_eq!(browser.get(&format!("/find?q={text}")), 200);
        assert_eq!(browser.page.matches(&link).count(), 1, "{text}: {}", browser.page);
    }
    browser.get("/find?q=8096");
    assert!(browser.shows("Nothing was found."), "{}", browser.page);
    assert_eq!(browser.get("/collections/1"), 200);
    for text in ["₱1,234.50", "as number 1, in the books of", "line 2", "1 time, the last at"] {
        assert!(browser.shows(text), "{text}: {}", browser.page);
    }
    assert_eq!(browser.get("/collections/99"), 404);
    assert_eq!(browser.get("/collections/x"), 404);
    browser.get("/");
    assert!(browser.shows("4 collections, "), "{}", browser.page);
}

#[test]
fn a_contract_with_more_collections_than_are_shown_is_not_shown_as_if_these_were_all() {
    let site = with_people(&Setup::installments());
    let daemon = site.start();
    let contract = Confirmation::fresh().get("contractNumber");
    let pay = || {
        let confirmation = Confirmation::fresh().with("contractNumber", contract.as_str());
        assert_eq!(daemon.code(&confirmation), "1000");
    };
    (0..50).for_each(|_| pay());
    let mut browser = Browser::of(&daemon, "ben");
    let cut = "Only the newest 50 of this contract are shown.";
    browser.get(&format!("/find?q={contract}"));
    assert!(!browser.shows(cut), "{}", browser.page);
    pay();
    browser.get(&format!("/find?q={contract}"));
    assert!(browser.shows(cut), "{}", browser.page);
    assert_eq!(browser.page.matches("<a href=\"/collections/").count(), 50);
    assert!(browser.page.contains("<a href=\"/collections/51\">"), "{}", browser.page);
}

#[test]
fn what_callers_wrote_is_text_on_every_page() {
    let site = with_people(&Setup::live());
    let daemon = site.start();
    let hostile = "<script>alert(1)</script>";
    let confirmation = Confirmation::fresh().with("contractNumber", hostile).with("note", hostile);
    daemon.code(&confirmation);
    let taken = Confirmation::fresh().with("note", hostile).with("receiptNumber", "R\"<b>'");
    daemon.code(&taken);
    let mut browser = Browser::of(&daemon, "ana");
    for path in ["/refusals", "/collections/1", "/find?q=%3Cscript%3E", "/waiting", "/"] {
        browser.get(path);
        let has_markup = browser.has_foreign_script() || browser.shows("<b>");
        assert!(!has_markup, "{path}: {}", browser.page);
    }
    browser.get("/refusals");
    assert!(browser.shows("&lt;script&gt;"), "{}", browser.page);
}

#[test]
fn a_manager_sends_a_parked_collection_again_and_a_viewer_may_not() {
    let upstream = Upstream::start(|_| Reply::code(-1026));
    let branch = Branch::of_upstream(&upstream).started();
    let (site, daemon) = (&branch.site, branch.daemon());
    add(site, "ana", "manager");
    add(site, "ben", "viewer");
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    let mut ben = Browser::of(daemon, "ben");
    eventually(|| {
        ben.get("/waiting");
        ben.shows("-1026") && ben.shows("1 collection parked")
    });
    assert!(ben.shows("A manager may send them again."), "{}", ben.page);
    assert_eq!(ben.post("/waiting", "which=all"), 403);
    assert!(ben.shows("Your account may look, and not act."), "{}", ben.page);
    assert_eq!(upstream.got().len(), 1);

    let mut ana = Browser::of(daemon, "ana");
    ana.get("/waiting");
    let token = "0".repeat(64);
    assert_eq!(ana.ask("POST", "/waiting", "", &format!("token={token}&which=all")), 403);
    ana.get("/waiting");
    assert_eq!(ana.post("/waiting", "which=99"), 409);
    assert!(ana.shows("nothing is sent again"), "{}", ana.page);
    ana.get("/waiting");
    assert_eq!(ana.post("/waiting", "which=1"), 303);
    assert!(ana.shows("location: /waiting?sent=1\r\n"), "{}", ana.page);
    upstream.await_requests(2);
    assert!(tells(site, "retry"), "the tape tells who did it");
}

/// Whether the tape tells of such an act by ana.
fn tells(site: &Site, act: &str) -> bool {
    let tape = std::fs::read_dir(site.state_dir().join("tape")).unwrap();
    let told = tape.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    told.into_iter().any(|text| {
        let mut lines = text.lines();
        lines.any(|line| line.contains(&format!("{act:?}")) && line.contains("\"ana\""))
    })
}

#[test]
fn one_parked_collection_is_sent_again_alone_though_its_number_is_the_receipt_of_another() {
    let upstream = Upstream::start(|_| Reply::code(-1026));
    let branch = Branch::of_upstream(&upstream).started();
    let daemon = branch.daemon();
    add(&branch.site, "ana", "manager");
    add(&branch.site, "ben", "viewer");
    let (first, second) = (Confirmation::fresh().with("receiptNumber", "2"), Confirmation::fresh());
    for confirmation in [&first, &second] {
        assert_eq!(daemon.code(confirmation), "1000");
    }
    branch.await_count("SELECT count(*) FROM parked", |count| count == 2);
    let button = "<button name=\"which\" value=\"collection:2\"";
    let mut ben = Browser::of(daemon, "ben");
    ben.get("/collections/2");
    assert!(!ben.shows(button), "{}", ben.page);
    let mut ana = Browser::of(daemon, "ana");
    for path in ["/waiting", "/collections/2"] {
        ana.get(path);
        assert!(ana.shows(button), "{path}: {}", ana.page);
    }
    assert_eq!(ana.post("/waiting", "which=collection%3A2"), 303);
    assert!(ana.shows("location: /waiting?sent=1\r\n"), "{}", ana.page);
    upstream.await_requests(3);
    let contract = second.get("contractNumber");
    assert_eq!(upstream.got()[2].field("contractNumber"), contract);
    branch.await_count("SELECT count(*) FROM parked", |count| count == 2);
    assert_eq!(upstream.got().len(), 3);
    let told = branch.site.tilld(&["sync", "retry", "collection:3"]);
    assert_eq!(told.status.code(), Some(5), "{}", String::from_utf8_lossy(&told.stderr));
}

#[test]
fn a_manager_reopens_a_paid_contract_on_its_page_and_a_viewer_may_not() {
    let site = with_people(&Setup::live());
    let daemon = site.start();
    let first = Confirmation::fresh();
    let [second, third] = ["2", "3"].map(|receipt| first.clone().with("receiptNumber", receipt));
    assert_eq!(daemon.code(&first), "1000");
    assert_eq!(daemon.code(&second), "-1026");
    let wish = format!("contract={}&reason=paid+%3Cb%3Eback", first.get("contractNumber"));
    let form = "action=\"/collections/1\"";
    let mut ben = Browser::of(&daemon, "ben");
    ben.get("/collections/1");
    assert!(!ben.shows(form), "{}", ben.page);
    assert_eq!(ben.post("/collections/1", &wish), 403);

    let mut ana = Browser::of(&daemon, "ana");
    let untrue = format!("token={}&{wish}", "0".repeat(64));
    assert_eq!(ana.ask("POST", "/collections/1", "", &untrue), 403);
    ana.get("/collections/1");
    assert!(ana.shows(form), "{}", ana.page);
    let without_reason = format!("contract={}&reason=", first.get("contractNumber"));
    assert_eq!(ana.post("/collections/1", &without_reason), 409);
    assert!(ana.shows("1 to 500 printable characters"), "{}", ana.page);
    assert_eq!(daemon.code(&second), "-1026", "nothing was done yet");
    assert!(!tells(&site, "reopen"));

    ana.get("/collections/1");
    assert_eq!(ana.post("/collections/1", &wish), 303);
    assert!(ana.shows("location: /collections/1\r\n"), "{}", ana.page);
    ana.get("/collections/1");
    assert!(ana.shows("by ana: paid &lt;b&gt;back"), "{}", ana.page);
    assert!(!ana.shows(form), "it is open already: {}", ana.page);
    assert_eq!(ana.post("/collections/1", &wish), 409, "of a page that was left open");
    assert!(ana.shows("was reopened before"), "{}", ana.page);
    assert!(tells(&site, "reopen"), "the tape tells who did it");
    for (confirmation, code) in [(&second, "1000"), (&third, "-1026")] {
        assert_eq!(daemon.code(confirmation), code);
    }
    ana.get("/collections/2");
    assert!(ana.shows("action=\"/collections/2\""), "it is paid again: {}", ana.page);
}

#[test]
fn where_contracts_are_paid_in_installments_none_is_reopened() {
    let site = with_people(&Setup::installments());
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    let mut ana = Browser::of(&daemon, "ana");
    ana.get("/collections/1");
    assert!(ana.shows("Write a note") && !ana.shows("Reopen"), "{}", ana.page);
}
