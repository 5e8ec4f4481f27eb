//! A model runs beside the real store through random sequences of confirmations, refusals, crashes
//! that cut one witness anywhere, and restarts: what was given a [`Receipt`](super::Receipt) is
//! there, under the same number and once, what became of it at head office is known, and `verify`
//! finds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use chrono::TimeDelta;
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use super::backup::Backups;
use super::closing::{ByChannel, Close, Closed, one};
use super::reader::{Filter, Reader};
use super::takings::{Days, Takings};
use super::verify::{Manner, verify};
use super::{
    Accept, Accepted, Deed, OpenErrorKind, Recorded, Refused, Reopened, Store, Tried, Unavailable,
    Writing, database_path, tape,
};
use crate::domain::act::{About, Actor, Words};
use crate::domain::amount::Amount;
use crate::domain::collection::{Collection, PayChannel, Phone, ReceiptNumber, UserName};
use crate::domain::contract::{ContractNumber, ContractPolicy, Mode};
use crate::domain::decision::{Rule, Sequence};
use crate::domain::delivery::{Attempt, Fate, ParkedFor, Verdict};
use crate::domain::flags::{Flag, Flags};
use crate::domain::provenance::{Confirmation, ContractField, Digest, Form, KeyId, Provenance};
use crate::domain::time::{AcceptedAt, BusinessDate, CollectedAt};
use crate::system::clock;

/// Sequences that are tried: some 20 seconds on a small machine, nearly all of it syncs.
const CASES: u32 = 64;

/// What happens to the store.
#[derive(Clone, Debug)]
enum Step {
    Confirm {
        contract: u8,
        receipt: u8,
        centavos: i64,
        policy: ContractPolicy,
    },
    Refuse(u8),
    /// A try to deliver one of the collections that wait came to this.
    Try(u8, Fate),
    /// A person sends everything again that is parked.
    SendAgain,
    /// A person writes a note beside one of the collections.
    Note(u8),
    /// A person closes the first day, or one of those behind it.
    Close(u8),
    /// A person accepts one of the refusals.
    Accept(u8),
    /// A person reopens a contract.
    Reopen(u8),
    /// The files as they are at that moment, with this damage, are all that is left.
    Crash(Damage),
    Stop,
}

/// What a crash does beside stopping. Cuts are in parts of 65,536 of the file's length.
#[derive(Clone, Debug)]
enum Damage {
    Nothing,
    WalCut(u16),
    TapeCut(u16),
    /// The tape's last file is of another day, so that a new one is begun.
    OtherDay,
}

fn step() -> impl Strategy<Value = Step> {
    let policy = prop_oneof![Just(ContractPolicy::Single), Just(ContractPolicy::Installments)];
    let confirm =
        (0..6_u8, 0..4_u8, 1..3_i64, policy).prop_map(|(contract, receipt, centavos, policy)| {
            Step::Confirm { contract, receipt, centavos, policy }
        });
    let damage = prop_oneof![
        Just(Damage::Nothing),
        any::<u16>().prop_map(Damage::WalCut),
        any::<u16>().prop_map(Damage::TapeCut),
        Just(Damage::OtherDay),
    ];
    let fate = prop_oneof![
        Just(Fate::Waits),
        Just(Fate::Delivered),
        Just(Fate::Parked(ParkedFor::Settled)),
        Just(Fate::Parked(ParkedFor::Refused)),
    ];
    prop_oneof![
        12 => confirm,
        2 => (0..6_u8).prop_map(Step::Refuse),
        6 => (any::<u8>(), fate).prop_map(|(which, fate)| Step::Try(which, fate)),
        1 => Just(Step::SendAgain),
        2 => any::<u8>().prop_map(Step::Note),
        1 => (0..4_u8).prop_map(Step::Close),
        1 => (0..6_u8).prop_map(Step::Accept),
        1 => (0..6_u8).prop_map(Step::Reopen),
        3 => damage.prop_map(Step::Crash),
        1 => Just(Step::Stop),
    ]
}

