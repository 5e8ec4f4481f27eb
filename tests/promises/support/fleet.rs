//! A head office, the line to it, and branches that pass on what they confirm; and whether the
//! books of all agree in the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tilld::system::clock;

use super::state::DATABASE;
use super::upstream::Upstream;
use super::wan::Wan;
use super::{Caller, Confirmation, Daemon, Setup, Site};

/// Branches that every head office here knows.
pub const MANILA: &str = "MNL-042";
pub const CEBU: &str = "CEB-007";
pub const BRANCHES: [&str; 2] = [MANILA, CEBU];

/// How long rows may take to get through once they can: the pauses between tries add up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Head office, and the line on which it is called.
pub struct Office {
    pub site: Site,
    pub wan: Wan,
    daemon: Option<Daemon>,
}

pub struct Branch {
    pub site: Site,
    pub name: &'static str,
    daemon: Option<Daemon>,
}

/// Where a branch finds its head office, and further lines of its `[upstream]`.
pub struct Way {
    pub url: String,
    pub ca_file: PathBuf,
    pub extra: String,
}

impl Way {
    pub fn to(address: SocketAddr, ca_file: PathBuf) -> Way {
        let url = format!("https://{address}/collectionCollect");
        Way { url, ca_file, extra: String::new() }
    }

    /// With further lines.
    pub fn and(mut self, lines: &str) -> Way {
        self.extra += lines;
        self.extra.push('\n');
        self
    }
}

/// Live, and knowing these branches.
pub fn office_setup() -> Setup {
    BRANCHES.iter().fold(Setup::live(), |setup, branch| setup.caller(relay(branch)))
}

/// A branch as a caller of head office.
pub fn relay(branch: &str) -> Caller {
    Caller::new(&user_name(branch), &[&key(branch)]).option(&format!("branch = {branch:?}"))
}

fn user_name(branch: &str) -> String {
    format!("branch-{branch}")
}

fn key(branch: &str) -> String {
    format!("key-of-{branch}-4711")
}

impl Office {
    /// One that is reached.
    pub fn open() -> Office {
        Self::open_as(&office_setup())
    }

    pub fn open_as(setup: &Setup) -> Office {
        Self::of_site(setup.prepare())
    }

    /// One whose directory has been prepared.
    pub fn of_site(site: Site) -> Office {
        let mut office = Office { site, wan: Wan::new(), daemon: None };
        office.start();
        office
    }

    /// A hub as its own head office sees it.
    pub fn into_branch(self, name: &'static str) -> Branch {
        Branch { site: self.site, name, daemon: self.daemon }
    }

    pub fn start(&mut self) {
        let daemon = self.site.start();
        self.wan.lead_to(daemon.address());
        self.daemon = Some(daemon);
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    pub fn stop(&mut self) {
        self.daemon.take().expect("it runs").stop();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.daemon.take().expect("it runs").kill();
    }

    /// Waits until a number in its database is as wanted.
    pub fn await_count(&self, sql: &str, is_wanted: impl Fn(i64) -> bool) {
        await_number(&self.site, sql, is_wanted);
    }

    /// The way over the line.
    pub fn way(&self) -> Way {
        Way::to(self.wan.address(), self.site.certificate())
    }
}

impl Branch {
    /// One of this head office, which has not been started yet.
    pub fn of(office: &Office, name: &'static str) -> Branch {
        Self::with(name, &Setup::live(), &office.way())
    }

    /// One of somebody in head office's place.
    pub fn of_upstream(upstream: &Upstream) -> Branch {
        let way = Way::to(upstream.address(), upstream.certificate());
        Self::with(MANILA, &Setup::live(), &way)
    }

    pub fn with(name: &'static str, setup: &Setup, way: &Way) -> Branch {
        let branch = Self::at(setup.prepare(), name);
        branch.configure(setup, way);
        branch
    }

    /// One whose books are there already.
    pub fn at(site: Site, name: &'static str) -> Branch {
        Branch { site, name, daemon: None }
    }

    /// Writes its configuration anew; its books stay.
    pub fn configure(&self, setup: &Setup, way: &Way) {
        let extra = setup.extra.clone() + &upstream_section(&self.site, self.name, way);
        self.site.configure(&Setup { extra, ..setup.clone() });
    }

    pub fn start(&mut self) -> &Daemon {
        self.daemon.insert(self.site.start())
    }

    /// By a wrapper around `tilld serve`.
    pub fn start_by(&mut self, wrapper: Command) -> &Daemon {
        self.daemon.insert(Daemon::start_by(&self.site, self.site.wrapped(wrapper)))
    }

