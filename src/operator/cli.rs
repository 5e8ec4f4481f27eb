//! What can be typed after `tilld`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config;
use crate::config::accounts::{AccountName, Role};
use crate::domain::Invalid;
use crate::domain::act::About;
use crate::domain::collection::ReceiptNumber;
use crate::domain::flags::Flag;
use crate::domain::provenance::KeyId;
use crate::domain::time::BusinessDate;
use crate::store::takings::Measure;

/// Takes collectionCollect confirmations in a branch and never loses one.
#[derive(Debug, Parser)]
#[command(name = "tilld", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration file; conf.d/*.toml beside it is read too
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/tilld/tilld.toml")]
    pub config: PathBuf,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground until SIGTERM or Ctrl-C
    Serve,
    /// Show what the daemon does: real answers to published samples, over real TLS
    Demo {
        /// End after the last answer; fail if any was not the documented one
        #[arg(long)]
        once: bool,
    },
    /// Tell how the daemon stands: what was collected, what waits, what needs a person
    Status {
        /// Tell it again each second, until Ctrl-C
        #[arg(long)]
        watch: bool,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Delivery to head office
    #[command(subcommand)]
    Sync(SyncCommand),
    /// List the branches that relay to here, and what of theirs is missing
    Branches {
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// List recorded collections, newest first
    List(ListArgs),
    /// List refused confirmations, newest first: a cashier may hold that cash
    #[command(args_conflicts_with_subcommands = true)]
    Refusals(RefusalsArgs),
    /// Tell what was taken on business dates: today, unless others are named
    Takings(TakingsArgs),
    /// Print collections for other programs, oldest first
    Export(ExportArgs),
    /// Compare a day with a report of SkyPay's or of head office's
    Reconcile(ReconcileArgs),
    /// Tell all that is known of a collection, or of a refusal
    Show {
        /// A contract, a receipt or a number; `collection:17` and `refusal:7` name one thing only
        #[arg(value_name = "REF", value_parser = reference())]
        reference: String,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Look at everything that can be wrong, and say what to do about it
    Doctor {
        /// Write all that support needs to this new file, without keys, passwords and whole phone
        /// numbers
        #[arg(long, value_name = "FILE")]
        bundle: Option<PathBuf>,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Have the daemon confirm a collection to itself, over TLS and through every check; it is kept
    /// apart from the books
    Selftest {
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Write a note beside a collection or a refusal; it stands on the tape under your name
    Note {
        /// A contract, a receipt or a number; `collection:17` and `refusal:7` name one thing only
        #[arg(value_name = "REF", value_parser = reference())]
        reference: String,
        /// What it says: 1 to 500 characters
        #[arg(value_name = "TEXT", required = true)]
        text: Vec<String>,
    },
    /// Contracts
    #[command(subcommand)]
    Contract(ContractCommand),
    /// Close a day's books: what comes later for it goes to the next open day
    Close {
        /// The business date, as yyyy-MM-dd; today's, too, but none to come
        #[arg(value_name = "DAY", value_parser = BusinessDate::parse)]
        day: BusinessDate,
        /// Also when head office has not got all of it
        #[arg(long)]
        with_undelivered: bool,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Check database and tape against each other, line by line
    Verify {
        /// Compare business dates from this one on, as yyyy-MM-dd
        #[arg(long, value_parser = BusinessDate::parse)]
        from: Option<BusinessDate>,
        /// Compare business dates up to this one
        #[arg(long, value_parser = BusinessDate::parse)]
        to: Option<BusinessDate>,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Make a new database from the tape; the daemon must be stopped
    Rebuild {
        /// Do so although the tape is damaged: what its bad lines told will be missing
        #[arg(long)]
        despite_damage: bool,
    },
    /// Take a changed configuration, its keys and certificates into the running daemon
    Reload,
    /// The keys that callers authenticate with
    #[command(subcommand)]
    Key(KeyCommand),
    /// The people who may log in at the web console
    #[command(subcommand)]
    User(UserCommand),
    /// Verified copies of database and tape
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Count what head office has not got, and leave the number in the state directory
    #[command(hide = true)]
    Undelivered,
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The certificate that tills are shown
    #[command(subcommand)]
    Cert(CertCommand),
}

/// Commands about delivery to head office.
#[derive(Debug, Subcommand)]
pub enum SyncCommand {
    /// Send at once what waits for its next try
    Now,
    /// Wait until nothing waits any more
    Wait {
        /// Give up after this time, such as "30 s" or "5 min"
        #[arg(long, value_name = "DURATION", default_value = "60 s")]
        #[arg(value_parser = config::duration)]
        timeout: Duration,
    },
    /// Send parked collections again
    Retry {
        /// Contracts, receipts or numbers; `collection:17` is that one alone
        #[arg(value_name = "REF", required_unless_present = "all_parked")]
        #[arg(value_parser = reference())]
        references: Vec<String>,
        /// All that are parked
        #[arg(long, conflicts_with = "references")]
        all_parked: bool,
    },
    /// List what head office did not take and why, oldest first
    Parked {
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Commands about keys. Several keys of a caller are taken at the same time, so that one can be
/// replaced while both are in use.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Add a key, read from standard input, and reload
    Add(KeyArgs),
    /// List the keys by their ids: since when they are there, and when one was last used
    List {
        /// Of this caller only
        caller: Option<String>,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Drop a key, and reload
    Drop {
        /// Whose, and of which kind
        #[command(flatten)]
        whose: KeyArgs,
        /// The key's id, as `tilld key list` shows it
        #[arg(value_parser = KeyId::parse)]
        key: KeyId,
    },
}

/// Whose keys.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// The caller, by its user name
    pub caller: String,
    /// The passwords of encrypted bodies instead of the keys
    #[arg(long)]
    pub encryption: bool,
}

/// Commands about the people who may log in. A change holds at once.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Let somebody log in, with a password read from standard input; the same name again gets
    /// another password and role
    Add {
        /// The name to log in with
        #[arg(value_parser = AccountName::parse)]
        name: AccountName,
        /// What the person may do: only look, or also act
        #[arg(long, value_enum, default_value = "viewer")]
        role: Role,
    },
    /// List who may log in
    List {
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Shut somebody out
    Drop {
        /// The name
        #[arg(value_parser = AccountName::parse)]
        name: AccountName,
    },
}

impl ValueEnum for Role {
    fn value_variants<'a>() -> &'a [Role] {
        &[Role::Viewer, Role::Manager]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Role::Viewer => "Look",
            Role::Manager => "Look, and act",
        };
        Some(PossibleValue::new(self.as_str()).help(help))
    }
}

/// Commands about backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Make one, beside a running daemon or without one, and remove those that are old
    Create,
    /// List them, oldest first
    List {
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Check one, or all
    Verify {
        /// Its name, as `tilld backup list` shows it
        name: Option<String>,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Put one in place and complete it from the tape; the daemon must be stopped
    Restore {
        /// Its name, as `tilld backup list` shows it
        name: String,
        /// Do so although the present database has what neither backup nor tape has
        #[arg(long)]
        despite_loss: bool,
    },
}

/// Commands about the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration with the daemon's own eyes
    Check,
}

/// Commands about the certificate.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Show names, validity and SHA-256 fingerprint
    Show {
        /// Print the certificate itself, to be given to a till
        #[arg(long, conflicts_with = "output")]
        pem: bool,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Make the self-signed certificate anew, with the configured names, and reload
    Renew,
}

/// Which collections to list.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Of this business date, as yyyy-MM-dd
    #[arg(long, value_parser = BusinessDate::parse)]
    pub day: Option<BusinessDate>,
    /// Through this channel
    #[arg(long)]
    pub channel: Option<u32>,
    /// For this contract
    #[arg(long)]
    pub contract: Option<String>,
    /// Under this receipt
    #[arg(long, value_parser = reference())]
    pub receipt: Option<String>,
    /// With this flag raised, such as possible-double
    #[arg(long, value_parser = Flag::parse)]
    pub flag: Option<Flag>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Which refusals to list.
#[derive(Args, Debug)]
pub struct RefusalsArgs {
    /// What to do about one
    #[command(subcommand)]
    pub command: Option<RefusalsCommand>,
    /// Of this contract
    #[arg(long)]
    pub contract: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// What can be done about a refusal.
#[derive(Debug, Subcommand)]
pub enum RefusalsCommand {
    /// Make a collection of a refusal whose cash was taken; it stands on the tape under your name
    Accept {
        /// The refusal's number, as `tilld refusals` lists it: 7 or refusal:7
        #[arg(value_name = "REF", value_parser = refusal_number)]
        refusal: i64,
        /// Why: 1 to 500 characters
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// A receipt however its letters were composed; contracts and numbers have none that could be.
fn reference() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().map(|text| ReceiptNumber::as_stored(&text))
}

fn refusal_number(text: &str) -> Result<i64, Invalid> {
    match About::parse(text).or_else(|| text.parse().ok().map(About::Refusal)) {
        Some(About::Refusal(number)) => Ok(number),
        _ => Err(Invalid { expected: "the number of a refusal such as 7 or refusal:7" }),
    }
}

/// What can be done about a contract.
#[derive(Debug, Subcommand)]
pub enum ContractCommand {
    /// Let a paid contract be paid once more; it stands on the tape under your name
    Reopen {
        /// The contract number
        number: String,
        /// Why: 1 to 500 characters
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// Which takings, and how they are told.
#[derive(Args, Debug)]
pub struct TakingsArgs {
    /// On this business date, as yyyy-MM-dd
    #[arg(long, value_parser = BusinessDate::parse, conflicts_with_all = ["from", "to"])]
    pub day: Option<BusinessDate>,
    /// From this business date on
    #[arg(long, value_parser = BusinessDate::parse)]
    pub from: Option<BusinessDate>,
    /// Up to this business date
    #[arg(long, value_parser = BusinessDate::parse)]
    pub to: Option<BusinessDate>,
    /// What they are counted by
    #[arg(long, value_enum, default_value = "channel")]
    pub by: Measure,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

impl ValueEnum for Measure {
    fn value_variants<'a>() -> &'a [Measure] {
        &[Measure::Channel, Measure::Hour, Measure::Caller, Measure::Branch, Measure::Day]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Measure::Channel => ("channel", "The channel"),
            Measure::Hour => ("hour", "The hour at which the cash was taken"),
            Measure::Caller => ("caller", "The caller"),
            Measure::Branch => ("branch", "The branch that relayed them"),
            Measure::Day => ("day", "The business date"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// What to export.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// From this business date on, as yyyy-MM-dd
    #[arg(long, value_parser = BusinessDate::parse)]
    pub from: Option<BusinessDate>,
    /// Up to this business date
    #[arg(long, value_parser = BusinessDate::parse)]
    pub to: Option<BusinessDate>,
    /// Go on behind this sequence number, the last that an earlier export printed
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    pub after: i64,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub output: ExportOutput,
}

/// How an export is printed: in forms that can be gone on with.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ExportOutput {
    /// Safe to open in a spreadsheet; with a header line unless it goes on behind another
    #[default]
    Csv,
    /// One JSON object a line
    Jsonl,
}

/// What to compare with what.
#[derive(Args, Debug)]
pub struct ReconcileArgs {
    /// The report, as CSV with a header line
    pub file: PathBuf,
    /// Which column is what, such as "contract=Contract No,receipt=Receipt,amount=Amount";
    /// without a receipt, contracts are compared
    #[arg(long, value_name = "COLUMNS")]
    pub map: ColumnMap,
    /// The business date that the report is of, as yyyy-MM-dd
    #[arg(long, value_parser = BusinessDate::parse)]
    pub day: BusinessDate,
    /// How to print it; the table leaves out what matches
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Which column of a report is what.
#[derive(Clone, Debug)]
pub struct ColumnMap {
    /// Contract numbers.
    pub contract: String,
    /// Receipt numbers, if it has them.
    pub receipt: Option<String>,
    /// Pesos.
    pub amount: String,
}

impl FromStr for ColumnMap {
    type Err = String;

    fn from_str(text: &str) -> Result<ColumnMap, String> {
        let mut columns = BTreeMap::new();
        for pair in text.split(',') {
            let (what, column) = pair.split_once('=').ok_or(format!("no = in {pair:?}"))?;
            if !["contract", "receipt", "amount"].contains(&what.trim()) {
                return Err(format!("{what:?} is none of contract, receipt and amount"));
            }
            if columns.insert(what.trim(), column.trim().to_owned()).is_some() {
                return Err(format!("two columns are the {what}"));
            }
        }
        let missing = |what| format!("which column is the {what}?");
        Ok(ColumnMap {
            contract: columns.remove("contract").ok_or_else(|| missing("contract"))?,
            receipt: columns.remove("receipt"),
            amount: columns.remove("amount").ok_or_else(|| missing("amount"))?,
        })
    }
}

/// How a command prints its data.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
    /// With a header line, safe to open in a spreadsheet
    Csv,
}
