//! The way to head office fails, in every manner a line, a name server or a certificate can: the
//! branch goes on confirming, and when the way is back everything arrives, once, by itself.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use chrono::TimeDelta;
use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
use rustix::net::{self, AddressFamily, SocketType};
use rustix::process::getpid;

use crate::support::clock::Clock;
use crate::support::fleet::{Branch, MANILA, Office, Way, assert_same_books, number, office_setup};
use crate::support::wan::{Line, Wan};
use crate::support::{Daemon, Setup, Site, authority, http};

const ATTEMPTS: &str = "SELECT count(*) FROM attempt";

/// The reasons that are kept of tries in vain.
fn reasons(branch: &Branch) -> String {
    let mut found = String::new();
    for row in branch.site.all() {
        let story = branch.story(row["contract"].as_str().unwrap());
        for attempt in story["attempts"].as_array().unwrap() {
            found += attempt["reason"].as_str().unwrap();
            found.push('\n');
        }
    }
    found
}

#[test]
fn a_line_that_is_down_before_the_start_holds_up_neither_start_nor_cashiers() {
    let office = Office::open();
    office.wan.set(Line::Cut);
    let branch = Branch::of(&office, MANILA).started();
    branch.collect(30);
    branch.daemon().await_line("head office cannot be reached");
    branch.collect(30);
    assert!(office.site.all().is_empty());
    let ready = http(branch.daemon().operator(), "GET", "/readyz");
    assert!(ready.starts_with("HTTP/1.1 200 "), "this is what it is for: {ready}");
    let sync = |arguments: &[&str]| {
        let output = branch.site.tilld(&[&["sync"], arguments].concat());
        (output.status.code(), [output.stdout, output.stderr].map(String::from_utf8))
    };
    let (code, said) = sync(&["now"]);
    assert!(code == Some(0) && format!("{said:?}").contains("sending 60 waiting"), "{said:?}");
    let (code, said) = sync(&["wait", "--timeout", "1 s"]);
    assert!(code == Some(75) && format!("{said:?}").contains("60 collections"), "{said:?}");
    office.wan.set(Line::Up);
    let (code, said) = sync(&["wait", "--timeout", "60 s"]);
    assert!(code == Some(0) && format!("{said:?}").contains("nothing waits"), "{said:?}");
    assert_same_books(&office.site, &[&branch]);
    branch.daemon().await_line("head office is reached again");
}

#[test]
fn a_line_that_is_cut_and_comes_back_again_and_again_loses_and_doubles_nothing() {
    let office = Office::open();
    let branch = Branch::of(&office, MANILA).started();
    for _ in 0..4 {
        branch.collect(40);
        office.wan.set(Line::Cut);
        let calls = office.wan.calls();
        branch.collect(10);
        office.wan.await_calls(calls, 1);
        office.wan.set(Line::Up);
    }
    assert_same_books(&office.site, &[&branch]);
    assert_eq!(office.site.all().len(), 200);
}

/// Taken by a firewall or a dead modem: neither refused nor answered.
#[test]
fn a_line_that_falls_silent_in_the_middle_is_given_up_in_time() {
    let office = Office::open();
    let way = office.way().and("connect_timeout = \"1 s\"\ntimeout = \"1 s\"");
    let mut branch = Branch::with(MANILA, &Setup::live(), &way);
    branch.start();
    branch.collect(20);
    branch.await_empty_outbox();
    office.wan.set(Line::Silent);
    branch.collect(20);
    branch.daemon().await_line("head office cannot be reached");
    branch.collect(5);
    office.wan.set(Line::Up);
    assert_same_books(&office.site, &[&branch]);
    let reasons = reasons(&branch);
    assert!(reasons.contains(" within 1s"), "{reasons}");
}