    pub fn started(mut self) -> Branch {
        self.start();
        self
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    /// What it wrote.
    pub fn stop(&mut self) -> String {
        self.daemon.take().expect("it runs").stop()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.daemon.take().expect("it runs").kill();
    }

    /// Confirms so many new ones, which must be answered 1000.
    pub fn collect(&self, count: usize) -> Vec<Confirmation> {
        let confirmations: Vec<_> = (0..count).map(|_| Confirmation::fresh().by_till()).collect();
        let mut till = self.daemon().till();
        for confirmation in &confirmations {
            let body = confirmation.text();
            let answer = till.post(super::PATH, super::JSON, &[], body.as_bytes());
            assert_eq!(answer.code(), "1000");
        }
        confirmations
    }

    /// What is told of the collection of this contract.
    pub fn story(&self, contract: &str) -> Value {
        story(&self.site, contract)
    }

    /// Waits until nothing waits any more for head office.
    pub fn await_empty_outbox(&self) {
        self.await_count("SELECT count(*) FROM outbox", |count| count == 0);
    }

    /// Waits until a number in its database is as wanted.
    pub fn await_count(&self, sql: &str, is_wanted: impl Fn(i64) -> bool) {
        await_number(&self.site, sql, is_wanted);
    }
}

fn await_number(site: &Site, sql: &str, is_wanted: impl Fn(i64) -> bool) {
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        let count = number(site, sql);
        if is_wanted(count) {
            return;
        }
        assert!(clock::monotonic() < deadline, "{sql} is still {count}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The `[upstream]` of a branch of this name.
fn upstream_section(site: &Site, branch: &str, way: &Way) -> String {
    let Way { url, ca_file, extra } = way;
    let (user_name, key) = (user_name(branch), site.secret("upstream.key", &[key(branch)]));
    // Short enough for a test; the tables of a file must not say a thing twice.
    let is_missing = |name: &&str| !extra.lines().any(|line| line.starts_with(*name));
    let times = ["connect_timeout", "timeout"].into_iter().filter(is_missing);
    let times: Vec<String> = times.map(|name| format!("{name} = \"5 s\"\n")).collect();
    format!(
        "\n[upstream]\nurl = {url:?}\nbranch = {branch:?}\nuser_name = {user_name:?}\n\
         authentication_file = {key:?}\nca_file = {ca_file:?}\n{}{extra}\n",
        times.concat()
    )
}

/// What a site tells of the only collection of this contract.
pub fn story(site: &Site, contract: &str) -> Value {
    let mut told: Value = serde_json::from_str(&site.story(contract)).expect("JSON");
    let stories = told["stories"].as_array_mut().expect("stories");
    assert_eq!(stories.len(), 1, "{stories:?}");
    stories.remove(0)
}

/// One number out of a site's database, which may be in use.
pub fn number(site: &Site, sql: &str) -> i64 {
    database(site).query_row(sql, [], |row| row.get(0)).expect("a number")
}

/// A site's database, to be read only.
pub fn database(site: &Site) -> Connection {
    let path = site.state_dir().join(DATABASE);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let connection = connection.expect("a database");
    connection.busy_timeout(PATIENCE).expect("a time-out");
    connection
}

/// A database to be altered as nobody may: its triggers stay silent.
pub fn altering(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a database");
    let silent = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false);
    assert!(!silent.expect("a setting"));
    connection
}

/// Centavos by contract and receipt.
type Books = BTreeMap<(String, String), i64>;

fn books<'a>(rows: impl IntoIterator<Item = &'a Value>) -> Books {
    let mut books = Books::new();
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap_or_else(|| panic!("{row}")).to_owned();
        let centavos = row["amount_centavos"].as_i64().expect("an amount");
        let old = books.insert((text("contract"), text("receipt")), centavos);
        assert_eq!(old, None, "twice: {row}");
    }
    books
}

/// Waits until everything is sent, and holds the books of all against each other: head office has
/// what each branch answered 1000, once, to the centavo, and both witnesses agree everywhere.
pub fn assert_same_books(office: &Site, branches: &[&Branch]) {
    for branch in branches {
        branch.await_empty_outbox();
    }
    let of_office = office.all();
    let (mut sums, mut count) = ((0, 0), 0);
    for branch in branches {
        let rows = branch.site.all();
        count += rows.len();
        for row in &rows {
            assert_eq!(row["head_office"], "delivered", "{row}");
        }
        let confirmed = books(&rows);
        let theirs = of_office.iter().filter(|row| row["branch"] == branch.name);
        let arrived = books(theirs);
        assert_eq!(arrived, confirmed, "{}", branch.name);
        sums.0 += confirmed.values().sum::<i64>();
        sums.1 += arrived.values().sum::<i64>();
        assert_verified(&branch.site);
    }
    assert_eq!(sums.0, sums.1);
    // Its own tills are known to no branch.
    let relayed = of_office.iter().filter(|row| row["branch"].is_string()).count();
    assert_eq!(relayed, count, "head office has what none of them sent");
    assert_verified(office);
}

/// `tilld verify` finds nothing.
pub fn assert_verified(site: &Site) {
    let verified = site.verify();
    assert_eq!(verified.code, Some(0), "{verified:?}");
}
