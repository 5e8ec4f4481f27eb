//! What becomes of a confirmation: the rules between 1000, -1015, -1026, 2005 and the flags.
//!
//! Pure: the store looks up the history inside its transaction, asks here, and does what it hears.

use std::fmt;

use chrono::TimeDelta;

use super::amount::Amount;
use super::closing::ClosedDays;
use super::collection::{Collection, PayChannel, Phone};
use super::contract::ContractPolicy;
use super::flags::{Flag, Flags};
use super::time::{AcceptedAt, BusinessDate, CollectedAt};

/// A collectedTime further ahead of our clock than this is flagged.
const AHEAD_MAX: TimeDelta = TimeDelta::hours(24);

/// A collectedTime further back than this is flagged.
const BACK_MAX: TimeDelta = TimeDelta::days(400);

/// Within this time a till and SkyPay may both report one payment.
pub const DOUBLE_WINDOW: TimeDelta = TimeDelta::hours(24);

/// Counts recorded collections from 1, without gaps.
pub type Sequence = i64;

/// By which rule a caller's confirmations are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A till or SkyPay: the configured contract policy holds.
    Policy(ContractPolicy),
    /// A branch relays what it has already answered 1000: always recorded, at most flagged.
    Relayed,
    /// A person accepts what was refused: always recorded, and flagged.
    Accepted,
}

/// The collection that already has this identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// Its number.
    pub sequence: Sequence,
    /// Its amount.
    pub amount: Amount,
    /// Its channel.
    pub channel: PayChannel,
    /// Its phone number.
    pub phone: Phone,
    /// Its collectedTime.
    pub collected_at: CollectedAt,
    /// When we recorded it.
    pub accepted_at: AcceptedAt,
}

/// What the store already holds that bears on a confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum History {
    /// A collection with the same contract and receipt.
    SameIdentity(First),
    /// None; these are the contract's other collections.
    Others {
        /// Whether the contract was collected under another receipt.
        paid: bool,
        /// Whether another caller confirmed the same amount within [`DOUBLE_WINDOW`].
        possible_double: bool,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Record it.
    Record {
        /// What is unusual about it.
        flags: Flags,
        /// In whose day's books it stands.
        business_date: BusinessDate,
    },
    /// It stands already.
    Repeat {
        /// Its number.
        sequence: Sequence,
        /// Whether phone or collectedTime differ from the first time.
        variant: bool,
    },
    /// The receipt stands already, for something else.
    Conflict {
        /// What differs.
        field: ConflictField,
        /// What stands.
        first: First,
    },
    /// The contract was paid under another receipt.
    AlreadyPaid {
        /// What is unusual about the refused confirmation.
        flags: Flags,
    },
}

/// The field in which a second confirmation contradicts the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictField {
    /// The cash.
    Amount,
    /// The chain of stores.
    PayChannel,
}

/// The field's name on the wire.
impl fmt::Display for ConflictField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConflictField::Amount => "amount",
            ConflictField::PayChannel => "payChannel",
        })
    }
}

/// Decides what becomes of `collection`; `given` are the flags that its wire form raised.
///
/// Identity is looked at before "paid": a repeat of a paid contract's own receipt stands.
pub fn decide(
    collection: &Collection,
    given: Flags,
    accepted: AcceptedAt,
    rule: Rule,
    history: History,
    closed: &ClosedDays,
) -> Decision {
    let (paid, possible_double) = match history {
        History::SameIdentity(first) => return compare(collection, first),
        History::Others { paid, possible_double } => (paid, possible_double),
    };
    let mut flags = given;
    let ahead = collection.collected_at.ahead_of(accepted);
    let time_is_odd = ahead > AHEAD_MAX || ahead < -BACK_MAX;
    flags.raise_if(ahead > AHEAD_MAX, Flag::CollectedAhead);
    flags.raise_if(ahead < -BACK_MAX, Flag::CollectedLongAgo);
    flags.raise_if(!collection.phone.is_usual(), Flag::UnusualPhone);
    flags.raise_if(possible_double, Flag::PossibleDouble);
    match rule {
        Rule::Policy(ContractPolicy::Single) if paid => return Decision::AlreadyPaid { flags },
        Rule::Policy(_) => {}
        Rule::Relayed => flags.raise_if(paid, Flag::Overpaid),
        Rule::Accepted => flags.raise(Flag::Accepted),
    }
    let day = if time_is_odd { accepted.date() } else { collection.collected_at.date() };
    let business_date = closed.open_from(day);
    flags.raise_if(business_date != day, Flag::Late);
    Decision::Record { flags, business_date }
}