/// Nobody accepts, and the backlog is full: the kernel drops each further SYN.
#[test]
fn a_head_office_that_never_accepts_is_given_up_in_time() {
    let office = Office::open();
    let hole = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    net::bind(&hole, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    net::listen(&hole, 0).unwrap();
    let hole = TcpListener::from(hole);
    let address = hole.local_addr().unwrap();
    let _filling = TcpStream::connect(address).unwrap();
    let black = Way::to(address, office.site.certificate()).and("connect_timeout = \"500 ms\"");
    let mut branch = Branch::with(MANILA, &Setup::live(), &black);
    branch.start();
    branch.collect(3);
    branch.await_count(ATTEMPTS, |attempts| attempts >= 2);
    let reasons = reasons(&branch);
    assert!(reasons.contains("no connection to 127.0.0.1:"), "{reasons}");
    branch.stop();
    branch.configure(&Setup::live(), &office.way());
    branch.start();
    assert_same_books(&office.site, &[&branch]);
}

/// The branch sees an /etc of its own, in which the name of head office comes and goes.
#[test]
fn a_name_server_that_is_gone_and_comes_back_is_asked_again_each_time() {
    let extra = "[endpoint.tls]\nnames = [\"head-office.test\"]".to_owned();
    let office = Office::open_as(&Setup { extra, ..office_setup() });
    let port = office.wan.address().port();
    let mut way = office.way();
    way.url = format!("https://head-office.test:{port}/collectionCollect");
    let mut branch = Branch::with(MANILA, &Setup::live(), &way);
    let [hosts, resolver] = ["hosts", "resolv.conf"].map(|name| branch.site.path().join(name));
    let known = "127.0.0.1 localhost head-office.test\n";
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    // Nobody answers there.
    fs::write(&resolver, "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n").unwrap();
    let script = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && \
                  shift 2 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).args([&hosts, &resolver]);
    branch.start_by(command);
    branch.collect(5);
    branch.daemon().await_line("head office cannot be reached");
    let found = reasons(&branch);
    assert!(found.contains("head-office.test"), "{found}");
    fs::write(&hosts, known).unwrap();
    branch.await_empty_outbox();
    office.wan.set(Line::Cut);
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    office.wan.set(Line::Up);
    branch.collect(5);
    branch
        .await_count("SELECT count(DISTINCT sequence) FROM attempt WHERE sequence > 5", |n| n > 0);
    assert_eq!(office.site.all().len(), 5);
    fs::write(&hosts, known).unwrap();
    assert_same_books(&office.site, &[&branch]);
}

#[test]
fn an_office_with_another_certificate_is_told_nothing() {
    let (office, another) = (Office::open(), Office::open());
    let mut way = office.way();
    way.ca_file = another.site.certificate();
    let mut branch = Branch::with(MANILA, &Setup::live(), &way);
    branch.start();
    branch.collect(5);
    let line = branch.daemon().await_line("head office cannot be reached");
    assert!(line.contains("no authority that we know has signed it"), "{line}");
    branch.stop();
    assert!(office.site.all().is_empty() && office.site.refusals().is_empty());
    branch.configure(&Setup::live(), &office.way());
    branch.start();
    assert_same_books(&office.site, &[&branch]);
}

