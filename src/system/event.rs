//! What can happen that a person looks up: a word for the log's `TILLD_EVENT`, and the id under
//! which `journalctl -x` finds cause and mend in `systemd/tilld.catalog`.
//!
//! A word and an id that were once released mean the same for ever: other people's alarms hang on
//! them. Knows names only, not when they apply.

use log::kv::{ToValue, Value};

macro_rules! events {
    ($($(#[$doc:meta])* $event:ident = $name:literal $message_id:literal;)+) => {
        /// An event; in a log line `TILLD_EVENT = Event::…`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $event,)+
        }

        impl Event {
            /// All there are.
            pub const ALL: &[Event] = &[$(Event::$event,)+];

            /// Its word in `TILLD_EVENT`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Event::$event => $name,)+
                }
            }

            /// Its `MESSAGE_ID`: 128 random bits in hex digits.
            pub fn message_id(self) -> &'static str {
                match self {
                    $(Event::$event => $message_id,)+
                }
            }
        }
    };
}

events! {
    /// The endpoint listens.
    Ready = "ready" "962165d2a51d4238a4edf5e496277110";
    /// The endpoint has ended.
    Stopped = "stopped" "d5060d48e746452f89b76ab7de870120";
    /// What is configured is in force, at start or after a reload.
    Configured = "configured" "544d5c180a9c43b385e61600adf1c819";
    /// A changed configuration was not taken.
    ReloadRefused = "reload-refused" "c1e6040d9e654c848b3b715a73504b2b";
    /// There is no caller, so nothing can be collected.
    NoCallers = "no-callers" "8396a623320846a98df0fee5ee8718da";
    /// A self-signed certificate was made.
    CertificateMade = "certificate-made" "b31456eddd9e457abe1913a215af1bde";
    /// A collection was answered 1000 or -1015.
    Collection = "collection" "04d595785d9549be9f3eed305469dd63";
    /// A confirmation was refused, and the refusal kept.
    Refused = "refused" "27b3b154f0064fe78b670f3a3a563a48";
    /// A request was answered -1001.
    VerificationFailed = "verification-failed" "ada75a38ac924e55996d7af0bd4030d3";
    /// Strangers caused more lines than are written.
    LinesSuppressed = "lines-suppressed" "7ad01d55f1574b01b95d1cad1ecd8584";
    /// The log did not take lines.
    LinesDropped = "lines-dropped" "9a84f11b66654e4ba2a4a9672e75f5c7";
    /// The machine has no room for another connection.
    AcceptPaused = "accept-paused" "0f1696c7fea44376839a2345d71977d2";
    /// The storage failed: the process ends.
    StorageFailed = "storage-failed" "24f7359336704b6aa0cc92b496c86eef";
    /// The disk has no room.
    DiskLow = "disk-low" "c8c7899dfbbb4f18adaf918c29f5b54a";
    /// The tape takes no line.
    TapeUnwritable = "tape-unwritable" "78a609c0009545c1b0787dc60c43d76a";
    /// Another program keeps the database to itself.
    DatabaseLocked = "database-locked" "89a41e1ab6a043dbb9150f8baea97009";
    /// What an earlier run left cannot be made durable yet.
    RecoveryWaits = "recovery-waits" "8fc72f75cdcc4f478cebee94498ed73c";
    /// Collections can be recorded again.
    WritableAgain = "writable-again" "83a8a7b0beae42b0822279c958ede9cc";
    /// One witness was completed from the other at start.
    WitnessesCompleted = "witnesses-completed" "1cbd50c694fb4eb3bfcf754b1ee60373";
    /// A torn end of the tape was set aside.
    TapeSetAside = "tape-set-aside" "676b58d967184d4680212138852ee350";
    /// Database and tape agree.
    Verified = "verified" "cf10579870e643ef989a468a34289af3";
    /// Database and tape do not agree.
    Difference = "difference" "11c503c453aa4b0a9011c2a701f7ce30";
    /// The database was gone and is made anew from the tape.
    Rebuilt = "rebuilt" "24fa8eba723b49e9a689e5b1ae1880b5";
    /// A collection is not what was confirmed, and was not sent.
    Damaged = "damaged" "c44d09a908324c2da2688655622f3ac8";
    /// Head office cannot be reached.
    LinkDown = "link-down" "f782270b11ca4fbe9db7145e10f66872";
    /// Head office is reached again.
    LinkUp = "link-up" "f36331e09fd648b79cf31c2b9a34c403";
    /// Head office takes nothing from here.
    Misconfigured = "misconfigured" "f93004a4476d4dcabc15399307abbc7d";
    /// Head office did not take a collection.
    Parked = "parked" "968ca257bc2b4cb18aa4e5ce80390bd7";
    /// Head office has less than it had.
    Fall = "fall" "d68415b78964457ca2f53ac789470b4e";
    /// Two databases have given out numbers of the same epoch.
    EpochUsedTwice = "epoch-used-twice" "693de364e27a411d81d4c90ff9bd97c5";
    /// The operator's listener or the control socket cannot be opened.
    OperatorShut = "operator-shut" "7a636b8889ab49289b11a7243b861be9";
}

impl Event {
    /// The field that names the event of a line.
    pub const FIELD: &str = "TILLD_EVENT";

    /// The event with this name.
    pub fn named(name: &str) -> Option<Event> {
        Event::ALL.iter().copied().find(|event| event.name() == name)
    }
}

impl ToValue for Event {
    fn to_value(&self) -> Value<'_> {
        Value::from(self.name())
    }
}
