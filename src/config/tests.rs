//! What must hold of the configuration as a whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use tempfile::TempDir;

use super::load::{Surroundings, load};
use super::*;

/// The documented example, with every `…` filled in.
const EXAMPLE: &str = r#"
mode = "live"                        # or "sandbox": takes samples, sends nothing
state_dir = "/var/lib/tilld"
disk_reserve = "64 MiB"

[endpoint]
listen = "0.0.0.0:8443"
contracts = "single"                 # or "installments"
prefixes = []                        # e.g. ["SKY98"]
reply_code = "string"                # or "number"
connections_max = 1024               # at the maximum the longest-idle connection is closed
connections_per_address_max = 256

[endpoint.tls]                       # no certificate: a self-signed one is made in state_dir/tls
names = []                           # further names for it
certificate = "/etc/tilld/tls/cert.pem"
private_key = "/etc/tilld/tls/key.pem"
client_ca = "/etc/tilld/tls/pos-ca.pem"      # optional: callers must present a certificate

[[caller]]
user_name = "AppName@skypay"
authentication_file = "/etc/tilld/secrets.d/skypay.keys"     # one key per line, all active
encryption_file = "/etc/tilld/secrets.d/skypay.passwords"    # optional: takes encrypted bodies
require_encryption = false
allow_from = ["192.168.10.0/24"]     # optional; the socket's peer, forwarding headers are ignored
branch = "MNL-042"                   # optional: another tilld relaying for that branch

[upstream]                           # left out: nothing waits, rows are kept
url = "https://collect.example.com/collectionCollect"
branch = "MNL-042"
user_name = "branch-mnl-042"
authentication_file = "/etc/tilld/secrets.d/upstream.key"
encryption_file = "/etc/tilld/secrets.d/upstream.password"  # optional
ca_file = "/etc/tilld/tls/upstream-ca.pem"                  # optional; default the system's store
client_certificate = "/etc/tilld/tls/branch.pem"            # optional, with client_key
client_key = "/etc/tilld/tls/branch.key"
concurrency = 128
connect_timeout = "5 s"
timeout = "15 s"

[operator]
listen = "127.0.0.1:9443"            # console, metrics, health; TLS unless on loopback
socket = "/run/tilld/tilld.sock"
users_file = "/etc/tilld/users"
metrics_takings = false

[backup]
directory = "/var/lib/tilld/backups"
keep_days = 7

[log]
level = "info"
"#;

const CALLER: &str = "[[caller]]\nuser_name = \"till\"\nauthentication_file = \"till.keys\"\n";

const UPSTREAM: &str = "[upstream]\nurl = \"https://hq.example\"\nbranch = \"B1\"\n\
                        user_name = \"b1\"\nauthentication_file = \"b1.key\"\n";

/// A directory with configuration files in it, which are not the unit's unless a test says so.
struct Files {
    directory: TempDir,
    surroundings: Surroundings,
}

impl Files {
    fn with(main: &str) -> Files {
        let directory = tempfile::tempdir().unwrap();
        let surroundings = Surroundings { runtime_dir: None, credentials_dir: None };
        let files = Files { directory, surroundings };
        files.and("tilld.toml", main)
    }