/// The store, and what it must know.
struct Model {
    state_dir: TempDir,
    running: Option<(Store, Writing)>,
    /// Number and centavos of everything that was given a receipt.
    acknowledged: BTreeMap<(u8, u8), (Sequence, i64)>,
    /// The number of each refusal, and the collection that it is once it was accepted.
    refused: BTreeMap<u8, (i64, Option<Sequence>)>,
    /// How each collection stands with head office: queued, parked or delivered.
    standing: BTreeMap<Sequence, &'static str>,
    /// What people wrote beside each collection.
    notes: BTreeMap<Sequence, Vec<u8>>,
    /// Days that are closed, and what they came to.
    closed: BTreeMap<BusinessDate, Takings>,
    /// Contracts that were reopened and not paid since.
    reopened: BTreeSet<u8>,
    /// In whose day's books each collection stands, and what it adds to them.
    books: BTreeMap<Sequence, (BusinessDate, i64)>,
}

impl Model {
    fn new() -> Model {
        let state_dir = TempDir::new().expect("a temporary directory");
        let running = Some(start(state_dir.path()));
        Model {
            state_dir,
            running,
            acknowledged: BTreeMap::new(),
            refused: BTreeMap::new(),
            standing: BTreeMap::new(),
            notes: BTreeMap::new(),
            closed: BTreeMap::new(),
            reopened: BTreeSet::new(),
            books: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        &self.running.as_ref().expect("a running store").0
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Confirm { contract, receipt, centavos, policy } => {
                self.confirm(*contract, *receipt, *centavos, *policy);
            }
            Step::Refuse(kind) => {
                let answer = self.store().keep(refused(*kind)).expect("a place in the queue");
                answer.blocking_recv().expect("an answer").expect("a kept refusal");
                let id = i64::try_from(self.refused.len() + 1).expect("a number");
                self.refused.entry(*kind).or_insert((id, None));
            }
            Step::Try(which, fate) => self.deliver(*which, *fate),
            Step::SendAgain => {
                let reader = Reader::open(self.state_dir.path()).expect("a reader");
                let parked = reader.all_parked().expect("what is parked");
                let answer = self.store().send_again(parked, manager());
                let answer = answer.expect("a place in the queue").blocking_recv();
                let parked = self.standing.values_mut().filter(|standing| **standing == "parked");
                let count = parked.map(|standing| *standing = "queued").count();
                assert_eq!(answer.expect("an answer"), Ok(count));
            }
            Step::Note(number) => self.note(*number),
            Step::Close(which) => self.close(day(*which)),
            Step::Accept(kind) => self.accept(*kind),
            Step::Reopen(contract) => self.reopen(*contract),
            Step::Crash(damage) => {
                let left = copy(self.state_dir.path());
                stop(self.running.take());
                self.state_dir = left;
                harm(self.state_dir.path(), damage);
                self.running = Some(start(self.state_dir.path()));
                self.check();
            }
            Step::Stop => {
                stop(self.running.take());
                self.running = Some(start(self.state_dir.path()));
                self.check();
            }
        }
    }

    fn note(&mut self, number: u8) {
        let count = self.acknowledged.len();
        let Some(which) = usize::from(number).checked_rem(count) else { return };
        let sequence = Sequence::try_from(which + 1).expect("a number");
        let words = Words::parse(&number.to_string()).expect("words");
        let answer = self.store().note(About::Collection(sequence), words, manager());
        answer.expect("a place").blocking_recv().expect("an answer").expect("a note");
        self.notes.entry(sequence).or_default().push(number);
    }

    fn accept(&mut self, kind: u8) {
        let Some((id, known)) = self.refused.get(&kind).copied() else { return };
        let key = (7, kind);
        let accept = Accept {
            refusal: id,
            confirmation: confirmation(key, 5),
            provenance: refused(kind).provenance,
            came_at: AcceptedAt::new(clock::now()),
            reason: Words::parse("the cash is here").expect("words"),
            actor: manager(),
        };
        let answer = self.store().accept(accept).expect("a place in the queue").blocking_recv();
        let accepted = answer.expect("an answer").expect("an outcome");
        if let Some(sequence) = known {
            assert_eq!(accepted, Accepted::Before(sequence), "{kind}");
            return;
        }
        let number = Sequence::try_from(self.acknowledged.len() + 1).unwrap();
        assert_eq!(accepted, Accepted::Now(number), "{kind}");
        self.refused.insert(kind, (id, Some(number)));
        self.stands(key, number, 5);
    }

