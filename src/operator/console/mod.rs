//! The web console: who asks, for which page, and may they. Rendered here, works without scripts;
//! the only one keeps a page up to date.
//!
//! Knows no socket and does nothing by itself: what is to be done it has the daemon do. What it
//! reads, it reads within bounds, so that no page keeps a till waiting.

mod accounts;
mod acts;
mod books;
mod branches;
mod close;
mod find;
mod frame;
mod health;
mod http;
pub(super) mod passwords;
mod refusals;
mod sessions;
mod story;
mod throttle;
mod today;
mod waiting;
mod words;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use maud::{Markup, html};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use zeroize::Zeroizing;

use self::accounts::Accounts;
use self::books::{Books, Trouble};
use self::frame::Tab;
use self::http::{Answer, Fields};
use self::sessions::{Session, Sessions};
use self::throttle::Throttle;
use self::words::Light;
use super::Failure;
use super::control::{Reply, Request as Act};
use super::metrics::Meter;
use super::probes::{self, Probes};
use super::snapshot::Snapshot;
use crate::config::Config;
use crate::config::accounts::Role;
use crate::domain::decision::Sequence;
use crate::domain::time::{AcceptedAt, BusinessDate};
use crate::net::listener::{Peer, Service, Turn};
use crate::net::tls::Certificate;
use crate::store::OpenError;
use crate::store::reader::Reader;
use crate::system::{clock, strangers};

/// So long a login waits until others are done: one is computed at a time.
const HASH_TIME_MAX: Duration = Duration::from_secs(10);

/// Where forms are sent to, besides collections' own pages.
const ACTS: [&str; 6] = ["/login", "/logout", "/waiting", "/notes", "/refusals", "/close"];

/// What the daemon tells the console, and does for it.
pub trait Daemon: Send + Sync + 'static {
    /// How it stands, as of a second ago at the most; nothing yet right after the start.
    fn snapshot(&self) -> Option<Arc<Snapshot>>;

    /// What is configured now.
    fn config(&self) -> Arc<Config>;

    /// What tills are shown now.
    fn certificate(&self) -> Arc<Certificate>;

    /// Does what somebody asks for, as over the control socket.
    fn carry_out(&self, request: Act) -> impl Future<Output = Result<Reply, Failure>> + Send;
}

/// Answers on the operator's listener: the probes, and the console.
pub struct Console<D, M> {
    daemon: D,
    probes: Probes<M>,
    /// Without TLS no browser keeps a cookie that is only for TLS.
    is_plain: bool,
    accounts: Accounts,
    sessions: Sessions,
    throttle: Throttle,
    hashing: Semaphore,
    books: Books,
}

/// Somebody's request for a page.
struct Asked<'a> {
    session: &'a Session,
    snapshot: Option<Arc<Snapshot>>,
    config: Arc<Config>,
    query: Fields,
}

impl<D: Daemon, M: Meter> Service for Console<D, M> {
    async fn answer(
        &self,
        peer: &Peer,
        turn: &Turn,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            path if probes::answers(path) => return self.probes.answer(peer, turn, request).await,
            "/console.css" if is_get => {
                return http::asset("text/css; charset=utf-8", include_str!("console.css"));
            }
            "/live.js" if is_get => {
                return http::asset("text/javascript; charset=utf-8", include_str!("live.js"));
            }
            "/icon.svg" if is_get => {
                return http::asset("image/svg+xml", include_str!("icon.svg"));
            }
            _ => {}
        }
        let answer = if is_get {
            self.look(&request).await
        } else if *request.method() == Method::POST {
            self.act(peer, turn, request).await
        } else {
            let page = problem(StatusCode::METHOD_NOT_ALLOWED, None, words::NO_METHOD, "");
            Ok(http::allowing(page, "GET, HEAD, POST"))
        };
        answer.unwrap_or_else(|trouble| match trouble {
            Trouble::Busy => {
                problem(StatusCode::SERVICE_UNAVAILABLE, None, words::BUSY, words::BUSY_HELP)
            }
            Trouble::Unreadable(why) => {
                log::error!("the console cannot read the books: {why}");
                problem(StatusCode::INTERNAL_SERVER_ERROR, None, words::UNREADABLE, &why)
            }
        })
    }
}

impl<D: Daemon, M: Meter> Console<D, M> {
    /// A console that asks this daemon, behind TLS or not, beside these probes.
    pub fn new(daemon: D, probes: Probes<M>, is_plain: bool) -> Console<D, M> {
        Console {
            daemon,
            probes,
            is_plain,
            accounts: Accounts::default(),
            sessions: Sessions::default(),
            throttle: Throttle::default(),
            hashing: Semaphore::new(1),
            books: Books::new(),
        }
    }

