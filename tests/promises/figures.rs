//! `/metrics`, and what is shipped to watch it with: the page is true and one that Prometheus
//! takes, and every figure that the dashboard or a rule asks for is on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tilld::config::key_file::id_of;

use crate::support::fleet::{Branch, CEBU, MANILA, Office};
use crate::support::upstream::{Reply, Upstream};
use crate::support::{
    Confirmation, Daemon, SKYPAY, Setup, Site, TILL_7, TILL_7_KEY, Till, eventually, http,
};

const ALERTS: &str = "packaging/monitoring/tilld-alerts.yml";
const ALERTS_TEST: &str = "packaging/monitoring/tilld-alerts-test.yml";
const DASHBOARD: &str = "packaging/monitoring/tilld-dashboard.json";

/// What Prometheus itself adds to a scrape.
const OF_PROMETHEUS: [&str; 1] = ["up"];

/// A page that was scraped.
struct Page {
    text: String,
    /// By name and labels.
    figures: BTreeMap<String, String>,
}

impl Page {
    fn of(daemon: &Daemon) -> Page {
        let answer = http(daemon.operator(), "GET", "/metrics");
        let (head, text) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(head.contains(&format!("content-type: {content_type}\r\n")), "{head}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let figures = lines.map(|line| line.rsplit_once(' ').expect("a figure"));
        let figures = figures.map(|(series, figure)| (series.to_owned(), figure.to_owned()));
        Page { text: text.to_owned(), figures: figures.collect() }
    }

    fn get(&self, series: &str) -> Option<&str> {
        self.figures.get(series).map(String::as_str)
    }

    fn number(&self, series: &str) -> i64 {
        let figure = self.get(series).unwrap_or_else(|| panic!("no {series}: {}", self.text));
        figure.parse().expect("a whole number")
    }

    /// The names under which Prometheus keeps what it scrapes here.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.figures.keys().map(|series| series.split('{').next().unwrap_or(series))
    }