    fn reopen(&mut self, contract: u8) {
        let number = confirmation((contract, 0), 1).collection.contract;
        let reason = Words::parse("paid back").expect("words");
        let answer = self.store().reopen(number, reason, manager()).expect("a place in the queue");
        let is_known = self.acknowledged.keys().any(|(known, _)| *known == contract);
        let wanted = match (is_known, is_known && !self.reopened.insert(contract)) {
            (false, _) => Reopened::Unknown,
            (true, true) => Reopened::Before,
            (true, false) => Reopened::Now,
        };
        assert_eq!(answer.blocking_recv().expect("an answer"), Ok(wanted), "{contract}");
    }

    /// A new collection stands.
    fn stands(&mut self, key: (u8, u8), number: Sequence, centavos: i64) -> BusinessDate {
        self.acknowledged.insert(key, (number, centavos));
        self.standing.insert(number, "queued");
        self.reopened.remove(&key.0);
        let mut open = day(key.0 % 2);
        while self.closed.contains_key(&open) {
            open = open.following().expect("a day");
        }
        self.books.insert(number, (open, centavos));
        open
    }

    fn close(&mut self, day: BusinessDate) {
        let close = Close {
            day,
            agreed: (0, ByChannel::new()),
            has_head_office: false,
            with_undelivered: false,
            actor: manager(),
        };
        let answer = self.store().close(close).expect("a place in the queue").blocking_recv();
        let of_day: Vec<_> = self.books.iter().filter(|(_, (stands, _))| *stands == day).collect();
        let sum = of_day
            .iter()
            .fold(Takings::default(), |sum, (_, (_, centavos))| sum.with(one(*centavos)));
        let has_parked = of_day.iter().any(|(sequence, _)| self.standing[*sequence] == "parked");
        match (self.closed.get(&day), answer.expect("an answer")) {
            (Some(sum), Ok(Closed::Before(closing))) => {
                assert_eq!(closing.figures.total(), *sum, "{day}");
            }
            (None, Ok(Closed::Undelivered(_))) if has_parked => {}
            (None, Ok(Closed::Now(closing))) if !has_parked => {
                assert_eq!(closing.figures.total(), sum, "{day}");
                self.closed.insert(day, sum);
            }
            (known, closed) => panic!("{day}: {closed:?}, and the model knows {known:?}"),
        }
    }

    fn deliver(&mut self, which: u8, fate: Fate) {
        let mut queued = self.standing.iter_mut().filter(|(_, standing)| **standing == "queued");
        let Some((sequence, standing)) = queued.nth(usize::from(which % 4)) else { return };
        *standing = match fate {
            Fate::Waits => "queued",
            Fate::Delivered => "delivered",
            Fate::Parked(_) => "parked",
        };
        let attempt = Attempt {
            at: AcceptedAt::from_unix_ms(i64::from(which)).expect("a time"),
            took: Duration::from_millis(3),
            http: Some(200),
            code: Some(1000),
            verdict: Verdict::Delivered,
            reason: String::new(),
        };
        let tried = Tried { sequence: *sequence, attempt, fate, may_have_been_tried: false };
        let answer = self.store().note_tries(vec![tried], None).expect("a place in the queue");
        answer.blocking_recv().expect("an answer").expect("a verdict written down");
    }

    fn record(&self, key: (u8, u8), centavos: i64, policy: ContractPolicy) -> Recorded {
        let confirmation = confirmation(key, centavos);
        let answer = self.store().record(confirmation, provenance(), Rule::Policy(policy));
        answer.expect("a place in the queue").blocking_recv().expect("an answer").expect("a result")
    }