    fn and(self, name: &str, text: &str) -> Files {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The configuration, or the error with the directory's name shortened to `DIR`.
    fn load(&self) -> Result<Config, String> {
        let directory = self.directory.path().to_str().unwrap();
        load(&self.path("tilld.toml"), &self.surroundings)
            .map_err(|error| error.to_string().replace(directory, "DIR"))
    }
}

fn valid(text: &str) -> Config {
    Files::with(text).load().unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// Asserts that a file is refused with an error that shows a place and has all these parts.
#[track_caller]
fn assert_refused(text: &str, parts: &[&str]) {
    let error = Files::with(text).load().expect_err(text);
    assert!(error.starts_with("DIR/tilld.toml:") && error.contains('^'), "{error}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
}

#[test]
fn an_empty_file_is_valid_and_has_the_documented_defaults() {
    let files = Files::with("");
    let expected = Config {
        file: files.path("tilld.toml"),
        mode: Mode::Live,
        state_dir: "/var/lib/tilld".into(),
        disk_reserve: 67_108_864,
        endpoint: Endpoint {
            listen: "0.0.0.0:8443".parse().unwrap(),
            contracts: ContractPolicy::Single,
            prefixes: vec![],
            reply_code: ReplyCode::String,
            connections_max: 1024,
            connections_per_address_max: 256,
            tls: Tls { names: vec![], files: None, client_ca: None },
        },
        callers: vec![],
        upstream: None,
        operator: Operator {
            listen: "127.0.0.1:9443".parse().unwrap(),
            socket: "/var/lib/tilld/tilld.sock".into(),
            status_file: "/var/lib/tilld/status.json".into(),
            users_file: "/etc/tilld/users".into(),
            metrics_takings: false,
        },
        backup: Backup { directory: "/var/lib/tilld/backups".into(), keep_days: 7 },
        log: Log { level: LevelFilter::Info },
    };
    assert_eq!(files.load(), Ok(expected));
}

#[test]
fn the_example_of_the_design_is_valid_and_its_values_are_the_defaults() {
    let config = valid(EXAMPLE);
    let defaults = valid("");
    assert_eq!(
        config.endpoint.tls.files.as_ref().unwrap().private_key,
        Path::new("/etc/tilld/tls/key.pem")
    );
    assert_eq!(
        config.endpoint.tls.client_ca.as_deref(),
        Some(Path::new("/etc/tilld/tls/pos-ca.pem"))
    );
    let caller = Caller {
        user_name: UserName::parse("AppName@skypay").unwrap(),
        authentication_file: "/etc/tilld/secrets.d/skypay.keys".into(),
        encryption_file: Some("/etc/tilld/secrets.d/skypay.passwords".into()),
        require_encryption: false,
        allow_from: vec!["192.168.10.0/24".parse().unwrap()],
        branch: Some(BranchName::parse("MNL-042").unwrap()),
    };
    assert_eq!(config.callers, [caller]);
    let upstream = Upstream {
        url: Uri::from_static("https://collect.example.com/collectionCollect"),
        branch: BranchName::parse("MNL-042").unwrap(),
        user_name: UserName::parse("branch-mnl-042").unwrap(),
        authentication_file: "/etc/tilld/secrets.d/upstream.key".into(),
        encryption_file: Some("/etc/tilld/secrets.d/upstream.password".into()),
        ca_file: Some("/etc/tilld/tls/upstream-ca.pem".into()),
        client_certificate: Some(CertificateFiles {
            certificate: "/etc/tilld/tls/branch.pem".into(),
            private_key: "/etc/tilld/tls/branch.key".into(),
        }),
        concurrency: 128,
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(15),
    };
    assert_eq!(config.upstream, Some(upstream));
    assert_eq!(config.operator.socket, Path::new("/run/tilld/tilld.sock"));
    assert_eq!(config.operator.status_file, Path::new("/run/tilld/status.json"));

    // What is left has to be what an empty file gives.
    let shown = Config {
        file: defaults.file.clone(),
        endpoint: Endpoint { tls: defaults.endpoint.tls.clone(), ..config.endpoint },
        callers: vec![],
        upstream: None,
        operator: Operator {
            socket: defaults.operator.socket.clone(),
            status_file: defaults.operator.status_file.clone(),
            ..config.operator
        },
        ..config
    };
    assert_eq!(shown, defaults);
}

#[test]
fn an_upstream_has_the_documented_defaults() {
    let upstream = valid(UPSTREAM).upstream.unwrap();
    let example = valid(EXAMPLE).upstream.unwrap();
    assert_eq!(upstream.concurrency, example.concurrency);
    assert_eq!(upstream.connect_timeout, example.connect_timeout);
    assert_eq!(upstream.timeout, example.timeout);
    assert_eq!(
        (upstream.encryption_file, upstream.ca_file, upstream.client_certificate),
        (None, None, None)
    );
}

#[test]
fn an_error_shows_the_place_the_line_what_is_wrong_and_what_is_allowed() {
    let error = Files::with("[endpoint]\n\nlisten = \"0.0.0.0\" # Ñ\n").load().unwrap_err();
    assert_eq!(
        error,
        "DIR/tilld.toml:3:10: `endpoint.listen` is not valid\n\
         \x20 |\n\
         3 | listen = \"0.0.0.0\" # Ñ\n\
         \x20 |          ^^^^^^^^^\n\
         expected an IP address and a port such as \"0.0.0.0:8443\""
    );
}

#[test]
fn an_unknown_key_is_shown_with_the_known_ones_but_without_its_value() {
    let error = Files::with(&format!("{CALLER}authentication = \"hunter2\"\n")).load().unwrap_err();
    assert_eq!(
        error,
        "DIR/tilld.toml:4:1: unknown field `authentication`, expected one of `user_name`, \
         `authentication_file`, `encryption_file`, `require_encryption`, `allow_from`, `branch`, \
         in `caller`\n\
         \x20 |\n\
         4 | authentication …\n\
         \x20 | ^^^^^^^^^^^^^^"
    );
    for text in [
        "mod = \"live\"",
        "[endpoint]\nlisen = 1",
        "[endpoint.tls]\nname = 1",
        "[upstream]\nurls = 1",
        "[operator]\nx = 1",
        "[backup]\nx = 1",
        "[log]\nx = 1",
        "[tls]\n",
    ] {
        assert_refused(text, &["unknown field `", "expected "]);
    }
}

#[test]
fn a_value_of_the_wrong_type_is_refused_in_place() {
    assert_refused("mode = 1", &[":1:8:", "expected a string, in `mode`"]);
    assert_refused("[endpoint]\nlisten = true", &[":2:10:", "in `endpoint.listen`"]);
    assert_refused("endpoint = 3", &["expected a section [endpoint]"]);
    assert_refused("[operator]\nmetrics_takings = 1", &["expected a boolean"]);
    assert_refused("[endpoint]\nprefixes = \"SKY98\"", &["expected a sequence"]);
    assert_refused("[endpoint]\nprefixes = [\"SKY98\", 5]", &[":2:22:", "expected a string"]);
    assert_refused("[caller]\nuser_name = \"a\"", &["expected a sequence, in `caller`"]);
    assert_refused("caller = [1]", &["sections [[caller]], in double brackets"]);
}

#[test]
fn what_is_not_toml_is_refused_in_place() {
    assert_refused("mode = live", &[":1:8:"]);
    assert_refused("mode = \"live", &[":1:13:"]);
    assert_refused("mode = \"live\"\nmode = \"live\"", &[":2:1:", "duplicate key"]);
    let error = Files::with("").and("conf.d/a.toml", "\n[log").load().unwrap_err();
    assert!(error.starts_with("DIR/conf.d/a.toml:2:"), "{error}");
}

#[test]
fn an_unknown_word_is_refused_with_the_known_ones() {
    assert_refused("mode = \"test\"", &["`mode`", "expected \"live\" or \"sandbox\""]);
    assert_refused("mode = \"Live\"", &["`mode`"]);
    let contracts = "[endpoint]\ncontracts = \"many\"";
    assert_refused(contracts, &["`endpoint.contracts`", "\"single\" or \"installments\""]);
    let reply_code = "[endpoint]\nreply_code = \"int\"";
    assert_refused(reply_code, &["`endpoint.reply_code`", "\"string\" or \"number\""]);
    assert_refused("[log]\nlevel = \"off\"", &["`log.level`", "\"warn\" or \"info\""]);
}

#[test]
fn sizes_have_a_unit_or_are_bytes() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("\"512 KiB\"", 524_288),
        ("\"64MiB\"", 67_108_864),
        ("\"1 GiB\"", 1_073_741_824),
    ] {
        assert_eq!(valid(&format!("disk_reserve = {text}")).disk_reserve, bytes);
    }
    for text in [
        "-1",
        "1.5",
        "true",
        "\"\"",
        "\"64\"",
        "\"64 MB\"",
        "\"-1 MiB\"",
        "\"1.5 GiB\"",
        "\" 1 GiB\"",
        "\"1  GiB\"",
        "\"GiB\"",
        "\"99999999999 GiB\"",
    ] {
        assert_refused(&format!("disk_reserve = {text}"), &["`disk_reserve`", "\"64 MiB\""]);
    }
}

#[test]
fn durations_have_a_unit_and_are_neither_nothing_nor_endless() {
    for (text, ms) in [("500 ms", 500), ("5 s", 5000), ("5s", 5000), ("2 min", 120_000)] {
        let upstream = valid(&format!("{UPSTREAM}timeout = \"{text}\"")).upstream.unwrap();
        assert_eq!(upstream.timeout, Duration::from_millis(ms));
    }
    for text in ["5", "\"5\"", "\"0 s\"", "\"5 h\"", "\"-5 s\"", "\"61 min\"", "\"5.5 s\""] {
        let connect_timeout = format!("{UPSTREAM}connect_timeout = {text}");
        assert_refused(&connect_timeout, &["`upstream.connect_timeout`", "\"500 ms\""]);
    }
}

#[test]
fn numbers_have_bounds() {
    for text in ["0", "-1", "65536", "\"9\"", "1.0"] {
        let connections = format!("[endpoint]\nconnections_max = {text}");
        assert_refused(&connections, &["`endpoint.connections_max`", "from 1 to 65535"]);
        let per_address = format!("[endpoint]\nconnections_per_address_max = {text}");
        assert_refused(&per_address, &["`endpoint.connections_per_address_max`"]);
    }
    let concurrency = format!("{UPSTREAM}concurrency = 257");
    assert_refused(&concurrency, &["`upstream.concurrency`", "from 1 to 256"]);
    assert_refused("[backup]\nkeep_days = 0", &["`backup.keep_days`", "from 1 to 3650"]);
}

#[test]
fn one_address_never_has_more_connections_than_all_together() {
    let text = "[endpoint]\nconnections_max = 100\nconnections_per_address_max = 101";
    assert_refused(text, &[":3:31:", "`connections_max`, which is 100"]);
    let endpoint = valid("[endpoint]\nconnections_max = 100").endpoint;
    assert_eq!(endpoint.connections_per_address_max, 100);
}

#[test]
fn bad_addresses_names_and_prefixes_are_refused_in_place() {
    assert_refused("[operator]\nlisten = \"localhost:9443\"", &["`operator.listen`"]);
    assert_refused("[endpoint]\nlisten = \"0.0.0.0:99999\"", &["`endpoint.listen`"]);
    let prefixes = "[endpoint]\nprefixes = [\"SKY98\", \"SKY9\"]";
    assert_refused(prefixes, &[":2:22:", "`endpoint.prefixes`", "5 capital letters"]);
    let names = "[endpoint.tls]\nnames = [\"till.local\", \"10.0.0.5\", \"not a name\"]";
    assert_refused(names, &[":2:36:", "`endpoint.tls.names`", "a host name"]);
    for network in ["192.168.10.0/33", "192.168.10", "till.local", ""] {
        let allow_from = format!("{CALLER}allow_from = [\"10.0.0.0/8\", \"{network}\"]");
        assert_refused(&allow_from, &[":4:29:", "`caller.allow_from`", "192.168.10.0/24"]);
    }
    assert_refused(&format!("{CALLER}branch = \"Ñ\""), &["`caller.branch`", "1 to 32 letters"]);
}

#[test]
fn a_bare_address_is_a_network_of_one() {
    let config = valid(&format!("{CALLER}allow_from = [\"10.0.0.5\", \"::1\", \"fd00::/8\"]"));
    let networks: Vec<_> = config.callers[0].allow_from.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.5/32", "::1/128", "fd00::/8"]);
}

#[test]
fn a_certificate_and_its_key_come_together() {
    let certificate = "[endpoint.tls]\ncertificate = \"c.pem\"";
    assert_refused(certificate, &["`endpoint.tls.certificate` stands without `private_key`"]);
    let private_key = "[endpoint.tls]\nprivate_key = \"k.pem\"";
    assert_refused(private_key, &["`endpoint.tls.private_key` stands without `certificate`"]);
    let certificate = format!("{UPSTREAM}client_certificate = \"c.pem\"");
    assert_refused(&certificate, &["`upstream.client_certificate` stands without `client_key`"]);
    let client_key = format!("{UPSTREAM}client_key = \"k.pem\"");
    assert_refused(&client_key, &["`upstream.client_key` stands without `client_certificate`"]);
}

#[test]
fn a_caller_has_a_name_and_keys_and_what_it_requires() {
    assert_refused("[[caller]]\nuser_name = \"a\"", &[":1:1:", "`authentication_file`", "caller"]);
    assert_refused("[[caller]]\nauthentication_file = \"a\"", &[":1:1:", "`user_name`"]);
    let blank = "[[caller]]\nuser_name = \" \"\nauthentication_file = \"a\"";
    assert_refused(blank, &["`caller.user_name`", "1 to 50 characters"]);
    let required = format!("{CALLER}require_encryption = true");
    assert_refused(&required, &[":4:22:", "stands without `encryption_file`"]);
    assert!(valid(&format!("{required}\nencryption_file = \"p\"")).callers[0].require_encryption);
}

#[test]
fn an_upstream_is_complete_and_https() {
    for key in ["url", "branch", "user_name", "authentication_file"] {
        let lines = UPSTREAM.split_inclusive('\n');
        let without: String = lines.filter(|line| !line.starts_with(key)).collect();
        assert_refused(&without, &[":1:1:", &format!("`upstream.{key}` is missing")]);
    }
    for url in [
        "http://hq.example/",
        "hq.example",
        "/collectionCollect",
        "https://",
        "https://user:hunter2@hq.example/",
        "",
    ] {
        let text = UPSTREAM.replace("https://hq.example", url);
        assert_refused(&text, &[":2:7:", "`upstream.url`", "\"https://collect."]);
    }
}

#[test]
fn later_files_replace_key_by_key_in_byte_order_of_their_names() {
    let main = "mode = \"sandbox\"\n[endpoint]\nprefixes = [\"SKY01\", \"SKY02\"]\n\
                listen = \"1.1.1.1:1\"\ncontracts = \"installments\"";
    let files = Files::with(main)
        .and("conf.d/9.toml", "[endpoint]\nlisten = \"9.9.9.9:9\"")
        .and("conf.d/10.toml", "[endpoint]\nlisten = \"10.10.10.10:10\"\nprefixes = [\"SKY03\"]")
        .and("conf.d/B.toml", "[endpoint.tls]\nnames = [\"b\"]")
        .and("conf.d/a.toml", "[endpoint.tls]\nnames = [\"a\"]")
        .and("conf.d/.a.toml", "this is not read")
        .and("conf.d/a.toml~", "this is not read");
    let config = files.load().unwrap();
    assert_eq!(config.mode, Mode::Sandbox);
    assert_eq!(config.endpoint.contracts, ContractPolicy::Installments);
    assert_eq!(config.endpoint.listen.to_string(), "9.9.9.9:9");
    assert_eq!(config.endpoint.prefixes, [Prefix::parse("SKY03").unwrap()]);
    assert_eq!(config.endpoint.tls.names, ["a"]);
}

#[test]
fn callers_of_all_files_are_taken_in_order() {
    let files = Files::with(CALLER)
        .and("conf.d/b.toml", &CALLER.replace("till", "bravo"))
        .and("conf.d/a.toml", &CALLER.replace("till", "alpha"));
    let callers = files.load().unwrap().callers;
    let names: Vec<_> = callers.iter().map(|caller| caller.user_name.as_str()).collect();
    assert_eq!(names, ["till", "alpha", "bravo"]);
}

#[test]
fn a_repeated_user_name_is_refused_naming_both_places() {
    let files = Files::with(CALLER).and("conf.d/a.toml", &format!("\n{CALLER}"));
    let error = files.load().unwrap_err();
    assert!(error.starts_with("DIR/conf.d/a.toml:3:13: `caller.user_name` \"till\""), "{error}");
    assert!(error.contains("it is already in DIR/tilld.toml:2:13"), "{error}");
    assert_refused(&CALLER.repeat(2), &["DIR/tilld.toml:5:13:", "DIR/tilld.toml:2:13"]);
}

#[test]
fn an_upstream_and_a_certificate_may_be_split_over_files() {
    let main = "[upstream]\nurl = \"https://hq.example\"\nbranch = \"B1\"\n\
                [endpoint.tls]\ncertificate = \"c\"";
    let drop_in = "[upstream]\nuser_name = \"b1\"\nauthentication_file = \"k\"\n\
                   [endpoint.tls]\nprivate_key = \"p\"";
    let files = Files::with(main).and("conf.d/a.toml", drop_in);
    let config = files.load().unwrap();
    assert_eq!(config.upstream.unwrap().authentication_file, files.path("conf.d/k"));
    let certificate = config.endpoint.tls.files.unwrap();
    assert_eq!(certificate.certificate, files.path("c"));
    assert_eq!(certificate.private_key, files.path("conf.d/p"));
}

#[test]
fn relative_paths_start_from_their_files_directory() {
    let files = Files::with(&format!("state_dir = \"state\"\n{CALLER}"));
    let config = files.load().unwrap();
    assert_eq!(config.state_dir, files.path("state"));
    assert_eq!(config.callers[0].authentication_file, files.path("till.keys"));
    assert_eq!(config.backup.directory, files.path("state/backups"));
    assert_refused("state_dir = \"\"", &["`state_dir`", "expected a path"]);
}

#[test]
fn credentials_of_systemd_are_found_through_its_variable() {
    let text = CALLER.replace("till.keys", "${CREDENTIALS_DIRECTORY}/till.keys");
    let mut files = Files::with(&text);
    let error = files.load().unwrap_err();
    assert!(error.contains("`caller.authentication_file` needs the environment"), "{error}");
    assert!(error.contains(":3:23:") && error.contains("unset here"), "{error}");
    files.surroundings.credentials_dir = Some("/run/credentials/tilld.service".into());
    let file = &files.load().unwrap().callers[0].authentication_file;
    assert_eq!(file, Path::new("/run/credentials/tilld.service/till.keys"));
    assert_refused("state_dir = \"${HOME}/tilld\"", &["unknown variable"]);
}

#[test]
fn the_socket_lives_in_the_runtime_directory_of_the_unit_or_with_the_state() {
    let mut files = Files::with("state_dir = \"state\"");
    assert_eq!(files.load().unwrap().operator.socket, files.path("state/tilld.sock"));
    files.surroundings.runtime_dir = Some(files.directory.path().to_owned());
    let operator = files.load().unwrap().operator;
    assert_eq!(operator.socket, files.path("tilld.sock"));
    assert_eq!(operator.status_file, files.path("status.json"));
    let files = Files::with("[operator]\nsocket = \"/srv/till/control\"");
    assert_eq!(files.load().unwrap().operator.status_file, Path::new("/srv/till/status.json"));
}

#[test]
fn a_missing_a_huge_and_a_binary_file_are_refused_by_name() {
    let missing = Config::load(Path::new("/nonexistent/tilld.toml")).unwrap_err();
    let missing = missing.to_string();
    assert!(missing.starts_with("/nonexistent/tilld.toml: the configuration cannot"), "{missing}");
    let huge = Files::with(&"#".repeat(1024 * 1024 + 1)).load().unwrap_err();
    assert!(huge.contains("larger than 1 MiB"), "{huge}");
    let binary = Files::with("");
    fs::write(binary.path("tilld.toml"), b"mode = \"\xff\"").unwrap();
    let binary = binary.load().unwrap_err();
    assert!(binary.starts_with("DIR/tilld.toml: ") && binary.contains("UTF-8"), "{binary}");
}

#[test]
fn callers_read_their_own_secrets() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::with(CALLER).and("till.keys", "one\ntwo\n");
    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(files.path("till.keys"), mode).unwrap();
    let caller = &files.load().unwrap().callers[0];
    assert_eq!(caller.authentication_keys().unwrap().len(), 2);
    assert!(caller.encryption_passwords().unwrap().is_empty());
    fs::remove_file(files.path("till.keys")).unwrap();
    let error = caller.authentication_keys().unwrap_err().to_string();
    assert!(error.contains("caller till"), "{error}");
}

