//! `tilld demo`: the real daemon in this process, in sandbox mode, on loopback, in a directory of
//! its own; posts what SkyPay has published and shows what comes back.

use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::pin;

use log::LevelFilter;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::serve;
use super::till::Till;
use crate::config::Config;
use crate::net::tls;
use crate::operator::{Exit, Failure};
use crate::skypay::cipher::{Password, Sealed};
use crate::system::logging;
use crate::system::sockets::Kept;

const USER_NAME: &str = "AppName@skypay";
const KEY: &str = "30AC21B2-9EAA-4503-B0F0-7BE5C277ED75";
const PASSWORD: &str = "k3yForTests-01";

/// The sample of edition 001, word for word.
const SAMPLE_001: &str = r#"{
    "userName" : "AppName@skypay",
    "action" : "collectionCollect",
    "authentication" : "30AC21B2-9EAA-4503-B0F0-7BE5C277ED75",
    "controlNumber" : "SKY0XXXXXXXXXX",
    "amount" : "3900.00",
    "phone" : "6392210083333",
    "receiptNumber" : "B6C13B76E4BF",
    "collectedTime" : "2018-06-18 17:52:10",
    "payChannel" : "1"
}"#;

/// The sample of edition 004, word for word.
const SAMPLE_004: &str = r#"{
    "userName":"AppName@skypay",
    "action":"collectionCollect",
    "authentication":"30AC21B2-9EAA-4503-B0F0-7BE5C277ED75",
    "contractNumber":"SKY0XXXXXXXXXX",
    "amount":"3900.00",
    "phone":"6392210083333",
    "receiptNumber":"B6C13B76E4BF",
    "collectedTime":"2018-06-18 17:52:10",
    "payChannel":"1"
}"#;

/// One request and the code that the protocol documents for it.
struct Step {
    title: &'static str,
    body: String,
    encrypted: bool,
    documented: &'static str,
}

fn steps() -> Vec<Step> {
    let plain =
        |title, body: String, documented| Step { title, body, encrypted: false, documented };
    let other = |contract: &str, receipt: &str| {
        SAMPLE_004.replace("SKY0XXXXXXXXXX", contract).replace("B6C13B76E4BF", receipt)
    };
    vec![
        plain("The sample of edition 001, word for word", SAMPLE_001.to_owned(), "1000"),
        plain("The sample of edition 004: the same collection", SAMPLE_004.to_owned(), "-1015"),
        plain(
            "An amount that is a number",
            other("SKY0112345678", "R-0001").replace("\"3900.00\"", "3400.00"),
            "1000",
        ),
        Step {
            title: "Encrypted, as SkyPay's servers send it",
            body: other("SKY0112345679", "R-0002"),
            encrypted: true,
            documented: "1000",
        },
        plain("Another amount", SAMPLE_004.replace("3900.00", "3901.00"), "2005"),
        plain("Another receipt", other("SKY0XXXXXXXXXX", "B6C13B76E4C0"), "-1026"),
        plain("A wrong key", SAMPLE_004.replace(KEY, "a wrong key"), "-1001"),
        plain("Malformed", SAMPLE_004.replace("\"1\"\n}", "\"1\",\n}"), "2001"),
    ]
}

/// Shows the demo; with `once` it ends after the last answer instead of going on serving.
pub fn run(once: bool) -> Result<(), Failure> {
    logging::start(LevelFilter::Error)?;
    let runtime = serve::runtime()?;
    // From before the directory is made, so that it is removed however the demo is ended.
    let asked_to_stop = {
        let _guard = runtime.enter();
        asked_to_stop()?
    };
    let directory = TempDir::with_prefix("tilld-demo-")?;
    let config_file = directory.path().join("tilld.toml");
    write_configuration(directory.path())?;
    let config = Config::load(&config_file)?;
    let ended = runtime.block_on(async {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, listening) = oneshot::channel();
        let daemon = serve::serve(config, Kept::nothing(), ready, async { drop(stopped.await) });
        let visitor = async {
            let Ok(address) = listening.await else { return Ok(()) };
            let shown = guide(&config_file, address, once, asked_to_stop).await;
            drop(stop);
            shown
        };
        let (served, shown) = tokio::join!(daemon, visitor);
        served.and(shown)
    });
    // The check beside the daemon may still be reading: that its database goes is no news.
    log::set_max_level(LevelFilter::Off);
    directory.close()?;
    ended
}

/// Resolves at whatever ends the daemon, and when the terminal is closed.
fn asked_to_stop() -> io::Result<impl Future<Output = ()>> {
    let asked = serve::asked_to_stop()?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            () = asked => {}
            _ = hangup.recv() => {}
        }
    })
}

