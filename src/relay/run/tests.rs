//! The loop with a real store and a head office in memory: what a race, a damaged row or a lost
//! backup at head office must not make it forget.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use tempfile::TempDir;

use super::writing::Written;
use super::*;
use crate::domain::act::Actor;
use crate::domain::amount::Amount;
use crate::domain::collection::{Collection, PayChannel, Phone, ReceiptNumber, UserName};
use crate::domain::contract::{ContractNumber, ContractPolicy, Mode};
use crate::domain::decision::Rule;
use crate::domain::delivery::UnknownCause;
use crate::domain::flags::Flags;
use crate::domain::provenance::{Confirmation, ContractField, Digest, Form, KeyId, Provenance};
use crate::domain::time::CollectedAt;
use crate::store::backup::Backups;
use crate::store::{Recorded, Unavailable, Writing, database_path};

/// A head office that takes everything.
#[derive(Clone, Default)]
struct Office {
    books: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    has: BTreeSet<Sequence>,
    /// Everything that came, in the order in which it came.
    came: Vec<Sequence>,
    /// What it never takes.
    poison: BTreeSet<Sequence>,
    /// After so many it answers nobody.
    silent_after: Option<usize>,
}

impl Books {
    fn is_silent(&self) -> bool {
        self.silent_after.is_some_and(|count| self.came.len() >= count)
    }
}

impl Office {
    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }
}

impl Upstream for Office {
    async fn deliver(&self, outgoing: &upstream::Outgoing) -> upstream::Tried {
        if self.books().is_silent() {
            pending::<()>().await;
        }
        let mut books = self.books();
        let sequence = outgoing.sequence.sequence;
        books.came.push(sequence);
        let is_poison = books.poison.contains(&sequence);
        let is_new = !is_poison && books.has.insert(sequence);
        let verdict = if is_poison {
            Verdict::Unknown { cause: UnknownCause::NoAnswer, retry_after: None }
        } else {
            Verdict::Delivered
        };
        let up_to =
            (1..=Sequence::MAX).take_while(|number| books.has.contains(number)).last().unwrap_or(0);
        let count = i64::try_from(books.has.len()).unwrap();
        upstream::Tried {
            held: (verdict == Verdict::Delivered).then_some(Holdings { up_to, count }),
            verdict,
            http: Some(200),
            code: Some(if is_new { 1000 } else { -1015 }),
            reason: String::new(),
            took: Duration::ZERO,
        }
    }
}

/// A branch's store.
struct Branch {
    state_dir: TempDir,
    store: Store,
    writing: Writing,
}

impl Branch {
    fn open(state_dir: TempDir) -> Branch {
        let (store, writing) =
            Store::open(state_dir.path(), Mode::Live, 0, &Backups::inside(state_dir.path()))
                .unwrap();
        Branch { state_dir, store, writing }
    }

    async fn with(count: u64) -> Branch {
        let branch = Self::open(TempDir::new().unwrap());
        for number in 1..=count {
            branch.record(number).await;
        }
        branch
    }

    /// The same after a clean stop and what `harm` does to its files.
    fn harmed(self, harm: impl FnOnce(&Path)) -> Branch {
        drop(self.store);
        self.writing.thread.join().unwrap();
        harm(self.state_dir.path());
        Self::open(self.state_dir)
    }

    async fn record(&self, number: u64) {
        let rule = Rule::Policy(ContractPolicy::Single);
        let recorded = self.store.record(confirmation(number), provenance(), rule).unwrap();
        assert!(matches!(recorded.await.unwrap(), Ok(Recorded::New(_))));
    }

    async fn note(&self, tries: Vec<Tried>, held: Option<Holdings>) {
        self.store.note_tries(tries, held).unwrap().await.unwrap().unwrap();
    }

    fn relay(&self, office: &Office) -> Handle {
        let (store, path) = (self.store.clone(), self.state_dir.path());
        prepare(store, path, office.clone(), 4).unwrap().begin(pending()).0
    }