    fn confirm(&mut self, contract: u8, receipt: u8, centavos: i64, policy: ContractPolicy) {
        let key = (contract, receipt);
        let recorded = self.record(key, centavos, policy);
        let is_paid = self.acknowledged.keys().any(|(paid, _)| *paid == contract)
            && !self.reopened.contains(&contract);
        match (self.acknowledged.get(&key), recorded) {
            (Some((number, first)), Recorded::Repeated(receipt)) if *first == centavos => {
                assert_eq!(receipt.sequence(), *number, "{key:?}");
            }
            (Some((number, first)), Recorded::Conflict { first: found, .. })
                if *first != centavos =>
            {
                assert_eq!((found.sequence, found.amount.centavos()), (*number, *first), "{key:?}");
            }
            (None, Recorded::AlreadyPaid { .. }) if is_paid => {
                assert_eq!(policy, ContractPolicy::Single, "{key:?}");
            }
            (None, Recorded::New(receipt)) => {
                assert!(!is_paid || policy == ContractPolicy::Installments, "{key:?}");
                let number = Sequence::try_from(self.acknowledged.len() + 1).unwrap();
                assert_eq!(receipt.sequence(), number, "{key:?}: without gaps");
                let open = self.stands(key, number, centavos);
                assert_eq!(receipt.flags().has(Flag::Late), open != day(contract % 2), "{key:?}");
            }
            (known, recorded) => panic!("{key:?}: {recorded:?}, and the model knows {known:?}"),
        }
    }

    /// Everything that was acknowledged is there, once, and both witnesses agree.
    fn check(&self) {
        let state_dir = self.state_dir.path();
        let verified =
            verify(state_dir, Days::default(), Manner::Insists, &mut |_, _| {}).expect("a check");
        assert_eq!(verified.differences, Vec::<String>::new());
        let (rows, lines) = verified
            .days
            .values()
            .fold((0, 0), |(rows, lines), day| (rows + day.database.count, lines + day.tape.count));
        let count = self.acknowledged.len() as u64;
        assert_eq!((rows, lines), (count, count));
        for (key, (number, centavos)) in &self.acknowledged {
            match self.record(*key, *centavos, ContractPolicy::Single) {
                Recorded::Repeated(receipt) => assert_eq!(receipt.sequence(), *number, "{key:?}"),
                other => panic!("{key:?} was acknowledged: {other:?}"),
            }
        }
        let reader = Reader::open(state_dir).expect("readable books");
        let refusals = reader.refusals(None, None, 100).expect("refusals");
        let accepted = refusals.iter().map(|kept| (kept.id, kept.accepted_as));
        let known: BTreeMap<_, _> = self.refused.values().copied().collect();
        assert_eq!(accepted.collect::<BTreeMap<_, _>>(), known);
        let listed = reader.collections(&Filter::default(), None, 1000).expect("collections");
        let standing = listed.iter().map(|listed| {
            (listed.entry.sequence, listed.standing.as_str().expect("a live collection"))
        });
        assert_eq!(standing.collect::<BTreeMap<_, _>>(), self.standing);
        let days = listed.iter().map(|listed| {
            let centavos = listed.entry.confirmation.collection.amount.centavos();
            (listed.entry.sequence, (listed.entry.business_date, centavos))
        });
        assert_eq!(days.collect::<BTreeMap<_, _>>(), self.books);
        for day in (0..4).map(day) {
            let closing = reader.closing_of(day).expect("a readable act");
            let total = closing.map(|closing| closing.figures.total());
            assert_eq!(total, self.closed.get(&day).copied(), "{day}");
        }
        for sequence in 1..=count {
            let stories = reader.stories(&format!("collection:{sequence}")).expect("a story");
            let notes = stories[0].acts.iter().filter_map(|act| match &act.deed {
                Deed::Note(_, words) => Some(words.as_str().parse().expect("a number")),
                _ => None,
            });
            let notes: Vec<u8> = notes.collect();
            let known = self.notes.get(&sequence.cast_signed());
            assert_eq!(notes, known.cloned().unwrap_or_default(), "collection {sequence}");
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        stop(self.running.take());
    }
}

pub fn start(state_dir: &Path) -> (Store, Writing) {
    Store::open(state_dir, Mode::Live, 0, &Backups::inside(state_dir)).expect("a store")
}

pub fn stop(running: Option<(Store, Writing)>) {
    let Some((store, writing)) = running else { return };
    drop(store);
    writing.thread.join().expect("a writer that ends");
}

/// What a store leaves that has recorded so many collections of one contract and has stopped.
pub fn stopped_after(count: u8) -> TempDir {
    let state_dir = TempDir::new().expect("a temporary directory");
    let (store, writing) = start(state_dir.path());
    for receipt in 0..count {
        let rule = Rule::Policy(ContractPolicy::Installments);
        let answer = store.record(confirmation((1, receipt), 1), provenance(), rule);
        answer.expect("a place").blocking_recv().expect("an answer").expect("a receipt");
    }
    stop(Some((store, writing)));
    state_dir
}

/// The files as they are now. The store rests while nobody asks, so they are of one moment.
pub fn copy(state_dir: &Path) -> TempDir {
    let left = TempDir::new().expect("a temporary directory");
    fs::create_dir(tape::directory(left.path())).expect("a directory");
    for directory in ["", "tape"] {
        for entry in fs::read_dir(state_dir.join(directory)).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let name = path.file_name().expect("a name");
                fs::copy(&path, left.path().join(directory).join(name)).expect("a copy");
            }
        }
    }
    left
}

