//! One request body: strictly one JSON object, then a confirmation made from its original text.
//!
//! It must not know who may call or which secret is right; it hands out what was claimed. Values
//! are judged as they were written, so no number ever passes through a float.

use sha2::{Digest as _, Sha256};

use super::channel;
use super::json::{self, BYTE_ORDER_MARK, Member};
use super::reply::{Refusal, RefusalCode};
use crate::domain::Invalid;
use crate::domain::amount::Amount;
use crate::domain::collection::{Collection, PayChannel, Phone, ReceiptNumber};
use crate::domain::contract::{ContractNumber, Mode, Prefix};
use crate::domain::flags::{Flag, Flags};
use crate::domain::provenance::{Confirmation, ContractField, Digest, Form};
use crate::domain::time::CollectedAt;

/// How much of a body is kept with a record, in bytes: what a person reads in a dispute, not more.
pub const KEPT_BYTES_MAX: usize = 4 * 1024;

/// The mandatory fields in the published order (all seeds).
const FIELDS: [&str; 9] = [
    "userName",
    "action",
    "authentication",
    CONTRACT_NUMBER,
    "amount",
    "phone",
    "receiptNumber",
    "collectedTime",
    "payChannel",
];

const CONTRACT_NUMBER: &str = "contractNumber";

/// A key of so many bytes is looked for in other fields.
const TELLING_KEY_BYTES_MIN: usize = 8;

/// The name of `contractNumber` in the sample of seed 001.
const CONTROL_NUMBER: &str = "controlNumber";

/// By which terms a caller's values are judged.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// How strict a contract number must be.
    pub mode: Mode,
    /// The billers collected here; empty for all of them.
    pub prefixes: &'a [Prefix],
}

/// The form that the body's first non-blank byte announces: `{` is JSON, anything else encrypted.
/// A byte order mark before the `{` makes it malformed, not encrypted.
pub fn form_of(body: &[u8]) -> Form {
    let body = body.trim_ascii_start();
    let body = body.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(body);
    if body.trim_ascii_start().starts_with(b"{") { Form::Json } else { Form::Encrypted }
}

/// The confirmation in a text that [`Request::kept_text`] made, or why it is none.
pub fn kept_confirmation(text: &str, terms: &Terms) -> Result<Confirmation, Refusal> {
    // Who sent it was verified when it was refused, and is not in the text.
    let members = text.trim_start_matches('{');
    let separator = if members == "}" { "" } else { "," };
    let body = format!("{{\"userName\":\"-\",\"authentication\":\"-\"{separator}{members}");
    Request::parse(body.as_bytes())?.confirmation(terms)
}

/// A well-formed body: one JSON object whose members keep their original text. It holds the
/// caller's secret and therefore cannot be printed.
pub struct Request<'a> {
    members: Vec<Member<'a>>,
}