    /// In the older form: `promtool check metrics` knows only that one, in which a counter's name
    /// has its ending also where it is described.
    fn in_older_form(&self) -> String {
        let is_counter = |name: &str| self.text.contains(&format!("# TYPE {name} counter\n"));
        let lines = self.text.lines().map(|line| {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", what, name, rest] if is_counter(name) => {
                    format!("# {what} {name}_total {rest}\n")
                }
                _ => format!("{line}\n"),
            }
        });
        lines.collect()
    }

    /// With a time behind each figure, without which `promtool tsdb` keeps nothing.
    fn with_times(&self) -> String {
        let time = |line: &str| if line.starts_with('#') { "" } else { " 1795305600" };
        self.text.lines().flat_map(|line| [line, time(line), "\n"]).collect()
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped(path: &str) -> String {
    fs::read_to_string(repository().join(path)).expect("it is shipped")
}

fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(repository());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool, of Debian's package prometheus");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// Nothing to say against what it was given.
fn is_taken(output: &Output) {
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (told(&output.stdout), told(&output.stderr));
    assert!(output.status.success(), "{out}{errors}");
}

/// Switches the sum of the day on.
fn with_takings(site: &Site) {
    let directory = site.path().join("conf.d");
    fs::create_dir_all(&directory).unwrap();
    let text = "[operator]\nmetrics_takings = true\n";
    fs::write(directory.join("takings.toml"), text).unwrap();
}

/// Gives the till a further key by `tilld key add`, which notes when that was.
fn add_key(site: &Site, key: &str) {
    let mut command = site.command(&["key", "add", TILL_7]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("tilld can be run");
    child.stdin.take().expect("a pipe").write_all(key.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success());
}

/// Drops the till's first key, of which nobody noted when it came.
fn drop_first_key(site: &Site) {
    let id = id_of(TILL_7_KEY).to_string();
    assert!(site.tilld(&["key", "drop", TILL_7, &id]).status.success());
}

#[test]
fn each_request_is_counted_under_the_code_that_it_was_answered_with() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    assert_eq!(daemon.code(&first), "1000");
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    assert_eq!(daemon.code(&first), "-1015");
    assert_eq!(daemon.code(&first.clone().with("amount", "1.00")), "2005");
    assert_eq!(daemon.code(&Confirmation::fresh().with("amount", "1.001")), "2003");
    assert_eq!(daemon.code(&Confirmation::fresh().by(TILL_7, "another-key")), "-1001");
    assert_eq!(daemon.code(&Confirmation::fresh().by("nobody", TILL_7_KEY)), "-1001");
    assert_eq!(daemon.till().post("/", "text/plain", &[], b"").status, 404);
    let page = Page::of(&daemon);
    for (code, count) in
        [("1000", 2), ("-1015", 1), ("2005", 1), ("2003", 1), ("-1001", 2), ("http-404", 1)]
    {
        let series = format!("tilld_requests_total{{code=\"{code}\"}}");
        assert_eq!(page.number(&series), count, "{series}: {}", page.text);
    }
    let all = page.figures.iter().filter(|(series, _)| series.starts_with("tilld_requests_total"));
    let all: i64 = all.map(|(_, figure)| figure.parse::<i64>().unwrap()).sum();
    assert_eq!(all, 8, "{}", page.text);
    for (series, expected) in [
        // Of those who were let in.
        ("tilld_request_seconds_count", "5"),
        ("tilld_request_seconds_bucket{le=\"+Inf\"}", "5"),
        ("tilld_wrong_keys_total{caller=\"till-7\"}", "1"),
        ("tilld_collections_today", "2"),
        ("tilld_outbox_waiting", "2"),
        ("tilld_outbox_parked", "0"),
        ("tilld_writer_queue_commands", "0"),
        ("tilld_condition{condition=\"recording\"}", "1"),
        ("tilld_condition{condition=\"disk-low\"}", "0"),
    ] {
        assert_eq!(page.get(series), Some(expected), "{series}: {}", page.text);
    }
    // Two collections, a repeat, and two refusals that were kept.
    assert!(page.number("tilld_commit_seconds_count") >= 5, "{}", page.text);
    assert!(page.number("tilld_tape_sync_seconds_count") >= 4, "{}", page.text);
    assert_ne!(page.get("tilld_request_seconds_sum"), Some("0.0"), "{}", page.text);
}

#[test]
fn it_tells_no_takings_unless_that_is_switched_on_and_nothing_personal_at_all() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let confirmation = Confirmation::fresh().by_till().with("amount", "4711.13");
    assert_eq!(daemon.code(&confirmation), "1000");
    eventually(|| Page::of(&daemon).get("tilld_collections_today") == Some("1"));
    let takings = || Page::of(&daemon).get("tilld_takings_today_centavos").map(str::to_owned);
    assert_eq!(takings(), None);
    with_takings(&site);
    assert!(site.tilld(&["reload"]).status.success());
    eventually(|| takings().as_deref() == Some("471113"));
    let page = Page::of(&daemon).text;
    for name in ["contractNumber", "phone", "receiptNumber", "authentication"] {
        let told = confirmation.get(name);
        assert!(!page.contains(&told), "{name} {told}: {page}");
    }
    fs::write(site.path().join("conf.d/takings.toml"), "").unwrap();
    assert!(site.tilld(&["reload"]).status.success());
    eventually(|| takings().is_none());
    let public = fs::read_to_string(site.path().join("status.json")).unwrap_or_default();
    assert!(!public.contains("471113"), "{public}");
}

#[test]
fn the_page_is_got_and_not_posted_and_lies_under_tls_elsewhere_than_on_loopback() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let answer = |method| http(daemon.operator(), method, "/metrics");
    assert!(answer("HEAD").starts_with("HTTP/1.1 200 "));
    assert!(answer("HEAD").ends_with("\r\n\r\n"), "no body");
    for method in ["POST", "PUT", "DELETE"] {
        let answer = answer(method);
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(answer.contains("allow: GET, HEAD"), "{method}: {answer}");
    }
    daemon.stop();
    let text = fs::read_to_string(site.config()).unwrap();
    let (here, everywhere) =
        ("[operator]\nlisten = \"127.0.0.1:0\"", "[operator]\nlisten = \"0.0.0.0:0\"");
    fs::write(site.config(), text.replace(here, everywhere)).unwrap();
    let daemon = site.start();
    let address = SocketAddr::from(([127, 0, 0, 1], daemon.operator().port()));
    assert!(http(address, "GET", "/metrics").starts_with("HTTP/1.1 400 "));
    let mut client = Till::connect(address, daemon.tls()).expect("a handshake");
    client.send(b"GET /metrics HTTP/1.1\r\nHost: tilld\r\n\r\n").unwrap();
    let answer = client.receive().unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
}