/// Shows all of it, and then stays until asked to stop, unless `once`.
async fn guide(
    config_file: &Path,
    address: SocketAddr,
    once: bool,
    asked_to_stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut out = io::stdout();
    let mut asked_to_stop = pin!(asked_to_stop);
    tokio::select! {
        shown = show(&mut out, config_file, address) => shown?,
        () = &mut asked_to_stop => {
            return Err(Failure::new(Exit::Error, "ended before the last answer"));
        }
    }
    if !once {
        writeln!(out, "\nServing until Ctrl-C.")?;
        asked_to_stop.await;
    }
    Ok(())
}

fn write_configuration(directory: &Path) -> io::Result<()> {
    let configuration = format!(
        "mode = \"sandbox\"\n\
         state_dir = \"state\"\n\
         disk_reserve = \"1 MiB\"\n\n\
         [endpoint]\n\
         listen = \"127.0.0.1:0\"\n\n\
         [operator]\n\
         listen = \"127.0.0.1:0\"\n\
         socket = \"tilld.sock\"\n\n\
         [[caller]]\n\
         user_name = \"{USER_NAME}\"\n\
         authentication_file = \"demo.keys\"\n\
         encryption_file = \"demo.passwords\"\n"
    );
    for (name, text) in
        [("tilld.toml", configuration.as_str()), ("demo.keys", KEY), ("demo.passwords", PASSWORD)]
    {
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(directory.join(name))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

async fn show(
    out: &mut impl Write,
    config_file: &Path,
    address: SocketAddr,
) -> Result<(), Failure> {
    let certificate = config_file.with_file_name("state").join("tls/cert.pem");
    let client = Client::new(address, &certificate)?;
    writeln!(
        out,
        "tilld answers on https://{address}/collectionCollect (sandbox, loopback only)\n"
    )?;
    let mut undocumented = 0;
    for (i, step) in steps().iter().enumerate() {
        writeln!(out, "{}. {}", i + 1, step.title)?;
        writeln!(out, "{}", indented(&step.body, "   > "))?;
        let answer = client.post(out, step).await?;
        writeln!(out, "{}", indented(&answer, "   < "))?;
        let code = code_of(&answer);
        if code == step.documented {
            writeln!(out, "   = {code}, as documented\n")?;
        } else {
            undocumented += 1;
            writeln!(out, "   ! {code}, but {} is documented\n", step.documented)?;
        }
    }
    writeln!(
        out,
        "Try it yourself:\n  curl --cacert {} https://localhost:{}/collectionCollect --data '{}'",
        certificate.display(),
        address.port(),
        SAMPLE_004
            .replace("SKY0XXXXXXXXXX", "SKY0100000001")
            .replace("B6C13B76E4BF", "R-0003")
            .replace("\n    ", "")
            .replace('\n', "")
    )?;
    writeln!(out, "Read the books:\n  tilld list --config {}", config_file.display())?;
    match undocumented {
        0 => Ok(()),
        count => Err(Failure::new(Exit::Error, format!("{count} answers were not documented"))),
    }
}

/// Posts the steps.
struct Client(Till);

impl Client {
    fn new(address: SocketAddr, certificate: &Path) -> Result<Client, Failure> {
        let certificate = tls::describe(certificate)
            .map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        Ok(Client(Till::new(address, &certificate.fingerprint)))
    }

    /// Posts the step's body, and gives the answer decrypted.
    async fn post(&self, out: &mut impl Write, step: &Step) -> Result<String, Failure> {
        let password = Password::new(PASSWORD);
        let body = if step.encrypted { password.seal(&step.body) } else { step.body.clone() };
        if step.encrypted {
            writeln!(out, "{}", indented(&body, "   > "))?;
        }
        let answered = self.0.post(body).await;
        let answer = answered
            .map_err(|error| Failure::new(Exit::Error, format!("the demo's till: {error}")))?
            .body;
        if !step.encrypted {
            return Ok(answer);
        }
        writeln!(out, "{}", indented(&answer, "   < "))?;
        Sealed::decode(answer.as_bytes())
            .and_then(|sealed| password.open(&sealed))
            .ok_or_else(|| Failure::new(Exit::Error, "the answer is not encrypted as expected"))
    }
}

fn code_of(answer: &str) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        response_code: String,
    }
    serde_json::from_str::<Answer>(answer).map_or_else(|_| "none".to_owned(), |a| a.response_code)
}

/// The text with `margin` before each line; the long lines of base64, which nobody reads, are cut.
fn indented(text: &str, margin: &str) -> String {
    let line = |line: &str| match line.char_indices().nth(200) {
        Some((cut, _)) => format!("{margin}{}…", &line[..cut]),
        None => format!("{margin}{line}"),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