impl<'a> Request<'a> {
    /// Takes exactly one JSON object as protocol and RFC 8259 want it, or says what is malformed
    /// and where (2001). No description holds a value.
    pub fn parse(body: &'a [u8]) -> Result<Request<'a>, Refusal> {
        let members = json::object(body).map_err(malformed)?;
        for Member { name, .. } in &members {
            let meant = FIELDS
                .iter()
                .chain([&CONTROL_NUMBER])
                .find(|known| name.eq_ignore_ascii_case(known) && name != *known);
            if let Some(meant) = meant {
                return Err(malformed(format!("the name {name:?} must be written {meant:?}")));
            }
        }
        Ok(Request { members })
    }

    /// Who the caller says it is: a string of at most 50 characters, not only blanks.
    pub fn user_name(&self) -> Option<&str> {
        self.credential("userName", 50)
    }

    /// The secret it shows: a string of at most 255 characters, not only blanks.
    pub fn authentication(&self) -> Option<&str> {
        self.credential("authentication", 255)
    }

    /// What is confirmed, judged in this order: the action (2004), missing fields (2002), the
    /// first wrong value in the published order (2003), the prefix (2006).
    pub fn confirmation(&self, terms: &Terms) -> Result<Confirmation, Refusal> {
        let mut flags = Flags::NONE;
        flags.raise_if(self.has_misprinted_action()?, Flag::MisprintedAction);

        let values = FIELDS.map(|name| self.present(name));
        let [
            Some(_),
            Some(_),
            Some(_),
            Some(contract),
            Some(amount),
            Some(phone),
            Some(receipt),
            Some(time),
            Some(channel),
        ] = values
        else {
            let absent = FIELDS.into_iter().zip(values).filter(|(_, value)| value.is_none());
            let names: Vec<&str> = absent.map(|(name, _)| name).collect();
            return Err(refused(RefusalCode::Missing, format!("missing: {}", names.join(", "))));
        };
        let contract_field = self.contract_field(contract)?;
        // The order of these lines is the published one, so the first wrong value is named.
        let collection = Collection {
            contract: read(contract, Member::string, |text| {
                ContractNumber::parse(text, terms.mode)
            })?,
            amount: read(amount, Member::string_or_number, Amount::parse)?,
            phone: read(phone, Member::string, Phone::parse)?,
            receipt: read(receipt, Member::string_or_integer, ReceiptNumber::parse)?,
            collected_at: read(time, Member::string, CollectedAt::parse)?,
            channel: read(channel, Member::string_or_integer, PayChannel::parse)?,
        };
        let collected_here = |prefix| collection.contract.has_prefix(prefix);
        if !terms.prefixes.is_empty() && !terms.prefixes.iter().any(collected_here) {
            let description = format!("prefix not collected here: {:.5}", collection.contract);
            return Err(refused(RefusalCode::PrefixNotCollected, description));
        }
        flags.raise_if(channel::name(collection.channel).is_none(), Flag::UnknownChannel);
        let unknown = self.members.iter().filter(|member| !is_known(member));
        let (secret, unknown): (Vec<_>, Vec<_>) = unknown.partition(|m| self.tells_key(m));
        let (unknown_fields, dropped) = object_of(unknown.into_iter());
        flags.raise_if(dropped || !secret.is_empty(), Flag::UnknownFieldsDropped);
        let amount_text = read(amount, Member::string_or_number, |text| Ok(text.to_owned()))?;
        Ok(Confirmation { collection, flags, amount_text, contract_field, unknown_fields })
    }

    /// SHA-256 of the members other than `authentication` in their order, each as its name, a
    /// colon and its original value text, joined by commas.
    pub fn body_digest(&self) -> Digest {
        let mut hash = Sha256::new();
        let shown = self.members.iter().filter(|member| member.name != "authentication");
        for (i, member) in shown.enumerate() {
            if i > 0 {
                hash.update(",");
            }
            hash.update(member.to_json());
        }
        Digest(hash.finalize().into())
    }

    /// The object without `userName`, `authentication` and whatever else tells the key, for a
    /// refusal that is kept: the protocol's fields first, then the others, as many as
    /// [`KEPT_BYTES_MAX`] takes.
    pub fn kept_text(&self) -> String {
        let (known, others): (Vec<_>, Vec<_>) = self
            .members
            .iter()
            .filter(|member| !["userName", "authentication"].contains(&&*member.name))
            .filter(|member| !self.tells_key(member))
            .partition(|member| is_known(member));
        let (text, _) = object_of(known.into_iter().chain(others));
        text.unwrap_or_else(|| "{}".to_owned())
    }

    /// The contract number as it was named, valid or not, unless it tells the key.
    pub fn contract_text(&self) -> Option<&str> {
        self.present(CONTRACT_NUMBER).filter(|member| !self.tells_key(member))?.string().ok()
    }

    /// Whether the key stands in this member, too, where no key belongs. A shorter one could stand
    /// there by chance.
    fn tells_key(&self, member: &Member<'_>) -> bool {
        let key = self.authentication().filter(|key| key.len() >= TELLING_KEY_BYTES_MIN);
        key.is_some_and(|key| {
            // As it is, or with the escapes that a till may write without need.
            member.to_json().contains(key)
                || member.string().is_ok_and(|text| text.contains(key))
                || member.raw.replace("\\/", "/").contains(json::quoted(key).trim_matches('"'))
        })
    }

    fn credential(&self, name: &str, chars_max: usize) -> Option<&str> {
        let text = self.present(name)?.string().ok()?;
        (text.chars().count() <= chars_max).then_some(text)
    }

    /// Whether the action is the misprint of seeds 001 and 004. An absent one is judged with the
    /// other missing fields.
    fn has_misprinted_action(&self) -> Result<bool, Refusal> {
        let Some(action) = self.present("action") else { return Ok(false) };
        match action.string() {
            Ok("collectionCollect") => Ok(false),
            Ok("generate711Barcode") => Ok(true),
            // Only what looks like an action is repeated: a till may have put anything here.
            Ok(other)
                if other.len() <= 50
                    && other.bytes().all(|b| b.is_ascii_alphanumeric())
                    && other.bytes().any(|b| b.is_ascii_alphabetic())
                    && !self.tells_key(action) =>
            {
                Err(action_not_supported(other))
            }
            _ => Err(action_not_supported("expected collectionCollect")),
        }
    }

    /// Under which name `contract` came; an error when both names came and differ.
    fn contract_field(&self, contract: &Member) -> Result<ContractField, Refusal> {
        if contract.name == CONTROL_NUMBER {
            return Ok(ContractField::ControlNumber);
        }
        match self.find(CONTROL_NUMBER) {
            Some(alias) if alias.string() != contract.string() => {
                let expected = "the same value as controlNumber, or only one of the two";
                Err(wrong(contract, Invalid { expected }))
            }
            _ => Ok(ContractField::ContractNumber),
        }
    }

    /// The value of a published field, the contract number under either name.
    fn present(&self, field: &str) -> Option<&Member<'a>> {
        match self.find(field) {
            None if field == CONTRACT_NUMBER => self.find(CONTROL_NUMBER),
            found => found,
        }
    }