#[test]
fn a_verified_backup_and_the_age_of_a_key_are_told_once_they_are_known() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let names = ["tilld_backup_last_success", "tilld_backup_last_verified", "tilld_key_added"];
    let page = Page::of(&daemon);
    assert!(names.iter().all(|name| !page.text.contains(name)), "{}", page.text);
    add_key(&site, "a-further-key");
    let since = "tilld_key_added_timestamp_seconds{caller=\"till-7\"}";
    assert_eq!(Page::of(&daemon).get(since), None, "the first may be older");
    drop_first_key(&site);
    let now = |page: &Page| page.number("tilld_clock_timestamp_seconds");
    let page = Page::of(&daemon);
    assert!((now(&page) - page.number(since)).abs() < 60, "{}", page.text);
    assert!(site.tilld(&["backup", "create"]).status.success());
    let made = "tilld_backup_last_success_timestamp_seconds";
    let verified = "tilld_backup_last_verified_timestamp_seconds";
    eventually(|| Page::of(&daemon).get(made).is_some());
    let page = Page::of(&daemon);
    assert_eq!(page.get(verified), page.get(made), "it was checked when it was made");
    // Until a second has passed, the next check is of the same time.
    eventually(|| {
        assert!(site.tilld(&["backup", "verify"]).status.success());
        let page = Page::of(&daemon);
        page.number(verified) > page.number(made)
    });
}

#[test]
fn what_can_be_asked_of_a_fleet_is_what_rules_and_dashboard_ask_and_promtool_takes_all_of_it() {
    let office = Office::open();
    let well = Branch::of(&office, MANILA).started();
    with_takings(&well.site);
    assert!(well.site.tilld(&["reload"]).status.success());
    add_key(&well.site, "a-further-key");
    assert!(well.site.tilld(&["backup", "create"]).status.success());
    well.collect(3);
    well.await_empty_outbox();
    drop_first_key(&well.site);
    assert_eq!(well.daemon().code(&Confirmation::fresh().by(SKYPAY, "another-key")), "-1001");
    // One whose first collection is parked, and whose second is not taken.
    let upstream = Upstream::start(|got| {
        Reply::code(if got.header("tilld-sequence").is_some_and(|place| place.ends_with("-1")) {
            -1026
        } else {
            -1009
        })
    });
    let ill = Branch::of_upstream(&upstream).started();
    ill.collect(2);
    ill.await_count("SELECT count(*) FROM parked", |count| count == 1);
    let heard = format!("tilld_branch_last_heard_timestamp_seconds{{branch=\"{MANILA}\"}}");
    eventually(|| {
        Page::of(office.daemon()).get(&heard).is_some()
            && Page::of(ill.daemon()).get("tilld_outbox_parked") == Some("1")
            && Page::of(well.daemon()).get("tilld_check_differences") == Some("0")
            && Page::of(well.daemon()).text.contains("tilld_backup_last_success")
    });
    let pages = [office.daemon(), well.daemon(), ill.daemon()].map(Page::of);
    let [at_office, of_well, of_ill] = &pages;
    assert_eq!(of_well.get("tilld_upstream_tries_total{verdict=\"delivered\"}"), Some("3"));
    assert_eq!(of_well.get("tilld_link_state{state=\"up\"}"), Some("1"));
    assert_eq!(of_well.get("tilld_outbox_waiting"), Some("0"));
    assert!(of_well.get("tilld_outbox_oldest_timestamp_seconds").is_none());
    assert_eq!(of_ill.get("tilld_upstream_tries_total{verdict=\"settled\"}"), Some("1"));
    assert!(of_ill.number("tilld_upstream_tries_total{verdict=\"unknown\"}") >= 1);
    assert_eq!(at_office.get("tilld_requests_total{code=\"1000\"}"), Some("3"));
    let missing = format!("tilld_branch_missing_collections{{branch=\"{MANILA}\"}}");
    assert_eq!(at_office.get(&missing), Some("0"));
    assert!(!at_office.text.contains(CEBU), "it was never heard: {}", at_office.text);
    assert!(!at_office.text.contains("tilld_link_state"), "it sends nothing: {}", at_office.text);

    let told: BTreeSet<&str> = pages.iter().flat_map(Page::names).chain(OF_PROMETHEUS).collect();
    for path in [ALERTS, ALERTS_TEST, DASHBOARD] {
        let asked = asked_for(&shipped(path));
        let unknown: Vec<_> = asked.iter().filter(|name| !told.contains(&***name)).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
    let asked = asked_for(&(shipped(ALERTS) + &shipped(DASHBOARD)));
    let of_histogram = |name: &str| name.ends_with("_sum") || name.ends_with("_count");
    let unused = told.iter().filter(|name| name.starts_with("tilld_") && !of_histogram(name));
    let unused: Vec<_> = unused.filter(|name| !asked.contains(**name)).collect();
    assert!(unused.is_empty(), "nobody looks at {unused:?}");
    let readme = shipped("README.md");
    for name in asked.iter().map(|name| name.trim_end_matches("_bucket")) {
        let name = name.trim_start_matches("tilld_");
        assert!(readme.contains(&format!("`{name}`")), "README.md does not tell of {name}");
    }

    for page in &pages {
        is_taken(&promtool(&["check", "metrics"], &page.in_older_form()));
        let directory = tempfile::tempdir().unwrap();
        let (file, blocks) = (directory.path().join("page"), directory.path().join("blocks"));
        fs::write(&file, page.with_times()).unwrap();
        let paths = [&file, &blocks].map(|path: &PathBuf| path.to_str().unwrap());
        is_taken(&promtool(
            &[&["tsdb", "create-blocks-from", "openmetrics"], &paths[..]].concat(),
            "",
        ));
    }
}

/// The names of ours in a text.
fn asked_for(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("tilld_"));
    words.map(str::to_owned).collect()
}