fn harm(state_dir: &Path, damage: &Damage) {
    match damage {
        Damage::Nothing => {}
        Damage::WalCut(part) => cut(&state_dir.join("tilld.db-wal"), *part),
        Damage::TapeCut(part) => cut(&last_file(state_dir), *part),
        Damage::OtherDay => {
            let path = last_file(state_dir);
            let name = path.file_name().expect("a name").to_str().expect("UTF-8");
            fs::rename(&path, path.with_file_name(format!("{}-2020-01-01.jsonl", &name[..6])))
                .expect("another name");
        }
    }
}

fn last_file(state_dir: &Path) -> PathBuf {
    let directory = tape::directory(state_dir);
    let name = tape::files(&directory).expect("files").pop().expect("a file");
    directory.join(name)
}

fn cut(path: &Path, part: u16) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("a file to cut");
    let length = file.metadata().expect("a length").len();
    file.set_len(length * u64::from(part) / 65_536).expect("a cut");
}

/// The first day on which cash is taken, or one so many days later; all have passed.
fn day(later: u8) -> BusinessDate {
    static FIRST: LazyLock<AcceptedAt> =
        LazyLock::new(|| AcceptedAt::new(clock::now() - TimeDelta::days(10)));
    (0..later).fold(FIRST.date(), |day, _| day.following().expect("a day"))
}

pub fn confirmation((contract, receipt): (u8, u8), centavos: i64) -> Confirmation {
    let collected_at = format!("{} 10:00:00", day(contract % 2));
    let contract = format!("SKY010000000{contract}");
    let amount = Amount::from_centavos(centavos).expect("an amount");
    Confirmation {
        collection: Collection {
            contract: ContractNumber::parse(&contract, Mode::Live).expect("a contract"),
            receipt: ReceiptNumber::parse(&format!("R{receipt}")).expect("a receipt"),
            amount,
            phone: Phone::parse("09270348095").expect("a phone number"),
            collected_at: CollectedAt::parse(&collected_at).expect("a time"),
            channel: PayChannel::parse("1").expect("a channel"),
        },
        flags: Flags::NONE,
        amount_text: amount.to_string(),
        contract_field: ContractField::ContractNumber,
        unknown_fields: None,
    }
}

