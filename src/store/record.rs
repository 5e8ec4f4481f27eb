//! The canonical form of an entry: the one text that its digest stands for.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Entry;
use crate::domain::collection::BranchName;
use crate::domain::provenance::Digest;

/// SHA-256 of the canonical form.
pub fn digest(entry: &Entry) -> Digest {
    Digest(Sha256::digest(canonical(entry)).into())
}

/// One JSON object, its members in the order of [`Record`], without white space.
fn canonical(entry: &Entry) -> String {
    let Entry { sequence, confirmation, provenance, accepted_at, business_date } = entry;
    let collection = &confirmation.collection;
    let record = Record {
        sequence: *sequence,
        contract: collection.contract.as_str(),
        receipt: collection.receipt.as_str(),
        amount: collection.amount.to_string(),
        phone: collection.phone.as_str(),
        collected_at: collection.collected_at.to_string(),
        channel: collection.channel.code(),
        accepted_at: accepted_at.to_string(),
        business_date: business_date.to_string(),
        flags: confirmation.flags.to_string(),
        caller: provenance.caller.as_str(),
        branch: provenance.branch.as_ref().map(BranchName::as_str),
        key_id: provenance.key_id.to_string(),
        peer: provenance.peer.to_string(),
        client_certificate: provenance.client_certificate.map(|digest| digest.to_string()),
        form: provenance.form.as_str(),
        body_digest: provenance.body_digest.to_string(),
        amount_text: &confirmation.amount_text,
        contract_field: confirmation.contract_field.as_str(),
        unknown_fields: confirmation.unknown_fields.as_deref(),
    };
    serde_json::to_string(&record).expect("texts and integers are always JSON")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    sequence: i64,
    contract: &'a str,
    receipt: &'a str,
    amount: String,
    phone: &'a str,
    collected_at: String,
    channel: u32,
    accepted_at: String,
    business_date: String,
    flags: String,
    caller: &'a str,
    branch: Option<&'a str>,
    key_id: String,
    peer: String,
    client_certificate: Option<String>,
    form: &'a str,
    body_digest: String,
    amount_text: &'a str,
    contract_field: &'a str,
    unknown_fields: Option<&'a str>,
}