#[test]
fn promtool_finds_no_fault_in_the_rules_and_each_of_them_speaks_when_it_should() {
    is_taken(&promtool(&["check", "rules", ALERTS], ""));
    is_taken(&promtool(&["test", "rules", ALERTS_TEST], ""));
}

#[test]
fn every_rule_is_tested_and_says_what_it_means_and_which_command_to_begin_with() {
    let (rules, tests) = (shipped(ALERTS), shipped(ALERTS_TEST));
    let site = Setup::live().prepare();
    let mut rules = rules.split("- alert: ");
    rules.next();
    let mut count = 0;
    for rule in rules {
        let name = rule.lines().next().unwrap_or_default();
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} is not tested");
        for part in ["severity: ", "summary: ", "description: ", "runbook: "] {
            assert_eq!(rule.matches(part).count(), 1, "{name}: {part}");
        }
        let runbook = rule.lines().find_map(|line| line.trim().strip_prefix("runbook: "));
        let runbook = runbook.expect("in one line").replace("{{ $labels.caller }}", TILL_7);
        for command in runbook.split("; ") {
            let words = command.trim_start_matches("sudo ").trim_start_matches("-u _tilld ");
            if let Some(arguments) = words.strip_prefix("tilld ") {
                let mut arguments: Vec<_> = arguments.split(' ').collect();
                arguments.push("--help");
                let output = site.tilld(&arguments);
                assert!(output.status.success(), "{name}: there is no `{words}`");
            }
        }
        count += 1;
    }
    assert!(count > 10, "{count}");
}

#[test]
fn every_expression_of_the_dashboard_is_one() {
    let dashboard: Value = serde_json::from_str(&shipped(DASHBOARD)).expect("JSON");
    let mut expressions = Vec::new();
    expressions_in(&dashboard, &mut expressions);
    assert!(expressions.len() > 40, "{expressions:?}");
    let rules: String = (0..).zip(&expressions).fold(
        "groups: [{name: dashboard, rules: [".to_owned(),
        |rules, (number, expression)| {
            let expression =
                expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
            rules + &format!("{{record: 'r{number}', expr: {expression:?}}},\n")
        },
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules + "]}]\n").unwrap();
    is_taken(&promtool(&["check", "rules", file.path().to_str().unwrap()], ""));
}

fn expressions_in(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("expr").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| expressions_in(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| expressions_in(item, found)),
        _ => {}
    }
}