    /// Answers a request that changes nothing.
    async fn look(&self, request: &Request<Incoming>) -> Result<Answer, Trouble> {
        let path = request.uri().path();
        let Some(session) = self.session(request) else {
            return Ok(match path {
                "/login" => self.login_page(StatusCode::OK, None),
                path if is_page(path) => http::see_other("/login"),
                _ => not_there(None),
            });
        };
        let asked = Asked {
            session: &session,
            snapshot: self.daemon.snapshot(),
            config: self.daemon.config(),
            query: Fields::parse(request.uri().query().unwrap_or_default()),
        };
        if let Some(number) = path.strip_prefix("/collections/") {
            return self.story(&asked, number).await;
        }
        match path {
            "/" => self.today(&asked).await,
            "/find" => self.find(&asked).await,
            "/waiting" => self.waiting(&asked).await,
            "/refusals" => self.refusals(&asked).await,
            "/close" => self.close(&asked).await,
            "/branches" => self.branches(&asked).await,
            "/health" => self.health(&asked).await,
            "/login" => Ok(http::see_other("/")),
            _ => Ok(not_there(Some(&session))),
        }
    }

    async fn today(&self, asked: &Asked<'_>) -> Result<Answer, Trouble> {
        let now = now();
        let counted = self.books.counted(&asked.config.state_dir, now.date()).await?;
        let content = today::page(asked.snapshot(), &counted, now);
        Ok(asked.tab(Tab::Today, words::TODAY, &content))
    }

    async fn find(&self, asked: &Asked<'_>) -> Result<Answer, Trouble> {
        let text = find::trimmed(asked.query.get("q"));
        let results = if text.is_empty() {
            None
        } else {
            let (text, before) = (text.clone(), asked.before());
            Some(self.read(asked, move |reader| find::find(reader, &text, before)).await?)
        };
        Ok(asked.tab(Tab::Find, words::FIND, &find::page(&text, results.as_ref(), asked.session)))
    }

    async fn story(&self, asked: &Asked<'_>, number: &str) -> Result<Answer, Trouble> {
        let story = match number.parse::<Sequence>() {
            Ok(number) => self.read(asked, move |reader| reader.story_of(number)).await?,
            Err(_) => None,
        };
        Ok(match story {
            Some(story) => {
                let content = story::page(&story, asked.config.endpoint.contracts, asked.session);
                asked.tab(Tab::Find, &story::title(&story), &content)
            }
            None => problem(StatusCode::NOT_FOUND, Some(asked.session), words::NO_COLLECTION, ""),
        })
    }

    async fn waiting(&self, asked: &Asked<'_>) -> Result<Answer, Trouble> {
        let undelivered = self.read(asked, waiting::read).await?;
        let done = asked.query.get("sent").parse().ok().map(words::sent_again);
        let content = waiting::page(asked.snapshot(), &undelivered, asked.session, done.as_deref());
        Ok(asked.tab(Tab::Waiting, words::WAITING, &content))
    }

    async fn refusals(&self, asked: &Asked<'_>) -> Result<Answer, Trouble> {
        let before = asked.before();
        let refusals = self.read(asked, move |reader| refusals::read(reader, before)).await?;
        let content = refusals::page(&refusals, asked.session);
        Ok(asked.tab(Tab::Refusals, words::REFUSALS_TITLE, &content))
    }

    async fn close(&self, asked: &Asked<'_>) -> Result<Answer, Trouble> {
        let today = now().date();
        let day = BusinessDate::parse(asked.query.get("day")).unwrap_or(today);
        let closings = self.read(asked, move |reader| close::read(reader, day, today)).await?;
        let content = close::page(day, today, &closings, asked.session);
        Ok(asked.tab(Tab::Close, words::CLOSE, &content))
    }

    async fn branches(&self, asked: &Asked<'_>) -> Result<Answer, Trouble> {
        let branches = self.read(asked, Reader::branches).await?;
        Ok(asked.tab(Tab::Branches, words::BRANCHES, &branches::page(&branches)))
    }

    async fn health(&self, asked: &Asked<'_>) -> Result<Answer, Trouble> {
        let config = Arc::clone(&asked.config);
        let read = self.read(asked, move |_| Ok(health::read(&config))).await?;
        let certificate = self.daemon.certificate();
        let content = health::page(asked.snapshot(), &certificate, &read, now());
        Ok(asked.tab(Tab::Health, words::HEALTH, &content))
    }

