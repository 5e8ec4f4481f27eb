//! Each rule of the lane, one by one, at times that the tests choose.

use super::*;
use crate::domain::contract::Mode;
use crate::system::clock;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

const NO_CONNECTION: Verdict =
    Verdict::Unknown { cause: UnknownCause::NoConnection, retry_after: None };
const NO_ANSWER: Verdict = Verdict::Unknown { cause: UnknownCause::NoAnswer, retry_after: None };

/// A lane and the time. Jitter always comes to its minimum.
struct Bench {
    lane: Lane,
    now: Instant,
}

impl Bench {
    /// Rows 1 to `rows`, each of a contract of its own.
    fn new(concurrency: usize, rows: Sequence) -> Bench {
        let mut lane = Lane::new(concurrency);
        lane.take((1..=rows).map(|sequence| (sequence, contract(sequence))));
        Bench { lane, now: clock::monotonic() }
    }

    fn next(&mut self) -> Option<Sequence> {
        self.lane.next(self.now)
    }

    fn all_next(&mut self) -> Vec<Sequence> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn tried(&mut self, sequence: Sequence, verdict: &Verdict) -> Fate {
        self.lane.tried(sequence, verdict, self.now, 0)
    }

    /// Goes to the next row, whenever it may be tried.
    fn wait_for_next(&mut self) -> Sequence {
        loop {
            if let Some(sequence) = self.next() {
                return sequence;
            }
            self.now = self.lane.wake_at().expect("a time to wake at");
        }
    }

    /// Tries rows one by one, whenever they may be tried, until `over`; the time it took.
    fn run(
        &mut self,
        verdict: impl Fn(Sequence) -> Verdict,
        over: impl Fn(&Lane) -> bool,
    ) -> Duration {
        let begun = self.now;
        while !over(&self.lane) {
            assert!(self.lane.tries < 100_000, "not over after 100,000 tries");
            let sequence = self.wait_for_next();
            self.tried(sequence, &verdict(sequence));
        }
        self.now - begun
    }
}

fn contract(number: Sequence) -> ContractNumber {
    ContractNumber::parse(&format!("SKY01{number:010}"), Mode::Live).unwrap()
}

fn retry_after(delay: Duration) -> Verdict {
    Verdict::Unknown { cause: UnknownCause::NoAnswer, retry_after: Some(delay) }
}

fn sign(lane: &Lane) -> Option<Sign> {
    match lane.link() {
        Link::Misconfigured { sign, .. } => Some(sign),
        Link::Up | Link::Down { .. } => None,
    }
}

fn is_down(lane: &Lane) -> bool {
    matches!(lane.link(), Link::Down { .. })
}

fn is_empty(lane: &Lane) -> bool {
    lane.rows.is_empty() && lane.contracts.is_empty()
}

#[test]
fn rows_are_tried_oldest_first_and_the_window_grows_by_one_with_each_taken() {
    let mut bench = Bench::new(3, 100);
    assert_eq!(bench.all_next(), [1]);
    assert_eq!(bench.tried(1, &Verdict::Delivered), Fate::Delivered);
    assert_eq!(bench.all_next(), [2, 3]);
    assert_eq!(bench.tried(3, &Verdict::Settled), Fate::Parked(ParkedFor::Settled));
    assert_eq!(bench.all_next(), [4, 5]);
    bench.tried(2, &Verdict::Delivered);
    assert_eq!(bench.all_next(), [6], "never more than the concurrency");
    assert_eq!(bench.lane.wake_at(), None);
}

#[test]
fn a_later_row_of_a_contract_waits_until_the_earlier_is_delivered_or_parked() {
    let mut bench = Bench::new(8, 0);
    bench.lane.window = 8;
    bench.lane.take([1, 2, 3, 4].map(|sequence| (sequence, contract(sequence % 2))));
    assert_eq!(bench.all_next(), [1, 2]);
    assert_eq!(bench.tried(1, &NO_ANSWER), Fate::Waits);
    assert_eq!(bench.next(), None);
    assert_eq!(bench.wait_for_next(), 1);
    bench.tried(1, &Verdict::Delivered);
    assert_eq!(bench.all_next(), [3]);
    bench.tried(2, &Verdict::Settled);
    assert_eq!(bench.all_next(), [4]);
}

