//! A real browser: Chromium without a window, led through its driver. Keeps what it complains of.

use std::fs;
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use url::{ParseError, Url};

use crate::support::Daemon;

/// What Chromium needs without a screen, and what keeps it from speaking to anybody else.
const SWITCHES: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
];

/// The driver says so, and the port behind it.
const READY: &str = "started successfully on port ";

pub struct Browser {
    pub client: Client,
    console: String,
    driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// A browser that has not been anywhere.
    pub async fn open(daemon: &Daemon) -> Browser {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver (tests/run installs it)");
        let mut told = BufReader::new(driver.stdout.take().expect("stdout is a pipe")).lines();
        let port = told.find_map(|line| {
            let line = line.expect("UTF-8");
            line.split_once(READY).map(|(_, port)| port.trim_end_matches('.').to_owned())
        });
        // Who writes into a pipe that nobody reads stops some day.
        std::thread::spawn(move || told.for_each(drop));
        let profile = TempDir::new().expect("a temporary directory");
        let user_data_dir = format!("--user-data-dir={}", profile.path().display());
        let switches: Vec<&str> =
            SWITCHES.iter().copied().chain([user_data_dir.as_str()]).collect();
        let capabilities = json!({
            "goog:chromeOptions": { "args": switches },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities.as_object().expect("an object").clone())
            .connect(&format!("http://127.0.0.1:{}", port.expect("it starts")))
            .await
            .expect("a session");
        let console = format!("http://{}", daemon.operator());
        Browser { client, console, driver, _profile: profile }
    }

    /// Ends it.
    pub async fn close(self) {
        self.client.clone().close().await.expect("an end");
    }

    pub async fn go(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.console)).await.expect("a page");
    }

    /// The path of the page that it shows.
    pub async fn path(&self) -> String {
        self.client.current_url().await.expect("a page").path().to_owned()
    }

    /// What a person reads on the page.
    pub async fn text(&self) -> String {
        let body = self.client.find(Locator::Css("body")).await.expect("a body");
        body.text().await.expect("a text")
    }

    pub async fn type_into(&self, css: &str, text: &str) {
        let field = self.client.find(Locator::Css(css)).await.expect(css);
        field.clear().await.expect("a field");
        field.send_keys(text).await.expect("a field");
    }

    /// Clicks on what leads to another page.
    pub async fn click(&self, css: &str) {
        let found = self.client.find(Locator::Css(css)).await.expect(css);
        self.leave(async { found.click().await.expect(css) }).await;
    }

    pub async fn follow(&self, link: &str) {
        let found = self.client.find(Locator::LinkText(link)).await.expect(link);
        self.leave(async { found.click().await.expect(link) }).await;
    }

    /// Runs what leads to another page.
    pub async fn leave_by(&self, script: &str) {
        self.leave(async { drop(self.run(script).await) }).await;
    }

    /// Waits until the next page is there: the one that is being left can still be read, and be
    /// gone in the middle of it.
    async fn leave(&self, by: impl Future<Output = ()>) {
        self.run("document.documentElement.dataset.left = 'yes'").await;
        by.await;
        let next = Locator::Css("html:not([data-left]) body");
        self.client.wait().for_element(next).await.expect("another page");
    }

    pub async fn log_in(&self, user: &str, password: &str) {
        self.go("/login").await;
        self.type_into("#user", user).await;
        self.type_into("#password", password).await;
        self.click("form.login button").await;
    }

    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.expect(script)
    }

    /// Waits until this holds in the page, where it is looked at again and again.
    pub async fn until(&self, condition: &str) {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             const timer = setInterval(() => {{
                 if ({condition}) {{ clearInterval(timer); done(); }}
             }}, 20);"
        );
        self.client.execute_async(&script, Vec::new()).await.expect(condition);
    }

    /// What it has complained of since it was last asked.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.client.issue_cmd(BrowserLog).await.expect("its log");
        let entries = entries.as_array().expect("entries").iter();
        entries.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What axe-core finds on the page that is serious or worse.
    pub async fn barriers(&self) -> Vec<String> {
        let axe = fs::read_to_string(axe()).expect("axe-core: run tests/console/fetch-axe");
        self.run(&axe).await;
        let found = self
            .client
            .execute_async(
                "const done = arguments[arguments.length - 1];
                 axe.run().then(found => done(found.violations.map(one =>
                     [one.impact, one.id, one.nodes.map(node => node.html).join(' ')])));",
                Vec::new(),
            )
            .await
            .expect("axe runs");
        let found = found.as_array().expect("violations").iter();
        let serious = found.filter(|one| one[0] == "serious" || one[0] == "critical");
        serious.map(Value::to_string).collect()
    }

    /// Writes what it shows at this width to target/screens.
    pub async fn screenshot(&self, name: &str, width: u32) {
        self.client.set_window_size(width, 900).await.expect("a window");
        let height = self.run("return document.documentElement.scrollHeight").await;
        let height = height.as_u64().and_then(|height| u32::try_from(height).ok()).unwrap_or(900);
        self.client.set_window_size(width, height.clamp(600, 6000) + 150).await.expect("a window");
        let image = self.client.screenshot().await.expect("a picture");
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screens");
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join(format!("{name}-{width}.png")), image).expect("a picture");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // With the browser that it started: a test that fails does not close it.
        let group = i32::try_from(self.driver.id()).ok().and_then(Pid::from_raw);
        let _ = kill_process_group(group.expect("a process id"), Signal::KILL);
        let _ = self.driver.wait();
    }
}

fn axe() -> PathBuf {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe-core");
    let versions = fs::read_dir(&place).expect("axe-core: run tests/console/fetch-axe");
    let mut versions: Vec<PathBuf> =
        versions.map(|entry| entry.expect("an entry").path().join("axe.min.js")).collect();
    versions.sort();
    versions.pop().expect("axe-core: run tests/console/fetch-axe")
}

/// Asks Chromium's driver for what the page wrote to the browser's console.
#[derive(Debug)]
struct BrowserLog;

impl WebDriverCompatibleCommand for BrowserLog {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, ParseError> {
        base_url.join(&format!("session/{}/se/log", session_id.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}