    async fn read<T: Send + 'static>(
        &self,
        asked: &Asked<'_>,
        job: impl FnOnce(&Reader) -> Result<T, OpenError> + Send + 'static,
    ) -> Result<T, Trouble> {
        self.books.read(&asked.config.state_dir, job).await
    }

    /// Answers a request that changes something.
    async fn act(
        &self,
        peer: &Peer,
        turn: &Turn,
        request: Request<Incoming>,
    ) -> Result<Answer, Trouble> {
        let path = request.uri().path().to_owned();
        if !ACTS.contains(&path.as_str()) && !acts::is_story(&path) {
            return Ok(not_there(None));
        }
        let secret = self.cookie(&request, "tilld");
        let login_token = self.cookie(&request, "tilld-login");
        let session = self.session(&request);
        let is_from_here = http::is_from_here(request.headers());
        let stale = |session| {
            let (what, then) = (words::STALE_FORM, words::STALE_FORM_HELP);
            Ok(problem(StatusCode::FORBIDDEN, session, what, then))
        };
        let Some(form) = http::form(request.into_body()).await.filter(|_| is_from_here) else {
            return stale(session.as_ref());
        };
        if path == "/login" {
            return match login_token {
                Some(token) if is_same(&token, form.get("token")) => self.login(peer, &form).await,
                _ => stale(None),
            };
        }
        let Some(session) = session else { return Ok(http::see_other("/login")) };
        if !is_same(&session.form_token, form.get("token")) {
            log::warn!("the console refused a form of {} without its token", session.account.name);
            return stale(Some(&session));
        }
        match path.as_str() {
            "/logout" => {
                self.sessions.end(&secret.unwrap_or_default());
                let answer = http::see_other("/login");
                Ok(http::with_cookie(answer, &self.cookie_name("tilld"), None, self.is_plain))
            }
            _ => Ok(match acts::wished(&path, &form, session.account.name.as_str()) {
                Some(act) => {
                    let then = acts::page_of(&act, &path);
                    self.carry_out(&session, turn, act, then).await
                }
                None => not_there(Some(&session)),
            }),
        }
    }

    /// Has an act done; `then` is the page to go on with, unless the act leads to another.
    async fn carry_out(&self, session: &Session, turn: &Turn, act: Act, then: String) -> Answer {
        if session.account.role != Role::Manager {
            let (what, then) = (words::FORBIDDEN, words::FORBIDDEN_HELP);
            return problem(StatusCode::FORBIDDEN, Some(session), what, then);
        }
        // What was begun is not left for somebody who wants the connection.
        if !turn.begin() {
            return problem(
                StatusCode::SERVICE_UNAVAILABLE,
                Some(session),
                words::BUSY,
                words::BUSY_HELP,
            );
        }
        match self.daemon.carry_out(act).await {
            Ok(Reply::Reopened { was_open: true }) => {
                problem(StatusCode::CONFLICT, Some(session), words::NOT_AS_ASKED, words::IS_OPEN)
            }
            Ok(reply) => http::see_other(&acts::page_after(&reply).unwrap_or(then)),
            Err(failure) => {
                problem(StatusCode::CONFLICT, Some(session), words::NOT_AS_ASKED, &failure.message)
            }
        }
    }

    async fn login(&self, peer: &Peer, form: &Fields) -> Result<Answer, Trouble> {
        let name = form.get("user").trim();
        let password = Zeroizing::new(form.get("password").to_owned());
        if let Err(wait) = self.throttle.take(peer.address, name, clock::monotonic()) {
            let words = words::too_many_tries(wait.as_secs() + 1);
            return Ok(self.login_page(StatusCode::TOO_MANY_REQUESTS, Some(&words)));
        }
        let known = self.accounts.now(&self.daemon.config().operator.users_file);
        let account = known.and_then(|accounts| {
            accounts.iter().find(|account| account.name.as_str() == name).cloned()
        });
        // One at a time: each needs memory and a core for a moment.
        let Ok(Ok(_turn)) = timeout(HASH_TIME_MAX, self.hashing.acquire()).await else {
            return Err(Trouble::Busy);
        };
        let kept = account.as_ref().map(|account| account.password_hash.clone());
        let compared = spawn_blocking(move || passwords::is_right(&password, kept.as_deref()));
        let is_right = compared.await.map_err(|error| Trouble::Unreadable(error.to_string()))?;
        let Some(account) = account.filter(|_| is_right) else {
            if strangers::WRONG_KEYS.admits_line() {
                log::warn!("a wrong user or password at the console, from {}", peer.address);
            }
            let words = Some(words::WRONG_LOGIN);
            return Ok(self.login_page(StatusCode::FORBIDDEN, words));
        };
        self.throttle.give_back(peer.address, name);
        log::info!("{} logged in at the console, from {}", account.name, peer.address);
        let secret = self
            .sessions
            .begin(account, clock::monotonic())
            .map_err(|error| Trouble::Unreadable(error.to_string()))?;
        let answer = http::see_other("/");
        let answer = self.with_cookie(answer, "tilld-login", None);
        Ok(self.with_cookie(answer, "tilld", Some(&secret)))
    }

    /// The page to log in at, or what to do first.
    fn login_page(&self, status: StatusCode, problem: Option<&str>) -> Answer {
        let accounts = self.accounts.now(&self.daemon.config().operator.users_file);
        let is_empty = accounts.as_ref().is_some_and(|accounts| accounts.is_empty());
        if is_empty {
            let content = html! {
                p { (words::NOBODY) " " (words::NOBODY_HELP) }
                pre { code { (words::NOBODY_COMMAND) } }
            };
            return http::page(status, frame::whole(words::LOG_IN, None, None, &content));
        }
        let Ok(token) = sessions::new_secret() else {
            return self::problem(StatusCode::SERVICE_UNAVAILABLE, None, words::BUSY, "");
        };
        let content = if accounts.is_none() {
            frame::message(words::USERS_UNREADABLE, words::USERS_UNREADABLE_HELP)
        } else {
            login_form(&token, problem)
        };
        let page = http::page(status, frame::whole(words::LOG_IN, None, None, &content));
        self.with_cookie(page, "tilld-login", Some(&token))
    }

    /// Whose request it is, if somebody's who is logged in.
    fn session(&self, request: &Request<Incoming>) -> Option<Session> {
        let secret = self.cookie(request, "tilld")?;
        let accounts = self.accounts.now(&self.daemon.config().operator.users_file)?;
        let is_in_use = !http::is_refresh(request.headers());
        self.sessions.find(&secret, &accounts, is_in_use, clock::monotonic())
    }

    fn cookie(&self, request: &Request<Incoming>, name: &str) -> Option<String> {
        http::cookie(request.headers(), &self.cookie_name(name)).map(str::to_owned)
    }

    fn with_cookie(&self, answer: Answer, name: &str, value: Option<&str>) -> Answer {
        http::with_cookie(answer, &self.cookie_name(name), value, self.is_plain)
    }

    /// Behind TLS the browser itself sees to it that nobody else has set it.
    fn cookie_name(&self, name: &str) -> String {
        if self.is_plain { name.to_owned() } else { format!("__Host-{name}") }
    }
}

