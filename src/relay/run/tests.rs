//! The loop with a real store and a head office in memory: what a race, a damaged row or a lost
//! backup at head office must not make it forget.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use tempfile::TempDir;

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
use crate::store::{Again, Recorded, Writing, database_path};

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
        start(store, path, office.clone(), 4, pending()).unwrap().0
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
    let again = branch.store.send_again(Again::AllParked, manager).unwrap();
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
    let branch = Branch::with(200).await.harmed(|state_dir| {
        const PAGE_BYTES: usize = 4096;
        const TABLE_LEAF: u8 = 13;
        let path = database_path(state_dir);
        let mut bytes = fs::read(&path).unwrap();
        let contract = format!("SKY01{number:08}");
        let page = (0..bytes.len() / PAGE_BYTES).map(|page| page * PAGE_BYTES).find(|page| {
            let mut places = bytes[*page..page + PAGE_BYTES].windows(contract.len());
            bytes[*page] == TABLE_LEAF && places.any(|place| place == contract.as_bytes())
        });
        bytes[page.unwrap()] = 77;
        fs::write(&path, bytes).unwrap();
    });
    let office = Office::default();
    branch.relay(&office);
    let some = async {
        while office.books().has.len() < 150 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), some).await.expect("all that can be read is sent");
    assert!(!office.books().has.contains(&number));
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
        let Written::Tries { tries, result } = writing.await else { panic!("no tries") };
        assert_eq!((tries.len(), result), (count, Ok(())));
    }
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
    let again = branch.store.send_again(Again::AllParked, manager).unwrap();
    assert_eq!(again.await.unwrap(), Ok(1));
    relay.rang();
    let reading = relay.read().expect("a page that is read");
    relay.wrote(Written::Tries { tries: parking, result: Ok(()) });
    relay.take(reading.await);
    tokio::spawn(relay.run(Arc::default(), pending()));
    branch.reaches(&office, &[1, 2, 3]).await;
}