/// Field by field: money and channel must agree, phone and time may have been stamped anew.
fn compare(collection: &Collection, first: First) -> Decision {
    if collection.amount != first.amount {
        Decision::Conflict { field: ConflictField::Amount, first }
    } else if collection.channel != first.channel {
        Decision::Conflict { field: ConflictField::PayChannel, first }
    } else {
        let variant =
            collection.phone != first.phone || collection.collected_at != first.collected_at;
        Decision::Repeat { sequence: first.sequence, variant }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::collection::ReceiptNumber;
    use crate::domain::contract::{ContractNumber, Mode};

    const SINGLE: Rule = Rule::Policy(ContractPolicy::Single);
    const INSTALLMENTS: Rule = Rule::Policy(ContractPolicy::Installments);
    const EVERY_RULE: [Rule; 3] = [SINGLE, INSTALLMENTS, Rule::Relayed];

    /// Decides while no day is closed.
    fn decide(
        collection: &Collection,
        given: Flags,
        accepted: AcceptedAt,
        rule: Rule,
        history: History,
    ) -> Decision {
        super::decide(collection, given, accepted, rule, history, &ClosedDays::default())
    }

    const NOTHING: History = History::Others { paid: false, possible_double: false };
    const PAID: History = History::Others { paid: true, possible_double: false };

    fn collection() -> Collection {
        Collection {
            contract: ContractNumber::parse("SKY0112345678", Mode::Live).unwrap(),
            receipt: ReceiptNumber::parse("R1").unwrap(),
            amount: Amount::parse("3900.00").unwrap(),
            phone: Phone::parse("09270348095").unwrap(),
            collected_at: CollectedAt::parse("2025-06-18 17:52:10").unwrap(),
            channel: PayChannel::parse("1").unwrap(),
        }
    }

    /// Two minutes after the cash was taken, on the same day.
    fn accepted() -> AcceptedAt {
        accepted_at("2025-06-18T17:54:10.000+08:00")
    }

    fn accepted_at(rfc3339: &str) -> AcceptedAt {
        AcceptedAt::new(chrono::DateTime::parse_from_rfc3339(rfc3339).unwrap().to_utc())
    }

    /// What the store holds after it recorded `collection` as number 7.
    fn first_of(collection: &Collection) -> First {
        First {
            sequence: 7,
            amount: collection.amount,
            channel: collection.channel,
            phone: collection.phone.clone(),
            collected_at: collection.collected_at,
            accepted_at: accepted(),
        }
    }

    fn again(second: &Collection, rule: Rule) -> Decision {
        let history = History::SameIdentity(first_of(&collection()));
        decide(second, Flags::NONE, accepted(), rule, history)
    }

    fn flags(flags: &[Flag]) -> Flags {
        let mut set = Flags::NONE;
        for flag in flags {
            set.raise(*flag);
        }
        set
    }

    fn recorded(raised: &[Flag], business_date: &str) -> Decision {
        let business_date = BusinessDate::parse(business_date).unwrap();
        Decision::Record { flags: flags(raised), business_date }
    }

    fn conflict(field: ConflictField) -> Decision {
        Decision::Conflict { field, first: first_of(&collection()) }
    }

    /// Decides about a collection taken at `collected` Manila time, accepted at noon.
    fn at_noon(collected: &str) -> Decision {
        let collected_at = CollectedAt::parse(collected).unwrap();
        let collection = Collection { collected_at, ..collection() };
        let noon = accepted_at("2025-06-18T12:00:00.000+08:00");
        decide(&collection, Flags::NONE, noon, SINGLE, NOTHING)
    }

    #[test]
    fn a_first_collection_is_recorded_without_flags_under_every_rule() {
        for rule in EVERY_RULE {
            let decision = decide(&collection(), Flags::NONE, accepted(), rule, NOTHING);
            assert_eq!(decision, recorded(&[], "2025-06-18"), "{rule:?}");
        }
    }

    #[test]
    fn the_same_again_is_a_repeat_under_every_rule() {
        for rule in EVERY_RULE {
            let repeat = Decision::Repeat { sequence: 7, variant: false };
            assert_eq!(again(&collection(), rule), repeat, "{rule:?}");
        }
    }

    #[test]
    fn a_till_may_stamp_phone_and_time_anew() {
        let variant = Decision::Repeat { sequence: 7, variant: true };
        let collected_at = CollectedAt::parse("2025-06-18 17:52:11").unwrap();
        assert_eq!(again(&Collection { collected_at, ..collection() }, SINGLE), variant);
        let phone = Phone::parse("09270348096").unwrap();
        assert_eq!(again(&Collection { phone, ..collection() }, SINGLE), variant);
    }

    #[test]
    fn another_amount_is_a_conflict_that_shows_what_stands() {
        let second = Collection { amount: Amount::parse("3900.01").unwrap(), ..collection() };
        for rule in EVERY_RULE {
            assert_eq!(again(&second, rule), conflict(ConflictField::Amount), "{rule:?}");
        }
    }

    #[test]
    fn another_channel_is_a_conflict() {
        let second = Collection { channel: PayChannel::parse("10").unwrap(), ..collection() };
        for rule in EVERY_RULE {
            assert_eq!(again(&second, rule), conflict(ConflictField::PayChannel), "{rule:?}");
        }
    }

    #[test]
    fn the_amount_is_compared_before_the_channel_and_both_before_what_may_vary() {
        let amount = Amount::parse("1").unwrap();
        let channel = PayChannel::parse("10").unwrap();
        let phone = Phone::parse("1").unwrap();
        let second = Collection { phone, channel, ..collection() };
        assert_eq!(again(&second, SINGLE), conflict(ConflictField::PayChannel));
        let second = Collection { amount, ..second };
        assert_eq!(again(&second, SINGLE), conflict(ConflictField::Amount));
        assert_eq!(ConflictField::Amount.to_string(), "amount");
        assert_eq!(ConflictField::PayChannel.to_string(), "payChannel");
    }

    #[test]
    fn a_paid_contract_refuses_another_receipt_but_its_own_stands() {
        let other = decide(&collection(), Flags::NONE, accepted(), SINGLE, PAID);
        assert_eq!(other, Decision::AlreadyPaid { flags: Flags::NONE });
        let own = again(&collection(), SINGLE);
        assert_eq!(own, Decision::Repeat { sequence: 7, variant: false });
    }

    #[test]
    fn installments_take_every_new_receipt() {
        let decision = decide(&collection(), Flags::NONE, accepted(), INSTALLMENTS, PAID);
        assert_eq!(decision, recorded(&[], "2025-06-18"));
    }

    #[test]
    fn a_relayed_second_receipt_is_recorded_and_flagged_overpaid() {
        let decision = decide(&collection(), Flags::NONE, accepted(), Rule::Relayed, PAID);
        assert_eq!(decision, recorded(&[Flag::Overpaid], "2025-06-18"));
    }

    #[test]
    fn a_possible_double_is_flagged_whatever_the_policy_answers() {
        let double = [Flag::PossibleDouble];
        for rule in EVERY_RULE {
            let unpaid = History::Others { paid: false, possible_double: true };
            let decision = decide(&collection(), Flags::NONE, accepted(), rule, unpaid);
            assert_eq!(decision, recorded(&double, "2025-06-18"), "{rule:?}");
        }
        let decision = |rule| {
            let paid = History::Others { paid: true, possible_double: true };
            decide(&collection(), Flags::NONE, accepted(), rule, paid)
        };
        assert_eq!(decision(SINGLE), Decision::AlreadyPaid { flags: flags(&double) });
        assert_eq!(decision(INSTALLMENTS), recorded(&double, "2025-06-18"));
        let both = [Flag::PossibleDouble, Flag::Overpaid];
        assert_eq!(decision(Rule::Relayed), recorded(&both, "2025-06-18"));
    }

    #[test]
    fn an_unusual_phone_is_flagged() {
        let phone = Phone::parse("6392210083333").unwrap();
        let sample = Collection { phone, ..collection() };
        let decision = decide(&sample, Flags::NONE, accepted(), SINGLE, NOTHING);
        assert_eq!(decision, recorded(&[Flag::UnusualPhone], "2025-06-18"));
    }

    #[test]
    fn the_flags_of_the_wire_form_are_kept() {
        let given = [Flag::MisprintedAction, Flag::UnknownChannel, Flag::UnknownFieldsDropped];
        let decision = decide(&collection(), flags(&given), accepted(), SINGLE, NOTHING);
        assert_eq!(decision, recorded(&given, "2025-06-18"));
        let refused = decide(&collection(), flags(&given), accepted(), SINGLE, PAID);
        assert_eq!(refused, Decision::AlreadyPaid { flags: flags(&given) });
    }

    #[test]
    fn a_time_exactly_24_hours_ahead_is_usual_and_a_second_more_is_not() {
        assert_eq!(at_noon("2025-06-19 12:00:00"), recorded(&[], "2025-06-19"));
        assert_eq!(at_noon("2025-06-19 12:00:01"), recorded(&[Flag::CollectedAhead], "2025-06-18"));
    }

    #[test]
    fn a_time_exactly_400_days_back_is_usual_and_a_second_more_is_not() {
        assert_eq!(at_noon("2024-05-14 12:00:00"), recorded(&[], "2024-05-14"));
        let long_ago = recorded(&[Flag::CollectedLongAgo], "2025-06-18");
        assert_eq!(at_noon("2024-05-14 11:59:59"), long_ago);
    }

    #[test]
    fn the_business_date_of_an_odd_time_is_the_accepted_date_in_manila() {
        let collected_at = CollectedAt::parse("2035-01-01 00:00:00").unwrap();
        let odd = Collection { collected_at, ..collection() };
        let after_midnight = accepted_at("2025-06-18T16:30:00.000Z");
        let decision = decide(&odd, Flags::NONE, after_midnight, SINGLE, NOTHING);
        assert_eq!(decision, recorded(&[Flag::CollectedAhead], "2025-06-19"));
    }

    #[test]
    fn the_business_date_of_cash_taken_before_midnight_is_the_day_it_was_taken() {
        let collected_at = CollectedAt::parse("2025-06-17 23:59:59").unwrap();
        let late = Collection { collected_at, ..collection() };
        let decision = decide(&late, Flags::NONE, accepted(), SINGLE, NOTHING);
        assert_eq!(decision, recorded(&[], "2025-06-17"));
    }

    #[test]
    fn what_comes_for_a_closed_day_stands_in_the_next_open_one_and_is_flagged_late() {
        let day = |text| BusinessDate::parse(text).unwrap();
        let closed: ClosedDays = ["2025-06-18", "2025-06-19"].map(day).into_iter().collect();
        for rule in EVERY_RULE {
            let decision =
                super::decide(&collection(), Flags::NONE, accepted(), rule, NOTHING, &closed);
            assert_eq!(decision, recorded(&[Flag::Late], "2025-06-20"));
        }
        // Also when it is the day of acceptance that counts.
        let odd = CollectedAt::parse("2020-01-01 00:00:00").unwrap();
        let odd = Collection { collected_at: odd, ..collection() };
        let decision = super::decide(&odd, Flags::NONE, accepted(), SINGLE, NOTHING, &closed);
        assert_eq!(decision, recorded(&[Flag::CollectedLongAgo, Flag::Late], "2025-06-20"));
        // What stands already, stands where it stood.
        let known = History::SameIdentity(first_of(&collection()));
        let decision =
            super::decide(&collection(), Flags::NONE, accepted(), SINGLE, known, &closed);
        assert_eq!(decision, Decision::Repeat { sequence: 7, variant: false });
    }

    #[test]
    fn what_a_person_accepts_is_recorded_and_flagged_unless_it_stands_already() {
        for history in [NOTHING, PAID] {
            let decision = decide(&collection(), Flags::NONE, accepted(), Rule::Accepted, history);
            assert_eq!(decision, recorded(&[Flag::Accepted], "2025-06-18"));
        }
        let repeat = again(&collection(), Rule::Accepted);
        assert_eq!(repeat, Decision::Repeat { sequence: 7, variant: false });
        let other = Collection { amount: Amount::parse("3900.01").unwrap(), ..collection() };
        assert_eq!(again(&other, Rule::Accepted), conflict(ConflictField::Amount));
    }
}