#[test]
fn upstream_sends_the_first_key_of_each_file() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::with(
        "[upstream]\n\
         url = \"https://collect.example.com/\"\n\
         branch = \"MNL-042\"\n\
         user_name = \"branch-mnl-042\"\n\
         authentication_file = \"upstream.key\"\n\
         encryption_file = \"upstream.password\"\n",
    )
    .and("upstream.key", "new\nold\n")
    .and("upstream.password", "sealed\n");
    for name in ["upstream.key", "upstream.password"] {
        fs::set_permissions(files.path(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    let mut upstream = files.load().unwrap().upstream.unwrap();
    assert_eq!(upstream.authentication_key().unwrap().as_str(), "new");
    assert_eq!(upstream.encryption_password().unwrap().unwrap().as_str(), "sealed");
    fs::remove_file(files.path("upstream.password")).unwrap();
    let error = upstream.encryption_password().unwrap_err().to_string();
    assert!(error.contains("[upstream]"), "{error}");
    upstream.encryption_file = None;
    assert!(upstream.encryption_password().unwrap().is_none());
}

#[test]
fn a_file_that_was_cut_off_anywhere_is_valid_or_refused_in_place() {
    let text = EXAMPLE.replace('\n', "\r\n");
    for end in (0..text.len()).step_by(7).filter(|&end| text.is_char_boundary(end)) {
        if let Err(error) = Files::with(&text[..end]).load() {
            assert!(error.starts_with("DIR/tilld.toml:") && error.contains('^'), "{end}: {error}");
        }
    }
}
