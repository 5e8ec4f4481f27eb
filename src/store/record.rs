//! The canonical form of what is recorded: the one text that stands on the tape and that a row's
//! digest stands for. A JSON object without white space, its members in the order below.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::acts::{Act, Written};
use super::closing::WrittenFigures;
use super::deliveries::Delivery;
use super::{Entry, Refused};
use crate::domain::Invalid;
use crate::domain::amount::Amount;
use crate::domain::collection::{
    BranchName, Collection, PayChannel, Phone, ReceiptNumber, UserName,
};
use crate::domain::contract::{ContractNumber, Mode};
use crate::domain::delivery::{Place, TapeLine};
use crate::domain::flags::Flags;
use crate::domain::provenance::{
    Confirmation, ContractField, Digest, Form, KeyId, Origin, Provenance,
};
use crate::domain::time::{AcceptedAt, BusinessDate, CollectedAt};

/// SHA-256 of a canonical text.
pub fn digest(canonical: &str) -> Digest {
    Digest(Sha256::digest(canonical).into())
}

/// The birth of a database.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Birth {
    /// `live` or `sandbox`.
    pub mode: String,
    /// 8 hex digits.
    pub epoch: String,
    /// When, in milliseconds since 1970, UTC.
    pub at_ms: i64,
}

/// A refusal that was kept, with its number and the time when it first came.
#[derive(Clone, Debug)]
pub struct FirstRefusal {
    /// Its number.
    pub id: i64,
    /// What was refused.
    pub refused: Refused,
    /// When it first came.
    pub first_at: AcceptedAt,
}

/// The canonical text of a database's birth.
pub fn of_birth(birth: &Birth) -> String {
    json(birth)
}

/// The canonical text of a collection.
pub fn of_entry(entry: &Entry) -> String {
    let Entry { sequence, confirmation, provenance, accepted_at, business_date } = entry;
    let collection = &confirmation.collection;
    json(&EntryRecord {
        sequence: *sequence,
        contract: collection.contract.as_str().into(),
        receipt: collection.receipt.as_str().into(),
        amount: collection.amount.to_string().into(),
        phone: collection.phone.as_str().into(),
        collected_at: collection.collected_at.to_string().into(),
        channel: collection.channel.code(),
        accepted_at_ms: accepted_at.unix_ms(),
        business_date: business_date.to_string().into(),
        flags: confirmation.flags.to_string().into(),
        source: Source::of(provenance),
        origin: provenance.origin.map(|origin| OriginRecord {
            place: origin.place.to_string().into(),
            line: origin.line.map(|line| line.to_string().into()),
        }),
        amount_text: confirmation.amount_text.as_str().into(),
        contract_field: confirmation.contract_field.as_str().into(),
        unknown_fields: confirmation.unknown_fields.as_deref().map(Cow::from),
    })
}

/// The canonical text of a kept refusal.
pub fn of_refusal(refusal: &FirstRefusal) -> String {
    let FirstRefusal { id, refused, first_at } = refusal;
    json(&RefusalRecord {
        id: *id,
        code: refused.code,
        description: refused.description.as_str().into(),
        contract: refused.contract.as_deref().map(Cow::from),
        text: refused.text.as_str().into(),
        flags: refused.flags.to_string().into(),
        source: Source::of(&refused.provenance),
        first_at_ms: first_at.unix_ms(),
    })
}

/// The canonical text of what became of a collection at head office.
pub fn of_delivery(delivery: &Delivery) -> String {
    json(&DeliveryRecord {
        sequence: delivery.sequence,
        fate: delivery.fate_word().into(),
        at_ms: delivery.at.unix_ms(),
        took_ms: delivery.took_ms,
        http: delivery.http,
        code: delivery.code,
        already_there: delivery.already_there,
        reason: delivery.reason.as_str().into(),
    })
}

/// The canonical text of what a person did.
pub fn of_act(act: &Act) -> String {
    json(&Written::of(act))
}

/// The canonical text of what a closed day came to.
pub fn of_figures(figures: &WrittenFigures) -> String {
    json(figures)
}

/// Reads [`of_figures`] back.
pub fn figures(text: &str) -> Result<WrittenFigures, Invalid> {
    parsed(text)
}

/// Reads [`of_delivery`] back.
pub fn delivery(text: &str) -> Result<Delivery, Invalid> {
    let record: DeliveryRecord<'_> = parsed(text)?;
    Ok(Delivery {
        sequence: record.sequence,
        parked_for: Delivery::parse_fate(&record.fate)?,
        at: AcceptedAt::from_unix_ms(record.at_ms)?,
        took_ms: record.took_ms,
        http: record.http,
        code: record.code,
        already_there: record.already_there,
        reason: record.reason.into_owned(),
    })
}

/// Reads [`of_act`] back.
pub fn act(text: &str) -> Result<Act, Invalid> {
    parsed::<Written<'_>>(text)?.act()
}

/// Reads [`of_birth`] back.
pub fn birth(text: &str) -> Result<Birth, Invalid> {
    parsed(text)
}