#[test]
fn an_earlier_row_that_comes_later_goes_first_but_never_beside_another_of_its_contract() {
    let mut bench = Bench::new(8, 0);
    bench.lane.window = 8;
    bench.lane.take([(5, contract(1)), (6, contract(2)), (7, contract(2))]);
    assert_eq!(bench.next(), Some(5));
    bench.lane.take([(1, contract(1)), (2, contract(2))]);
    assert_eq!(bench.all_next(), [2]);
    bench.tried(5, &retry_after(MINUTE));
    assert_eq!(bench.all_next(), [1]);
    bench.tried(1, &Verdict::Delivered);
    bench.tried(2, &Verdict::Delivered);
    assert_eq!(bench.all_next(), [6]);
    bench.now += MINUTE;
    assert_eq!(bench.all_next(), [5], "it kept its Retry-After while it was behind");
}

#[test]
fn rows_that_are_known_are_passed_over() {
    let mut bench = Bench::new(8, 2);
    assert_eq!(bench.next(), Some(1));
    bench.lane.take([(1, contract(1)), (2, contract(2))]);
    bench.tried(1, &Verdict::Delivered);
    assert_eq!(bench.all_next(), [2]);
    bench.tried(2, &Verdict::Delivered);
    assert!(is_empty(&bench.lane));
}

#[test]
fn no_more_rows_are_wanted_when_enough_are_due_or_in_memory() {
    let mut bench = Bench::new(1, 1023);
    assert!(bench.lane.wants_more());
    bench.lane.take([(1024, contract(1024))]);
    assert!(!bench.lane.wants_more());
    assert_eq!(bench.next(), Some(1));
    assert!(bench.lane.wants_more());
    bench.lane.take((2000..).map(|sequence| (sequence, contract(1))).take(ROWS_MAX - 1025));
    assert!(bench.lane.wants_more());
    bench.lane.take([(1_000_000, contract(1))]);
    assert!(!bench.lane.wants_more(), "though few are due");
}

#[test]
fn full_jitter_spreads_over_its_step_and_never_comes_to_nothing() {
    for (failures, bound) in [(0, SECOND), (3, 8 * SECOND), (9, 5 * MINUTE), (u32::MAX, 5 * MINUTE)]
    {
        let delays = (0..=300_000).map(|random| full_jitter(failures, random));
        let (mut least, mut most) = (bound, Duration::ZERO);
        for delay in delays {
            least = least.min(delay);
            most = most.max(delay);
        }
        assert_eq!((least, most), (BACKOFF_MIN, bound), "after {failures}");
    }
}

#[test]
fn a_row_with_an_unknown_outcome_waits_ever_longer_while_others_go_on() {
    let mut bench = Bench::new(1, 1);
    let mut waits = Vec::new();
    for last_s in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300] {
        let sequence = bench.next().unwrap();
        let tried_at = bench.now;
        bench.lane.tried(sequence, &NO_ANSWER, tried_at, (last_s - 1) * 1000 + 900);
        bench.now = bench.lane.wake_at().unwrap();
        waits.push((bench.now - tried_at, Duration::from_secs(last_s)));
    }
    assert!(waits.iter().all(|(wait, last)| wait == last), "{waits:?}");
    bench.next();
    bench.tried(1, &retry_after(MINUTE));
    bench.lane.take([(2, contract(2))]);
    assert_eq!(bench.all_next(), [2]);
    assert_eq!(bench.lane.link(), Link::Up);
}

#[test]
fn rows_that_failed_and_fresh_ones_take_turns() {
    let mut bench = Bench::new(1, 2);
    for sequence in [1, 2] {
        assert_eq!(bench.next(), Some(sequence));
        bench.tried(sequence, &NO_ANSWER);
    }
    bench.lane.take((3..=6).map(|sequence| (sequence, contract(sequence))));
    bench.now += MINUTE;
    let mut order = Vec::new();
    while let Some(sequence) = bench.next() {
        order.push(sequence);
        bench.tried(sequence, &Verdict::Delivered);
    }
    assert_eq!(order, [3, 1, 4, 2, 5, 6]);
}