    /// Waits until head office has these and no others, and nothing waits any more.
    async fn reaches(&self, office: &Office, expected: &[Sequence]) {
        let expected: BTreeSet<Sequence> = expected.iter().copied().collect();
        let outbox = OutboxReader::open(self.state_dir.path()).unwrap();
        let reached = async {
            while office.books().has != expected || !outbox.is_empty().unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let is_reached = timeout(Duration::from_secs(20), reached).await.is_ok();
        assert!(is_reached, "head office has {:?}, not {expected:?}", office.books().has);
    }
}

fn confirmation(number: u64) -> Confirmation {
    Confirmation {
        collection: Collection {
            contract: ContractNumber::parse(&format!("SKY01{number:08}"), Mode::Live).unwrap(),
            receipt: ReceiptNumber::parse("R1").unwrap(),
            amount: Amount::parse("12.00").unwrap(),
            phone: Phone::parse("09270348095").unwrap(),
            collected_at: CollectedAt::parse("2026-11-21 10:00:00").unwrap(),
            channel: PayChannel::parse("1").unwrap(),
        },
        flags: Flags::NONE,
        amount_text: "12.00".to_owned(),
        contract_field: ContractField::ContractNumber,
        unknown_fields: None,
    }
}

fn provenance() -> Provenance {
    Provenance {
        caller: UserName::parse("till-7").unwrap(),
        branch: None,
        origin: None,
        key_id: KeyId::of(Digest([7; 32])),
        peer: IpAddr::from(Ipv4Addr::LOCALHOST),
        client_certificate: None,
        form: Form::Json,
        body_digest: Digest([8; 32]),
    }
}

fn tried(sequence: Sequence, fate: Fate) -> Tried {
    let attempt = Attempt {
        at: wall_clock(),
        took: Duration::ZERO,
        http: Some(200),
        code: Some(1000),
        verdict: Verdict::Delivered,
        reason: String::new(),
    };
    Tried { sequence, attempt, fate, may_have_been_tried: false }
}

fn delivered(numbers: impl IntoIterator<Item = Sequence>) -> Vec<Tried> {
    numbers.into_iter().map(|number| tried(number, Fate::Delivered)).collect()
}

const PARKED: Fate = Fate::Parked(ParkedFor::Refused);

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_at_head_office_is_seen_though_one_number_never_comes() {
    for has in [[1, 3].as_slice(), &[1, 3, 4]] {
        let branch = Branch::with(6).await;
        let mut tries = delivered([1, 3, 4, 5]);
        tries.push(tried(2, PARKED));
        branch.note(tries, Some(Holdings { up_to: 1, count: 4 })).await;
        let office = Office::default();
        office.books().has = has.iter().copied().collect();
        branch.relay(&office);
        branch.reaches(&office, &[1, 3, 4, 5, 6]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_at_head_office_is_seen_though_what_it_had_said_is_lost_here() {
    let branch = Branch::with(6).await;
    branch.note(delivered(1..=5), None).await;
    let office = Office::default();
    office.books().has = [1, 2, 3].into();
    branch.relay(&office);
    branch.reaches(&office, &[1, 2, 3, 4, 5, 6]).await;
}

// On one thread, so that nothing happens between two looks but what one turn of the loop does.
#[tokio::test]
async fn a_loss_at_head_office_is_seen_again_when_the_process_ends_as_soon_as_it_heard_of_it() {
    let branch = Branch::with(3).await;
    branch.note(delivered(1..=3), Some(Holdings { up_to: 3, count: 3 })).await;
    branch.record(4).await;
    let office = Office::default();
    office.books().has = [1].into();
    office.books().silent_after = Some(1);
    let (store, path) = (branch.store.clone(), branch.state_dir.path());
    let (state, relay) = Relay::new(store, path, office.clone(), 4).unwrap();
    let has_heard = async {
        while state.borrow().last_success_at.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = has_heard => {}
        () = relay.run(Arc::default(), pending()) => unreachable!(),
    }
    // As after SIGKILL: what the writer had in its queue may be done, and no more.
    let branch = branch.harmed(|_| {});
    assert_eq!(office.books().came, [4]);
    office.books().silent_after = None;
    branch.relay(&office);
    branch.reaches(&office, &[1, 2, 3, 4]).await;
}

// On one thread, where tasks run in the order in which they were spawned.
#[tokio::test]
async fn what_head_office_lost_comes_again_in_its_order() {
    const LAST: Sequence = 3 * REQUEUE_ROWS;
    let branch = Branch::with(1).await;
    let mut recorded = Vec::new();
    for number in 2..=LAST.unsigned_abs() {
        let rule = Rule::Policy(ContractPolicy::Single);
        recorded.push(branch.store.record(confirmation(number), provenance(), rule).unwrap());
        if recorded.len() == 1000 {
            for recorded in recorded.drain(..) {
                recorded.await.unwrap().unwrap();
            }
        }
    }
    for recorded in recorded {
        recorded.await.unwrap().unwrap();
    }
    branch.note(delivered(1..=LAST), Some(Holdings { up_to: LAST, count: LAST })).await;
    branch.record(LAST.unsigned_abs() + 1).await;
    let office = Office::default();
    office.books().has = (1..=10).collect();
    branch.relay(&office);
    branch.reaches(&office, &(1..=LAST + 1).collect::<Vec<_>>()).await;
    // Four are under way at a time, so neighbours change places, but none comes pages too early.
    let came = office.books().came.clone();
    assert_eq!(came[0], LAST + 1, "it was the first to wait");
    for (number, place) in came[1..].iter().filter(|number| **number <= LAST).zip(11..) {
        assert!(number.abs_diff(place) < 100, "{number} came in the place of {place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_sent_again_while_a_page_is_read_is_not_passed_over() {
    let branch = Branch::with(5).await;
    branch.note(vec![tried(3, PARKED)], None).await;
    let office = Office::default();
    let (_, mut relay) =
        Relay::new(branch.store.clone(), branch.state_dir.path(), office.clone(), 4).unwrap();
    let reading = relay.read().expect("a page that is read");
    while !reading.is_finished() {
        tokio::task::yield_now().await;
    }
    let manager = Actor::parse("manager").unwrap();
    let again = branch.store.send_again(vec![3], manager).unwrap();
    assert_eq!(again.await.unwrap(), Ok(1));
    relay.rang();
    relay.take(reading.await);
    tokio::spawn(relay.run(Arc::default(), pending()));
    branch.reaches(&office, &[1, 2, 3, 4, 5]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_page_of_the_database_holds_up_only_what_stands_on_it() {
    for number in [1, 100] {
        holds_up_only_what_stands_with(number).await;
    }
}

async fn holds_up_only_what_stands_with(number: Sequence) {
    let branch = Branch::with(200).await.harmed(|state_dir| damage_page_of(state_dir, number));
    let office = Office::default();
    branch.relay(&office);
    eventually("all that can be read is sent", || office.books().has.len() >= 150).await;
    assert!(!office.books().has.contains(&number));
}

/// Damages the page on which this collection stands.
fn damage_page_of(state_dir: &Path, number: Sequence) {
    let contract = format!("SKY01{number:08}");
    damage_page(state_dir, |page| {
        page.windows(contract.len()).any(|place| place == contract.as_bytes())
    });
}

/// Damages the first of the pages on which the outbox stands: no other row is as short.
fn damage_first_page_of_the_outbox(state_dir: &Path) {
    damage_page(state_dir, |page| u16::from_be_bytes([page[3], page[4]]) > 200);
}

/// Damages the first page with rows of a table that is meant.
fn damage_page(state_dir: &Path, is_meant: impl Fn(&[u8]) -> bool) {
    const TABLE_LEAF: u8 = 13;
    let path = database_path(state_dir);
    let mut bytes = fs::read(&path).unwrap();
    let page = bytes.chunks_mut(4096).find(|page| page[0] == TABLE_LEAF && is_meant(page));
    page.unwrap()[0] = 77;
    fs::write(&path, bytes).unwrap();
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let reached = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), reached).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_of_the_outbox_ends_no_start_and_keeps_nothing_from_head_office() {
    let branch = Branch::with(1000).await.harmed(damage_first_page_of_the_outbox);
    let office = Office::default();
    branch.relay(&office);
    eventually("all of it is sent", || office.books().has.len() == 1000).await;
    // These stand on other pages. Some of each stay, and which depends on the order in which they
    // are sent: SQLite would join the last ones with the pages beside, of which the first is one.
    let queued = || {
        let outbox = OutboxReader::open(branch.state_dir.path()).unwrap().page(500, 1000, 1000);
        outbox.unwrap().len()
    };
    eventually("others are out of the queue", || queued() < 300).await;
    branch.record(1001).await;
    eventually("the way is open", || office.books().has.len() == 1001).await;
    assert_eq!(office.books().came.len(), 1001);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_head_office_lost_comes_again_but_for_what_stands_on_a_damaged_page() {
    let branch = Branch::with(200).await;
    branch.note(delivered(1..=200), Some(Holdings { up_to: 200, count: 200 })).await;
    let branch = branch.harmed(|state_dir| damage_page_of(state_dir, 100));
    branch.record(201).await;
    let office = Office::default();
    branch.relay(&office);
    let comes_again = || {
        let has = &office.books().has;
        has.len() >= 150 && has.contains(&1) && has.contains(&200)
    };
    eventually("what can be read comes again", comes_again).await;
    assert!(!office.books().has.contains(&100));
}

#[tokio::test]
async fn the_next_try_is_told_when_head_office_asked_for_it() {
    const MINUTE: Duration = Duration::from_secs(60);
    let branch = Branch::with(1).await;
    let (state, mut relay) =
        Relay::new(branch.store.clone(), branch.state_dir.path(), Office::default(), 4).unwrap();
    let now = clock::monotonic();
    relay.lane.take([(1, confirmation(1).collection.contract)]);
    assert_eq!(relay.lane.next(now), Some(1));
    let cause = UnknownCause::NoConnection;
    relay.lane.tried(1, &Verdict::Unknown { cause, retry_after: Some(10 * MINUTE) }, now, 0);
    relay.tell();
    let told = state.borrow().next_probe_at.expect("the line is down");
    assert!(told >= wall_clock_in(9 * MINUTE), "{told:?}");
}

#[tokio::test]
async fn what_the_last_try_met_is_told_until_one_gets_through() {
    let branch = Branch::with(3).await;
    let (state, mut relay) =
        Relay::new(branch.store.clone(), branch.state_dir.path(), Office::default(), 4).unwrap();
    let comes_back = |relay: &mut Relay<Office>, sequence, verdict, reason: &str| {
        let contract = confirmation(sequence).collection.contract;
        let sequence = Sequence::try_from(sequence).unwrap();
        relay.lane.take([(sequence, contract)]);
        assert_eq!(relay.lane.next(clock::monotonic()), Some(sequence));
        let (reason, took) = (reason.to_owned(), Duration::ZERO);
        let tried = upstream::Tried { verdict, http: None, code: None, reason, took, held: None };
        let held = Holdings { up_to: 0, count: 0 };
        relay.came_back(Ok(Returned { sequence, at: wall_clock(), held, tried }));
        let state = state.borrow();
        (state.trouble.clone(), state.last_success_at.is_some())
    };
    let unknown = || Verdict::Unknown { cause: UnknownCause::NoAnswer, retry_after: None };
    let told = |trouble: &str, took| (trouble.to_owned(), took);
    assert_eq!(comes_back(&mut relay, 1, unknown(), "no answer"), told("no answer", false));
    assert_eq!(comes_back(&mut relay, 2, Verdict::Settled, "paid"), told("", false));
    assert_eq!(comes_back(&mut relay, 3, Verdict::Delivered, ""), told("", true));
}

#[tokio::test]
async fn what_was_tried_before_a_loss_was_heard_of_is_read_again_behind_what_was_lost() {
    let branch = Branch::with(3).await;
    let (_, mut relay) =
        Relay::new(branch.store.clone(), branch.state_dir.path(), Office::default(), 4).unwrap();
    let now = clock::monotonic();
    relay.lane.take([2, 3].map(|number| (number, confirmation(2).collection.contract)));
    assert_eq!(relay.lane.next(now), Some(2));
    let unknown = Verdict::Unknown { cause: UnknownCause::NoAnswer, retry_after: None };
    relay.lane.tried(2, &unknown, now, 0);
    assert_eq!(relay.lane.next(now + Duration::from_secs(1)), Some(2), "its time has come");
    relay.wanted.push(2);
    relay.settling.insert(1);
    let tries = delivered([1]);
    relay.wrote(Written::Tries { tries, is_apart: true, result: Err(Unavailable::Damaged) });
    assert!(
        relay.settling.is_empty() && relay.unwritable.contains(&1) && relay.unwritten.is_empty()
    );
    let page = relay.outbox.as_mut().unwrap().page(0, 1, 10).unwrap();
    relay.take_page(page);
    assert!(!relay.lane.has(1), "it would be sent again and again");
    // Head office has it, and its answer was lost.
    let held = Holdings { up_to: 2, count: 2 };
    relay.fall = Some(Fall { held, last: None, rows: REQUEUE_ROWS, skipped: 0 });
    relay.requeued((3, 3), Ok(1)).unwrap();
    assert!([2, 3].iter().all(|number| !relay.lane.has(*number)), "they would go first");
    assert!(relay.wanted.is_empty() && relay.unwritable.is_empty());
    assert_eq!((relay.cursor.at, relay.cursor.is_at_end), (0, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_collection_that_neither_witness_has_is_named_and_ends_no_start() {
    let branch = Branch::with(1).await;
    let mut early = Vec::new();
    let branch = branch.harmed(|state_dir| early = fs::read(database_path(state_dir)).unwrap());
    branch.record(2).await;
    branch.record(3).await;
    branch.note(delivered([2]), None).await;
    let branch = branch.harmed(|state_dir| {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", database_path(state_dir).display()));
        }
        fs::write(database_path(state_dir), early).unwrap();
        for file in fs::read_dir(state_dir.join("tape")).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("SKY0100000002", "SKY0100000009")).unwrap();
        }
    });
    assert!(branch.store.health().recovered().damage > 0);
    let office = Office::default();
    branch.relay(&office);
    branch.reaches(&office, &[1, 3]).await;
}

#[tokio::test]
async fn what_comes_back_within_a_moment_is_written_down_together() {
    let branch = Branch::with(5).await;
    let (_, mut relay) =
        Relay::new(branch.store.clone(), branch.state_dir.path(), Office::default(), 4).unwrap();
    let comes_back = |relay: &mut Relay<Office>, sequence| {
        let Tried { sequence, attempt, fate, .. } = delivered([sequence]).remove(0);
        relay.note(sequence, attempt, fate);
    };
    comes_back(&mut relay, 1);
    let first = relay.write().expect("what comes first waits for nothing");
    let moment = relay.gathers_until.expect("a moment");
    assert!(moment <= clock::monotonic() + GATHER_TIME);
    // However long this test takes.
    relay.gathers_until = Some(moment + Duration::from_secs(3600));
    for sequence in 2..=5 {
        comes_back(&mut relay, sequence);
        assert!(relay.write().is_none(), "{sequence} did not wait");
    }
    relay.gathers_until = None;
    let rest = relay.write().expect("the moment is over");
    for (writing, count) in [(first, 1), (rest, 4)] {
        let Written::Tries { tries, result, .. } = writing.await else { panic!("no tries") };
        assert_eq!((tries.len(), result), (count, Ok(())));
    }
}

#[tokio::test]
async fn while_what_became_of_some_cannot_be_written_down_no_others_are_sent() {
    let branch = Branch::with(2).await;
    let (_, mut relay) =
        Relay::new(branch.store.clone(), branch.state_dir.path(), Office::default(), 4).unwrap();
    let reading = relay.read().expect("a page that is read");
    relay.take(reading.await);
    let result = Err(Unavailable::NotWritable);
    relay.wrote(Written::Tries { tries: delivered([1]), is_apart: false, result });
    relay.lane.forget(1);
    relay.write_pause = None;
    let again = relay.write().expect("the pause is over");
    relay.send();
    assert!(relay.under_way.is_empty(), "what becomes of it may be no easier to write");
    relay.wrote(again.await);
    relay.send();
    assert_eq!(relay.under_way.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_sent_again_before_its_parking_was_heard_of_is_not_passed_over() {
    let branch = Branch::with(3).await;
    let office = Office::default();
    let (_, mut relay) =
        Relay::new(branch.store.clone(), branch.state_dir.path(), office.clone(), 4).unwrap();
    // Parked and sent again in one breath of the writer's: the bell is heard before the answer.
    relay.settling.insert(2);
    let parking = vec![tried(2, PARKED)];
    branch.note(parking.clone(), None).await;
    let manager = Actor::parse("manager").unwrap();
    let again = branch.store.send_again(vec![2], manager).unwrap();
    assert_eq!(again.await.unwrap(), Ok(1));
    relay.rang();
    let reading = relay.read().expect("a page that is read");
    relay.wrote(Written::Tries { tries: parking, is_apart: false, result: Ok(()) });
    relay.take(reading.await);
    tokio::spawn(relay.run(Arc::default(), pending()));
    branch.reaches(&office, &[1, 2, 3]).await;
}
