//! One confirmation as we send it: the body, and the key that names it among its repetitions.
//!
//! It must not know where it goes or how often it was tried: the same collection gives the same
//! bytes every time.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::domain::collection::{Collection, UserName};
use crate::domain::provenance::Digest;

/// The nine fields as strings in the published order (all seeds), amount with two decimals, as one
/// JSON object. It holds `key`: never to be logged.
pub fn body(collection: &Collection, user_name: &UserName, key: &str) -> String {
    let fields = Fields {
        user_name: user_name.as_str(),
        action: "collectionCollect",
        authentication: key,
        contract_number: collection.contract.as_str(),
        amount: &collection.amount.to_string(),
        phone: collection.phone.as_str(),
        receipt_number: collection.receipt.as_str(),
        collected_time: &collection.collected_at.to_string(),
        pay_channel: &collection.channel.to_string(),
    };
    serde_json::to_string(&fields).expect("strings are always JSON")
}

/// A body that only shows who we are: it lacks all that would make it a collection. It holds `key`:
/// never to be logged.
pub fn empty_body(user_name: &UserName, key: &str) -> String {
    let fields = NoCollection {
        user_name: user_name.as_str(),
        action: "collectionCollect",
        authentication: key,
        remark: "tilld doctor asks whether its key is taken; no cash is meant",
    };
    serde_json::to_string(&fields).expect("strings are always JSON")
}

/// What every repetition of a confirmation has in common: SHA-256 of contract, LF and receipt.
pub fn idempotency_key(collection: &Collection) -> Digest {
    let hash = Sha256::new()
        .chain_update(collection.contract.as_str())
        .chain_update("\n")
        .chain_update(collection.receipt.as_str());
    Digest(hash.finalize().into())
}

/// Serialised in the order in which they stand here.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    user_name: &'a str,
    action: &'a str,
    authentication: &'a str,
    contract_number: &'a str,
    amount: &'a str,
    phone: &'a str,
    receipt_number: &'a str,
    collected_time: &'a str,
    pay_channel: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NoCollection<'a> {
    user_name: &'a str,
    action: &'a str,
    authentication: &'a str,
    remark: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::contract::{ContractNumber, Mode};
    use crate::skypay::request::{Request, Terms};

    fn collection() -> Collection {
        use crate::domain::amount::Amount;
        use crate::domain::collection::{PayChannel, Phone, ReceiptNumber};
        use crate::domain::time::CollectedAt;
        Collection {
            contract: ContractNumber::parse("SKY0112345678", Mode::Live).unwrap(),
            receipt: ReceiptNumber::parse("711|PARA\u{d1}AQUE \"7\"").unwrap(),
            amount: Amount::parse("3900").unwrap(),
            phone: Phone::parse("09270348095").unwrap(),
            collected_at: CollectedAt::parse("2018-06-18 17:52:10").unwrap(),
            channel: PayChannel::parse("01").unwrap(),
        }
    }

    fn branch() -> UserName {
        UserName::parse("branch-mnl-042").unwrap()
    }

    #[test]
    fn the_nine_fields_stand_as_strings_in_the_published_order() {
        assert_eq!(
            body(&collection(), &branch(), "k\"ey"),
            concat!(
                r#"{"userName":"branch-mnl-042","action":"collectionCollect","#,
                r#""authentication":"k\"ey","contractNumber":"SKY0112345678","#,
                r#""amount":"3900.00","phone":"09270348095","#,
                "\"receiptNumber\":\"711|PARA\u{d1}AQUE \\\"7\\\"\",",
                r#""collectedTime":"2018-06-18 17:52:10","payChannel":"1"}"#
            )
        );
    }

    #[test]
    fn what_is_sent_is_read_as_the_same_collection() {
        let body = body(&collection(), &branch(), "key");
        let request = Request::parse(body.as_bytes()).unwrap();
        let terms = Terms { mode: Mode::Live, prefixes: &[] };
        let read = request.confirmation(&terms).unwrap();
        assert_eq!(read.collection, collection());
        assert_eq!(
            (request.user_name(), request.authentication()),
            (Some(branch().as_str()), Some("key"))
        );
    }

    #[test]
    fn the_idempotency_key_is_of_contract_and_receipt_alone() {
        let mut other = collection();
        // printf 'SKY0112345678\nR-0001' | sha256sum
        other.receipt = crate::domain::collection::ReceiptNumber::parse("R-0001").unwrap();
        let key = idempotency_key(&other);
        assert_eq!(
            key.to_string(),
            "9d318bd871baa79278078762c2542d4fc9ac658371eb3bff8c9606cb37abb14c"
        );
        other.phone = crate::domain::collection::Phone::parse("0800").unwrap();
        assert_eq!(idempotency_key(&other), key);
        assert_ne!(idempotency_key(&collection()), key);
    }
}