#[test]
fn a_row_is_parked_at_its_third_refusal_over_ten_minutes() {
    let mut bench = Bench::new(1, 0);
    let begun = bench.now;
    bench.lane.take([(1, contract(1)), (2, contract(1))]);
    for minutes in [0, 5] {
        assert_eq!(bench.wait_for_next(), 1);
        assert_eq!(bench.now - begun, minutes * MINUTE);
        assert_eq!(bench.tried(1, &Verdict::Refused), Fate::Waits);
    }
    assert_eq!(bench.wait_for_next(), 1);
    assert_eq!(bench.now - begun, 10 * MINUTE);
    assert_eq!(bench.tried(1, &Verdict::Refused), Fate::Parked(ParkedFor::Refused));
    assert_eq!(bench.next(), Some(2), "a parked row holds back nobody");
}

#[test]
fn a_person_who_hurries_does_not_have_a_row_parked_sooner() {
    let mut bench = Bench::new(1, 1);
    for _ in 0..10 {
        assert_eq!(bench.next(), Some(1));
        assert_eq!(bench.tried(1, &Verdict::Refused), Fate::Waits);
        bench.now += MINUTE;
        bench.lane.hurry(bench.now);
    }
    assert_eq!(bench.next(), Some(1));
    assert_eq!(bench.tried(1, &Verdict::Refused), Fate::Parked(ParkedFor::Refused));
}

#[test]
fn nothing_is_parked_by_a_head_office_that_refuses_everything() {
    for rows in [20, 25, 1000] {
        let mut bench = Bench::new(16, rows);
        let until = bench.now + 10 * MINUTE;
        let mut under_way = BTreeSet::new();
        while bench.now < until {
            under_way.extend(bench.all_next());
            match under_way.pop_last() {
                Some(row) => assert_eq!(bench.tried(row, &Verdict::Refused), Fate::Waits, "{rows}"),
                None => bench.now = bench.lane.wake_at().unwrap(),
            }
        }
        assert_eq!(sign(&bench.lane), Some(Sign::AllRefused));
        assert!(bench.lane.rows.values().all(|row| row.refusals.is_none()), "{rows}: charges");
        assert_eq!(bench.lane.rows.len(), usize::try_from(rows).unwrap());
        let took = bench.run(|_| Verdict::Delivered, is_empty);
        assert!(took <= BACKOFF_MAX, "{rows} rows took {took:?}");
        assert_eq!(bench.lane.link(), Link::Up);
    }
}

#[test]
fn of_fewer_rows_than_tell_each_is_parked() {
    let mut bench = Bench::new(16, 19);
    let took = bench.run(|_| Verdict::Refused, is_empty);
    assert_eq!(took, 10 * MINUTE);
}

/// Eighteen rows are due for their third refusal when as many others come as are needed to tell
/// that it is not about the rows.
#[test]
fn a_row_is_not_parked_while_it_is_open_whether_everything_is_refused() {
    let mut bench = Bench::new(1, 18);
    for _ in 0..2 {
        for sequence in 1..=18 {
            assert_eq!(bench.next(), Some(sequence));
            assert_eq!(bench.tried(sequence, &Verdict::Refused), Fate::Waits);
        }
        bench.now += 5 * MINUTE;
    }
    bench.lane.take([100, 101].map(|sequence| (sequence, contract(sequence))));
    bench.lane.turn_of_again = false;
    for sequence in [100, 1, 101] {
        assert_eq!(bench.next(), Some(sequence));
        assert_eq!(bench.tried(sequence, &Verdict::Refused), Fate::Waits);
    }
    assert_eq!(sign(&bench.lane), Some(Sign::AllRefused));
    assert!(bench.lane.rows.values().all(|row| row.refusals.is_none()));
}

/// Found by the model, where it went on for days.
#[test]
fn rows_that_always_time_out_do_not_put_off_the_parking_of_refused_ones() {
    let mut bench = Bench::new(1, 25);
    let verdict = |row| if row > 8 { Verdict::Refused } else { NO_ANSWER };
    let took = bench.run(verdict, |lane| lane.rows.len() == 8);
    assert!(took < 20 * MINUTE, "{took:?}");
}