/// Gives a head office a certificate that ends with this year.
fn certify(site: &Site, (ca, issuer): &(String, Issuer<'static, KeyPair>), last_year: i32) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(last_year, 12, 31);
    let certificate = params.signed_by(&key, issuer).unwrap().pem();
    fs::write(site.path().join("office.pem"), certificate).unwrap();
    site.secret("office.key", &[key.serialize_pem()]);
    // What clients trust stands where they look for a certificate that signed itself.
    fs::create_dir_all(site.certificate().parent().unwrap()).unwrap();
    fs::write(site.certificate(), ca).unwrap();
}

#[test]
fn an_office_whose_certificate_has_expired_is_told_nothing_until_it_is_renewed() {
    let authority = authority();
    let extra = "[endpoint.tls]\ncertificate = \"office.pem\"\nprivate_key = \"office.key\"";
    let site = Setup { extra: extra.to_owned(), ..office_setup() }.prepare();
    certify(&site, &authority, 2019);
    let mut office = Office::of_site(site);
    let branch = Branch::of(&office, MANILA).started();
    branch.collect(5);
    let line = branch.daemon().await_line("head office cannot be reached");
    assert!(line.contains("it has expired; is this machine's clock right?"), "{line}");
    assert!(office.site.all().is_empty());
    office.stop();
    certify(&office.site, &authority, 2100);
    office.start();
    assert_same_books(&office.site, &[&branch]);
}

#[test]
fn a_line_that_ends_in_any_part_of_handshake_or_reply_loses_and_doubles_nothing() {
    let office = Office::open();
    let places = [0, 1, 5, 100, 127, 500, 900, 1100, 1200, 1300, 1400, 1500, 1600, 1700];
    let branches: Vec<Branch> = thread::scope(|scope| {
        let tries = places.map(|place| {
            let office = &office;
            scope.spawn(move || {
                let wan = Wan::new();
                wan.lead_to(office.daemon().address());
                wan.set(Line::CutAfter(place));
                let way = Way::to(wan.address(), office.site.certificate());
                let branch = Branch::with(MANILA, &Setup::live(), &way).started();
                branch.collect(1);
                wan.await_calls(0, 1);
                wan.set(Line::Up);
                branch.await_empty_outbox();
                branch
            })
        });
        tries.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let arrived = office.site.all();
    assert_eq!(arrived.len(), places.len());
    for branch in &branches {
        let rows = branch.site.all();
        assert_eq!(rows[0]["head_office"], "delivered");
        assert_eq!(office.site.only(rows[0]["contract"].as_str().unwrap())["branch"], MANILA);
        let sql = "SELECT sum(already_there) FROM delivery";
        assert_eq!(number(&branch.site, sql), 0, "its own first try was taken for another's");
    }
}

#[test]
fn a_wall_clock_that_jumps_ten_years_either_way_strands_nothing() {
    let office = Office::open();
    for (before, after) in [(0, 3652), (0, -3652), (3652, 0), (-3652, 0)] {
        let wan = Wan::new();
        wan.lead_to(office.daemon().address());
        wan.set(Line::Cut);
        let way = Way::to(wan.address(), office.site.certificate());
        let mut branch = Branch::with(MANILA, &Setup::live(), &way);
        let clock = Clock::of(&branch.site);
        clock.set(TimeDelta::days(before));
        branch.start_by(clock.wrapper());
        branch.collect(5);
        wan.await_calls(0, 1);
        clock.set(TimeDelta::days(after));
        branch.collect(5);
        wan.await_calls(wan.calls(), 1);
        wan.set(Line::Up);
        branch.await_empty_outbox();
        branch.collect(5);
        branch.await_empty_outbox();
        for row in branch.site.all() {
            assert_eq!(row["head_office"], "delivered");
            assert_eq!(office.site.only(row["contract"].as_str().unwrap())["branch"], MANILA);
        }
    }
    assert_eq!(office.site.all().len(), 60);
}

/// Two hosts and the line between them. Gone when dropped.
struct Hosts {
    office: String,
    branch: String,
    /// The third number of the networks' addresses: tests may run side by side.
    net: u32,
}

impl Hosts {
    fn new() -> Hosts {
        let id = getpid().as_raw_nonzero().get().unsigned_abs();
        let hosts =
            Hosts { office: format!("office-{id}"), branch: format!("branch-{id}"), net: id % 250 };
        let Hosts { office, branch, net } = &hosts;
        for line in [
            format!("netns add {office}"),
            format!("netns add {branch}"),
            format!("link add wan{id} netns {branch} type veth peer name wan0 netns {office}"),
            format!("-n {branch} link set wan{id} name wan0"),
            format!("-n {office} address add 10.77.{net}.2/24 dev wan0"),
            format!("-n {branch} address add 10.77.{net}.1/24 dev wan0"),
            format!("-n {office} link set wan0 up"),
            format!("-n {branch} link set wan0 up"),
            format!("link add lan{id} type veth peer name lan0 netns {branch}"),
            format!("-n {branch} address add 10.78.{net}.2/24 dev lan0"),
            format!("-n {branch} link set lan0 up"),
            format!("address add 10.78.{net}.1/24 dev lan{id}"),
            format!("link set lan{id} up"),
        ] {
            ip(&line);
        }
        hosts
    }

    fn set_wan(&self, state: &str) {
        ip(&format!("-n {} link set wan0 {state}", self.office));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // Their links go with them.
        for host in [&self.office, &self.branch] {
            let _ = Command::new("ip").args(["netns", "delete", host]).status();
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
}

fn inside(host: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host]);
    command
}

#[test]
fn two_hosts_whose_link_goes_down_and_up_end_with_the_same_books() {
    let hosts = Hosts::new();
    let net = hosts.net;
    let office_site = Setup {
        listen: format!("10.77.{net}.2:8443"),
        extra: format!("[endpoint.tls]\nnames = [\"10.77.{net}.2\"]"),
        ..office_setup()
    }
    .prepare();
    let office = Daemon::start_by(&office_site, office_site.wrapped(inside(&hosts.office)));
    let way = Way::to(office.address(), office_site.certificate())
        .and("connect_timeout = \"1 s\"\ntimeout = \"1 s\"");
    let setup = Setup { listen: format!("10.78.{net}.2:8443"), ..Setup::live() };
    let mut branch = Branch::with(MANILA, &setup, &way);
    branch.start_by(inside(&hosts.branch));
    branch.collect(20);
    branch.await_empty_outbox();
    hosts.set_wan("down");
    branch.collect(20);
    branch.daemon().await_line("head office cannot be reached");
    branch.collect(20);
    assert_eq!(office_site.all().len(), 20);
    hosts.set_wan("up");
    assert_same_books(&office_site, &[&branch]);
    assert_eq!(office_site.all().len(), 60);
}
