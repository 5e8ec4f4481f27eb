//! Where a confirmation came from, kept with the collection so that a dispute can be settled.

use std::fmt;
use std::net::IpAddr;

use super::Invalid;
use super::collection::{BranchName, Collection, UserName};
use super::delivery::{Place, TapeLine};
use super::flags::Flags;

/// A collection together with what its wire form tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// What was confirmed.
    pub collection: Collection,
    /// What is unusual about the wire form.
    pub flags: Flags,
    /// The amount as the caller wrote it.
    pub amount_text: String,
    /// Under which name the contract number came.
    pub contract_field: ContractField,
    /// Fields that this protocol does not know, as one JSON object in the caller's own text.
    pub unknown_fields: Option<String>,
}

/// Who sent a confirmation, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The authenticated caller.
    pub caller: UserName,
    /// The branch that relays, when the caller is another `tilld`.
    pub branch: Option<BranchName>,
    /// Where that branch has it itself, when it said so.
    pub origin: Option<Origin>,
    /// Which of the caller's keys it used.
    pub key_id: KeyId,
    /// The socket's peer.
    pub peer: IpAddr,
    /// SHA-256 of the client certificate, when one was presented.
    pub client_certificate: Option<Digest>,
    /// How the body came.
    pub form: Form,
    /// SHA-256 of the decrypted body without `authentication`.
    pub body_digest: Digest,
}

/// Where a branch has what it relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its number in the branch's database (`Tilld-Sequence`).
    pub place: Place,
    /// Its line on the branch's tape (`Tilld-Tape`).
    pub line: Option<TapeLine>,
}

/// The two names under which contract numbers are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContractField {
    /// The tables, and the sample of seed 004.
    ContractNumber,
    /// The sample of seed 001.
    ControlNumber,
}

impl ContractField {
    /// The field's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ContractField::ContractNumber => "contractNumber",
            ContractField::ControlNumber => "controlNumber",
        }
    }

    /// Parses the field's name.
    pub fn parse(text: &str) -> Result<ContractField, Invalid> {
        match text {
            "contractNumber" => Ok(ContractField::ContractNumber),
            "controlNumber" => Ok(ContractField::ControlNumber),
            _ => Err(Invalid { expected: "contractNumber or controlNumber" }),
        }
    }
}

/// The two forms of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Plain JSON, as tills send it.
    Json,
    /// Base64 of AES, as SkyPay's servers send it.
    Encrypted,
}

impl Form {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Form::Json => "json",
            Form::Encrypted => "encrypted",
        }
    }

    /// Parses the word.
    pub fn parse(text: &str) -> Result<Form, Invalid> {
        match text {
            "json" => Ok(Form::Json),
            "encrypted" => Ok(Form::Encrypted),
            _ => Err(Invalid { expected: "json or encrypted" }),
        }
    }
}

/// A SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Parses 64 hex digits.
    pub fn parse(text: &str) -> Result<Digest, Invalid> {
        let invalid = Invalid { expected: "64 hex digits" };
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        let mut digest = [0; 32];
        if text.len() != 2 * digest.len() {
            return Err(invalid);
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let value = nibble(digits[0]).zip(nibble(digits[1])).map(|(high, low)| high << 4 | low);
            *byte = value.and_then(|value| u8::try_from(value).ok()).ok_or(invalid)?;
        }
        Ok(Digest(digest))
    }
}

/// 64 lower-case hex digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let nibbles = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let mut text = [0; 64];
        for (digit, nibble) in text.iter_mut().zip(nibbles) {
            *digit = HEX[usize::from(nibble)];
        }
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// The first four bytes of a key's SHA-256: names a key without telling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(u32);

impl KeyId {
    /// The id of the key with this digest.
    pub fn of(key_digest: Digest) -> KeyId {
        let [a, b, c, d, ..] = key_digest.0;
        KeyId(u32::from_be_bytes([a, b, c, d]))
    }

    /// Parses 8 hex digits.
    pub fn parse(text: &str) -> Result<KeyId, Invalid> {
        let id = u32::from_str_radix(text, 16).map_err(|_| ());
        id.map(KeyId).map_err(|()| Invalid { expected: "8 hex digits" })
    }
}

/// 8 lower-case hex digits.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