/// Found by the model.
#[test]
fn a_parked_row_that_is_sent_again_begins_without_charges() {
    let mut bench = Bench::new(1, 1);
    for sequence in [1, 1, 2, 1] {
        bench.lane.take([(sequence, contract(sequence))]);
        assert_eq!(bench.wait_for_next(), sequence);
        let verdict = if sequence == 2 { Verdict::Delivered } else { Verdict::Refused };
        bench.tried(sequence, &verdict);
    }
    assert!(is_empty(&bench.lane), "it is parked");
    bench.lane.take([(1, contract(1))]);
    bench.lane.take((3..=21).map(|sequence| (sequence, contract(sequence))));
    bench.run(|_| Verdict::Refused, |lane| sign(lane).is_some());
    assert!(bench.lane.rows.values().all(|row| row.refusals.is_none()));
}

#[test]
fn a_row_is_parked_among_many_when_others_were_taken_since_its_first_refusal() {
    let mut bench = Bench::new(1, 1);
    for refusals in 1..=3 {
        let at_first = |sequence| if sequence == 1 { Verdict::Refused } else { Verdict::Delivered };
        bench.run(at_first, |lane| {
            lane.rows.get(&1).is_none_or(|row| row.refusals.is_some_and(|r| r.count == refusals))
        });
        let more = 100 * refusals;
        bench.lane.take((more..more + 30).map(|n| (n.into(), contract(n.into()))));
        let next = bench.next().unwrap();
        bench.tried(next, &Verdict::Delivered);
        bench.now += 5 * MINUTE;
    }
    assert!(!bench.lane.rows.contains_key(&1));
    assert!(bench.lane.fresh.len() >= 20);
}

#[test]
fn a_row_taken_between_refusals_breaks_their_succession() {
    let mut bench = Bench::new(1, 39);
    let verdict = |row| if row == 20 { Verdict::Delivered } else { Verdict::Refused };
    for _ in 1..=39 {
        let sequence = bench.next().unwrap();
        bench.tried(sequence, &verdict(sequence));
    }
    assert_eq!(bench.lane.link(), Link::Up);
    bench.lane.take([(40, contract(40))]);
    assert_eq!(bench.next(), Some(40));
    bench.tried(40, &Verdict::Refused);
    assert_eq!(sign(&bench.lane), Some(Sign::AllRefused));
    let charged = bench.lane.rows.values().filter(|row| row.refusals.is_some()).count();
    assert_eq!(charged, 19, "only what this succession charged is taken back");
}

#[test]
fn when_everything_is_refused_only_a_row_that_is_taken_ends_it() {
    let mut bench = Bench::new(1, 30);
    bench.run(|_| Verdict::Refused, |lane| sign(lane).is_some());
    for verdict in [Verdict::Refused, NO_CONNECTION, Verdict::Misconfigured] {
        let probe = bench.wait_for_next();
        assert_eq!(bench.tried(probe, &verdict), Fate::Waits);
        assert_eq!(sign(&bench.lane), Some(Sign::AllRefused));
    }
    assert!(bench.lane.rows.values().all(|row| row.refusals.is_none()));
    let probe = bench.wait_for_next();
    bench.tried(probe, &Verdict::Settled);
    assert_eq!(bench.lane.link(), Link::Up);
}

#[test]
fn one_try_without_a_connection_takes_the_link_down() {
    let mut bench = Bench::new(4, 3);
    bench.next();
    bench.tried(1, &NO_CONNECTION);
    let probe = Probe::At(bench.now + BACKOFF_MIN);
    assert_eq!(bench.lane.link(), Link::Down { since: bench.now, probe });
}

#[test]
fn five_different_rows_in_a_row_without_an_answer_take_the_link_down() {
    let mut bench = Bench::new(1, 4);
    bench.run(|_| NO_ANSWER, |lane| lane.rows.values().all(|row| row.tries > 9));
    assert_eq!(bench.lane.link(), Link::Up, "four rows, each often");
    bench.lane.take([(5, contract(5)), (6, contract(6))]);
    assert_eq!(bench.next(), Some(5));
    bench.tried(5, &Verdict::Delivered);
    assert_eq!(bench.next(), Some(6));
    bench.tried(6, &NO_ANSWER);
    assert_eq!(bench.lane.link(), Link::Up, "one was taken between");
    bench.run(|_| NO_ANSWER, |lane| lane.link() != Link::Up);
    assert!(is_down(&bench.lane));
}