/// Reads [`of_entry`] back.
pub fn entry(text: &str) -> Result<Entry, Invalid> {
    let record: EntryRecord<'_> = parsed(text)?;
    Ok(Entry {
        sequence: record.sequence,
        confirmation: Confirmation {
            collection: Collection {
                contract: ContractNumber::parse(&record.contract, Mode::Sandbox)?,
                receipt: ReceiptNumber::parse(&record.receipt)?,
                amount: Amount::parse(&record.amount)?,
                phone: Phone::parse(&record.phone)?,
                collected_at: CollectedAt::parse(&record.collected_at)?,
                channel: PayChannel::parse(&record.channel.to_string())?,
            },
            flags: Flags::parse(&record.flags)?,
            amount_text: record.amount_text.into_owned(),
            contract_field: ContractField::parse(&record.contract_field)?,
            unknown_fields: record.unknown_fields.map(Cow::into_owned),
        },
        provenance: Provenance {
            origin: record.origin.map(OriginRecord::origin).transpose()?,
            ..record.source.provenance()?
        },
        accepted_at: AcceptedAt::from_unix_ms(record.accepted_at_ms)?,
        business_date: BusinessDate::parse(&record.business_date)?,
    })
}

/// Reads [`of_refusal`] back.
pub fn refusal(text: &str) -> Result<FirstRefusal, Invalid> {
    let record: RefusalRecord<'_> = parsed(text)?;
    Ok(FirstRefusal {
        id: record.id,
        refused: Refused {
            provenance: record.source.provenance()?,
            code: record.code,
            description: record.description.into_owned(),
            contract: record.contract.map(Cow::into_owned),
            text: record.text.into_owned(),
            flags: Flags::parse(&record.flags)?,
        },
        first_at: AcceptedAt::from_unix_ms(record.first_at_ms)?,
    })
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryRecord<'a> {
    sequence: i64,
    contract: Cow<'a, str>,
    receipt: Cow<'a, str>,
    amount: Cow<'a, str>,
    phone: Cow<'a, str>,
    collected_at: Cow<'a, str>,
    channel: u32,
    accepted_at_ms: i64,
    business_date: Cow<'a, str>,
    flags: Cow<'a, str>,
    source: Source<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<OriginRecord<'a>>,
    amount_text: Cow<'a, str>,
    contract_field: Cow<'a, str>,
    unknown_fields: Option<Cow<'a, str>>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct RefusalRecord<'a> {
    id: i64,
    code: i32,
    description: Cow<'a, str>,
    contract: Option<Cow<'a, str>>,
    text: Cow<'a, str>,
    flags: Cow<'a, str>,
    source: Source<'a>,
    first_at_ms: i64,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Source<'a> {
    caller: Cow<'a, str>,
    branch: Option<Cow<'a, str>>,
    key_id: Cow<'a, str>,
    peer: Cow<'a, str>,
    client_certificate: Option<Cow<'a, str>>,
    form: Cow<'a, str>,
    body_digest: Cow<'a, str>,
}

impl<'a> Source<'a> {
    fn of(provenance: &'a Provenance) -> Source<'a> {
        Source {
            caller: provenance.caller.as_str().into(),
            branch: provenance.branch.as_ref().map(|branch| branch.as_str().into()),
            key_id: provenance.key_id.to_string().into(),
            peer: provenance.peer.to_string().into(),
            client_certificate: provenance.client_certificate.map(|d| d.to_string().into()),
            form: provenance.form.as_str().into(),
            body_digest: provenance.body_digest.to_string().into(),
        }
    }

    fn provenance(self) -> Result<Provenance, Invalid> {
        Ok(Provenance {
            caller: UserName::parse(&self.caller)?,
            branch: self.branch.as_deref().map(BranchName::parse).transpose()?,
            origin: None,
            key_id: KeyId::parse(&self.key_id)?,
            peer: self.peer.parse::<IpAddr>().map_err(|_| Invalid { expected: "an IP address" })?,
            client_certificate: self
                .client_certificate
                .as_deref()
                .map(Digest::parse)
                .transpose()?,
            form: Form::parse(&self.form)?,
            body_digest: Digest::parse(&self.body_digest)?,
        })
    }
}

#[derive(Deserialize, Serialize)]
struct OriginRecord<'a> {
    place: Cow<'a, str>,
    line: Option<Cow<'a, str>>,
}

impl OriginRecord<'_> {
    fn origin(self) -> Result<Origin, Invalid> {
        Ok(Origin {
            place: Place::parse(&self.place)?,
            line: self.line.as_deref().map(TapeLine::parse).transpose()?,
        })
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryRecord<'a> {
    sequence: i64,
    fate: Cow<'a, str>,
    at_ms: i64,
    took_ms: i64,
    http: Option<u16>,
    code: Option<i32>,
    already_there: bool,
    reason: Cow<'a, str>,
}

fn json(record: &impl Serialize) -> String {
    serde_json::to_string(record).expect("texts and integers are always JSON")
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Invalid> {
    serde_json::from_str(text).map_err(|_| Invalid { expected: "a record of the tape" })
}