    /// The member of this name, unless its value is null, empty or only blanks.
    fn find(&self, name: &str) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.name == name && !member.is_absent())
    }
}

/// Whether the protocol has a field of this name.
fn is_known(member: &Member<'_>) -> bool {
    FIELDS.contains(&&*member.name) || member.name == CONTROL_NUMBER
}

/// A field's value out of its text, or a 2003 that names the field.
fn read<'m, T>(
    member: &'m Member<'m>,
    text: impl FnOnce(&'m Member<'m>) -> Result<&'m str, Invalid>,
    parse: impl FnOnce(&'m str) -> Result<T, Invalid>,
) -> Result<T, Refusal> {
    text(member).and_then(parse).map_err(|invalid| wrong(member, invalid))
}

/// An object of these members in at most [`KEPT_BYTES_MAX`], None if it would be empty, and
/// whether any did not fit.
fn object_of<'m>(members: impl Iterator<Item = &'m Member<'m>>) -> (Option<String>, bool) {
    let mut object = String::new();
    let mut dropped = false;
    for member in members {
        let text = member.to_json();
        // A comma or the opening brace before it, the closing brace at the end.
        if object.len() + text.len() + 2 > KEPT_BYTES_MAX {
            dropped = true;
            continue;
        }
        object.push(if object.is_empty() { '{' } else { ',' });
        object.push_str(&text);
    }
    if object.is_empty() {
        return (None, dropped);
    }
    object.push('}');
    (Some(object), dropped)
}

fn refused(code: RefusalCode, description: impl Into<String>) -> Refusal {
    Refusal { code, description: description.into() }
}

fn malformed(description: impl Into<String>) -> Refusal {
    refused(RefusalCode::Malformed, description)
}

fn action_not_supported(why: &str) -> Refusal {
    refused(RefusalCode::ActionNotSupported, format!("action not supported: {why}"))
}

fn wrong(member: &Member, invalid: Invalid) -> Refusal {
    refused(RefusalCode::WrongValue, format!("{}: {invalid}", member.name))
}

#[cfg(test)]
mod tests;