#[test]
fn while_the_link_is_down_there_is_one_probe_for_each_step_and_each_with_another_row() {
    let mut bench = Bench::new(4, 3);
    bench.next();
    bench.tried(1, &NO_CONNECTION);
    let mut probes = Vec::new();
    for (failures, last_s) in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 64)] {
        let probe = bench.wait_for_next();
        probes.push(probe);
        assert_eq!(bench.next(), None, "one at a time");
        assert!(matches!(bench.lane.link(), Link::Down { probe: Probe::UnderWay, .. }));
        bench.lane.tried(probe, &NO_CONNECTION, bench.now, (last_s - 1) * 1000 + 900);
        assert_eq!(bench.next(), None);
        let wake_at = bench.lane.wake_at().unwrap();
        assert_eq!(wake_at - bench.now, Duration::from_secs(last_s), "after {failures}");
    }
    assert_eq!(probes, [2, 3, 1, 2, 3, 1]);
}

/// Found by the model: by the number of tries alone the bad rows would have come first for hours.
#[test]
fn a_few_new_rows_that_always_fail_do_not_take_every_probe_from_rows_of_a_long_outage() {
    let mut bench = Bench::new(1, 2);
    bench.run(|_| NO_CONNECTION, |lane| lane.rows.values().all(|row| row.tries > 500));
    bench.lane.take((3..9).map(|sequence| (sequence, contract(sequence))));
    let verdict = |row| if row > 2 { NO_ANSWER } else { Verdict::Delivered };
    let took = bench.run(verdict, |lane| lane.rows.len() == 6);
    assert!(took < 20 * MINUTE, "{took:?}");
}

#[test]
fn every_answer_that_proves_the_link_brings_it_up_and_all_rows_are_due() {
    for verdict in [Verdict::Delivered, Verdict::Settled, Verdict::Refused] {
        let mut bench = Bench::new(4, 50);
        bench.lane.window = 4;
        assert_eq!(bench.all_next(), [1, 2, 3, 4]);
        bench.tried(1, &NO_ANSWER);
        bench.tried(2, &NO_CONNECTION);
        let probe = bench.wait_for_next();
        bench.tried(probe, &verdict);
        assert_eq!(bench.lane.link(), Link::Up);
        assert_eq!(bench.all_next().len(), 1, "the window begins at one");
        assert!(bench.lane.again.len() + usize::from(verdict == Verdict::Refused) >= 2);
        assert!(bench.lane.waiting.len() <= usize::from(verdict == Verdict::Refused));
    }
}

#[test]
fn a_row_that_waits_for_minutes_is_due_when_the_link_recovers() {
    let mut bench = Bench::new(1, 1);
    for _ in 0..12 {
        assert_eq!(bench.wait_for_next(), 1);
        bench.lane.tried(1, &NO_ANSWER, bench.now, 299_900);
    }
    assert_eq!(bench.lane.wake_at(), Some(bench.now + BACKOFF_MAX));
    bench.lane.take([(2, contract(2)), (3, contract(3))]);
    assert_eq!(bench.next(), Some(2));
    bench.tried(2, &NO_CONNECTION);
    assert_eq!(bench.wait_for_next(), 3);
    bench.tried(3, &Verdict::Delivered);
    assert_eq!(bench.lane.waiting.len(), 0);
}

#[test]
fn rows_that_always_time_out_hold_back_nobody() {
    let mut bench = Bench::new(4, 500);
    let mut under_way: BTreeSet<(Instant, Sequence)> = BTreeSet::new();
    let begun = bench.now;
    let mut random = 1_u64;
    while bench.lane.rows.len() > 6 {
        for sequence in bench.all_next() {
            let takes = if sequence <= 6 { 15 * SECOND } else { SECOND / 10 };
            under_way.insert((bench.now + takes, sequence));
        }
        if let Some((ended, sequence)) = under_way.pop_first() {
            bench.now = ended;
            let verdict = if sequence <= 6 { NO_ANSWER } else { Verdict::Delivered };
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bench.lane.tried(sequence, &verdict, bench.now, random >> 32);
        } else {
            bench.now = bench.lane.wake_at().unwrap();
        }
    }
    let took = bench.now - begun;
    assert!(took < 5 * MINUTE, "494 good rows behind 6 bad ones took {took:?}");
}