pub fn provenance() -> Provenance {
    Provenance {
        caller: UserName::parse("till-7").expect("a name"),
        branch: None,
        origin: None,
        key_id: KeyId::of(Digest([7; 32])),
        peer: IpAddr::from(Ipv4Addr::LOCALHOST),
        client_certificate: None,
        form: Form::Json,
        body_digest: Digest([8; 32]),
    }
}

fn manager() -> Actor {
    Actor::parse("manager").expect("a name")
}

fn refused(kind: u8) -> Refused {
    Refused {
        provenance: Provenance { body_digest: Digest([kind; 32]), ..provenance() },
        code: 2003,
        contract: None,
        description: "amount: what is no amount".to_owned(),
        text: "{}".to_owned(),
        flags: Flags::NONE,
    }
}

#[test]
fn a_wal_lost_whole_is_completed_with_refusals_among_collections() {
    let confirm =
        |contract, receipt, policy| Step::Confirm { contract, receipt, centavos: 1, policy };
    let (single, installments) = (ContractPolicy::Single, ContractPolicy::Installments);
    let mut model = Model::new();
    for step in [
        confirm(0, 0, single),
        confirm(0, 1, installments),
        confirm(4, 0, single),
        Step::Refuse(0),
        confirm(2, 0, single),
        Step::Crash(Damage::WalCut(0)),
        confirm(4, 1, installments),
    ] {
        model.take(&step);
    }
    model.take(&Step::Stop);
}

#[test]
fn what_the_queue_does_not_take_is_refused_at_once_and_what_it_takes_is_recorded() {
    let state_dir = TempDir::new().expect("a temporary directory");
    let (store, writing) = start(state_dir.path());
    let other = Connection::open(database_path(state_dir.path())).expect("a database");
    other.execute_batch("BEGIN IMMEDIATE").expect("a lock that the writer waits for");
    let mut taken = Vec::new();
    let refused = (0..=u16::MAX).find_map(|number| {
        let [contract, receipt] = number.to_be_bytes();
        let rule = Rule::Policy(ContractPolicy::Installments);
        let answer = store.record(confirmation((contract, receipt), 1), provenance(), rule);
        answer.map(|answer| taken.push(answer)).err()
    });
    assert_eq!(refused, Some(Unavailable::QueueFull));
    other.execute_batch("ROLLBACK").expect("an end of the lock");
    for answer in taken {
        let recorded = answer.blocking_recv().expect("an answer");
        assert!(matches!(recorded, Ok(Recorded::New(_))), "{recorded:?}");
    }
    stop(Some((store, writing)));
}

#[test]
fn a_tape_cut_in_a_renamed_file_is_completed() {
    let mut model = Model::new();
    for step in [Step::Crash(Damage::OtherDay), Step::Crash(Damage::TapeCut(310))] {
        model.take(&step);
    }
}

proptest! {
    // What it finds becomes a test with a name above, so nothing is kept beside the sources.
    #![proptest_config(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_was_given_a_receipt_is_there_after_any_crash(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut model = Model::new();
        for step in &steps {
            model.take(step);
        }
        model.take(&Step::Stop);
    }
}

/// Only every so many bytes of the schema's text: each costs a start.
const SCHEMA_STEP: usize = 7;

#[test]
fn a_flipped_byte_in_the_schema_is_damage_or_does_not_matter() {
    let state_dir = stopped_after(3);
    let path = database_path(state_dir.path());
    let sound = fs::read(&path).expect("a database");
    let texts = sound
        .chunks(4096)
        .enumerate()
        .filter(|(_, page)| page.windows(7).any(|text| text == b"CREATE "));
    let texts = texts.flat_map(|(page, _)| page * 4096 + 100..(page + 1) * 4096);
    for at in texts.step_by(SCHEMA_STEP) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", path.display()));
        }
        fs::write(&path, &bytes).expect("a damaged database");
        match Store::open(state_dir.path(), Mode::Live, 0, &Backups::inside(state_dir.path())) {
            Ok(running) => stop(Some(running)),
            Err(error) => assert_eq!(error.kind, OpenErrorKind::Damaged, "byte {at}: {error}"),
        }
    }
}