impl Asked<'_> {
    fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    fn before(&self) -> Option<Sequence> {
        self.query.get("before").parse().ok()
    }

    fn tab(&self, tab: Tab, title: &str, content: &Markup) -> Answer {
        let live = tab.is_live().then(|| frame::live(content, now()));
        let content = live.as_ref().unwrap_or(content);
        http::page(StatusCode::OK, frame::whole(title, Some(tab), Some(self.session), content))
    }
}

/// Whether there is something for who is logged in.
fn is_page(path: &str) -> bool {
    Tab::ALL.iter().any(|tab| tab.path() == path) || path.starts_with("/collections/")
}

fn not_there(session: Option<&Session>) -> Answer {
    problem(StatusCode::NOT_FOUND, session, words::NOT_THERE, words::NOT_THERE_HELP)
}

/// A page that says what did not go as asked, and what follows from that.
fn problem(status: StatusCode, session: Option<&Session>, what: &str, then: &str) -> Answer {
    let content = frame::message(what, then);
    let title =
        if status == StatusCode::NOT_FOUND { words::NOT_FOUND } else { words::NOT_AS_ASKED };
    http::page(status, frame::whole(title, None, session, &content))
}

fn login_form(token: &str, problem: Option<&str>) -> Markup {
    html! {
        @if let Some(problem) = problem {
            p.light.bad role="alert" { (frame::sign(Light::Bad)) (problem) }
        }
        form.login method="post" action="/login" {
            input type="hidden" name="token" value=(token);
            label for="user" { (words::USER) }
            input #user name="user" autocomplete="username" maxlength="64" autocapitalize="none"
                spellcheck="false" required;
            label for="password" { (words::PASSWORD) }
            input #password name="password" type="password" autocomplete="current-password"
                maxlength=(passwords::PASSWORD_CHARS_MAX) required;
            button { (words::LOG_IN) }
        }
    }
}

/// Whether two secrets are the same, in a time that tells nothing.
fn is_same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

fn now() -> AcceptedAt {
    AcceptedAt::new(clock::now())
}