#[test]
fn retry_after_outlasts_a_recovery_but_not_a_person() {
    let mut bench = Bench::new(4, 3);
    let begun = bench.now;
    bench.next();
    bench.tried(1, &retry_after(15 * MINUTE));
    assert_eq!(bench.next(), Some(2));
    bench.tried(2, &NO_CONNECTION);
    for probe in [3, 2, 3, 2] {
        assert_eq!(bench.wait_for_next(), probe, "a probe does not use the row either");
        bench.tried(probe, &NO_CONNECTION);
    }
    bench.run(|_| Verdict::Delivered, |lane| lane.rows.len() == 1);
    let mut hurried = Bench { lane: Lane::new(4), now: bench.now };
    hurried.lane.take([(1, contract(1))]);
    hurried.next();
    hurried.tried(1, &retry_after(15 * MINUTE));
    hurried.lane.hurry(hurried.now);
    assert_eq!(hurried.next(), Some(1));
    assert_eq!(bench.wait_for_next(), 1);
    assert_eq!(bench.now - begun, 15 * MINUTE);
}

#[test]
fn a_link_that_is_down_waits_for_retry_after_if_it_has_no_other_row() {
    let mut bench = Bench::new(4, 1);
    let begun = bench.now;
    bench.next();
    let cause = UnknownCause::NoConnection;
    bench.tried(1, &Verdict::Unknown { cause, retry_after: Some(MINUTE) });
    assert_eq!(bench.wait_for_next(), 1);
    assert_eq!(bench.now - begun, MINUTE);
}

#[test]
fn what_was_begun_before_the_link_changed_cannot_take_it_down_but_can_bring_it_up() {
    let mut bench = Bench::new(4, 50);
    bench.lane.window = 4;
    assert_eq!(bench.all_next(), [1, 2, 3, 4]);
    bench.tried(1, &NO_CONNECTION);
    bench.tried(2, &Verdict::Delivered);
    assert_eq!(bench.lane.link(), Link::Up, "an answer that comes late is an answer");
    for (row, late) in [(3, NO_CONNECTION), (4, Verdict::Misconfigured)] {
        assert_eq!(bench.tried(row, &late), Fate::Waits);
        assert_eq!(bench.lane.link(), Link::Up);
    }
    let next = bench.next().unwrap();
    bench.tried(next, &NO_CONNECTION);
    assert!(is_down(&bench.lane));
}

#[test]
fn a_recovered_link_does_not_wait_for_tries_that_hang() {
    let mut bench = Bench::new(4, 50);
    bench.lane.window = 4;
    assert_eq!(bench.all_next(), [1, 2, 3, 4]);
    bench.tried(1, &NO_CONNECTION);
    let probe = bench.wait_for_next();
    bench.tried(probe, &Verdict::Delivered);
    assert_eq!(bench.all_next().len(), 1, "beside the three that hang");
}

#[test]
fn a_misconfigured_lane_probes_at_steps_that_double_and_charges_no_row() {
    let mut bench = Bench::new(4, 3);
    let mut last = bench.now;
    let mut steps = Vec::new();
    let mut probes = Vec::new();
    for _ in 0..12 {
        let probe = bench.wait_for_next();
        probes.push(probe);
        steps.push((bench.now - last).as_secs());
        last = bench.now;
        assert_eq!(bench.lane.tried(probe, &Verdict::Misconfigured, bench.now, 77), Fate::Waits);
        assert_eq!(sign(&bench.lane), Some(Sign::Misconfigured));
    }
    assert_eq!(steps, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert_eq!(probes, [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]);
    let uncharged = |row: &Row| row.unknowns == 0 && row.refusals.is_none();
    assert!(bench.lane.rows.values().all(uncharged));
}

#[test]
fn a_misconfigured_lane_goes_on_when_a_row_is_judged_and_not_when_the_link_fails() {
    for verdict in [Verdict::Delivered, Verdict::Settled, Verdict::Refused] {
        let mut bench = Bench::new(4, 3);
        bench.next();
        bench.tried(1, &Verdict::Misconfigured);
        let probe = bench.wait_for_next();
        bench.tried(probe, &NO_CONNECTION);
        assert_eq!(sign(&bench.lane), Some(Sign::Misconfigured));
        let probe = bench.wait_for_next();
        bench.tried(probe, &verdict);
        assert_eq!(bench.lane.link(), Link::Up);
    }
}

#[test]
fn a_link_that_was_down_may_turn_out_misconfigured() {
    let mut bench = Bench::new(4, 3);
    bench.next();
    bench.tried(1, &NO_CONNECTION);
    let probe = bench.wait_for_next();
    bench.tried(probe, &Verdict::Misconfigured);
    let (sign, since) = (Sign::Misconfigured, bench.now);
    let probe = Probe::At(since + SECOND);
    assert_eq!(bench.lane.link(), Link::Misconfigured { sign, since, probe });
}

#[test]
fn one_row_that_head_office_finds_misconfigured_does_not_hold_the_line() {
    let mut bench = Bench::new(4, 1000);
    let verdict = |row| if row == 1 { Verdict::Misconfigured } else { Verdict::Delivered };
    let took = bench.run(verdict, |lane| lane.rows.len() == 1);
    assert!(took < MINUTE, "{took:?}");
}

#[test]
fn a_person_who_hurries_has_everything_due_and_a_probe_at_once() {
    let mut bench = Bench::new(4, 1);
    bench.next();
    bench.tried(1, &Verdict::Refused);
    assert_eq!(bench.next(), None);
    bench.lane.hurry(bench.now);
    assert_eq!(bench.next(), Some(1));
    bench.tried(1, &NO_CONNECTION);
    assert_eq!(bench.next(), None);
    bench.lane.hurry(bench.now);
    assert_eq!(bench.next(), Some(1));
    bench.tried(1, &NO_CONNECTION);
    assert_eq!(bench.next(), None, "the next probe waits again");
}

#[test]
fn a_forgotten_row_frees_its_place_its_contract_and_the_probe() {
    let mut bench = Bench::new(1, 0);
    bench.lane.take([1, 2, 3].map(|sequence| (sequence, contract(1))));
    assert_eq!(bench.next(), Some(1));
    bench.lane.forget(1);
    assert_eq!(bench.next(), Some(2), "it was under way");
    bench.tried(2, &NO_CONNECTION);
    assert_eq!(bench.wait_for_next(), 2);
    bench.lane.forget(2);
    assert_eq!(bench.next(), Some(3), "it was the probe");
    bench.lane.forget(3);
    bench.lane.forget(3);
    assert!(is_empty(&bench.lane));
}

#[test]
fn nothing_but_its_fate_follows_from_a_forgotten_row() {
    let mut bench = Bench::new(1, 1);
    bench.next();
    bench.lane.forget(1);
    assert_eq!(bench.tried(1, &NO_CONNECTION), Fate::Waits);
    assert_eq!(bench.tried(1, &Verdict::Refused), Fate::Waits);
    assert_eq!(bench.tried(1, &Verdict::Misconfigured), Fate::Waits);
    assert_eq!(bench.tried(1, &Verdict::Delivered), Fate::Delivered);
    assert_eq!(bench.tried(1, &Verdict::Settled), Fate::Parked(ParkedFor::Settled));
    assert_eq!(bench.lane.link(), Link::Up);
    assert!(is_empty(&bench.lane));
}

#[test]
fn a_crowd_of_rows_that_always_fail_keeps_no_others_from_being_read_or_tried() {
    // As many as are read at a time stand in front, as after a restart.
    let mut bench = Bench::new(1, 2000);
    let verdict = |sequence| if sequence < 2000 { NO_ANSWER } else { Verdict::Delivered };
    let took = bench.run(verdict, |lane| !lane.has(2000));
    assert!(took < MINUTE, "{took:?} until the one good row was tried");

    // While the link is up, with others between them.
    let mut bench = Bench::new(1, 3000);
    let verdict = |sequence| if sequence % 2 == 1 { NO_ANSWER } else { Verdict::Delivered };
    bench.run(verdict, |lane| lane.fresh.is_empty());
    bench.now += 10 * MINUTE;
    bench.next();
    assert!(bench.lane.again.len() > DUE_ROWS_MAX && bench.lane.wants_more());
}
