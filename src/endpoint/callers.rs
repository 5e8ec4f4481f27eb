//! Who may call: configured callers, their keys and their passwords.
//!
//! Keys are held as digests only, so that no memory image tells them, and are compared in
//! constant time, so that no stopwatch does.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::config::{self, ConfigError};
use crate::domain::collection::{BranchName, UserName};
use crate::domain::provenance::{Digest, Form, KeyId};
use crate::skypay::cipher::{Password, Sealed};
use crate::skypay::request::Request;

/// Compared with when the caller is unknown; no key has this digest.
const UNKNOWN_CALLER_KEY: Digest = Digest([0; 32]);

/// One configured caller, ready to be compared with.
pub struct Caller {
    /// Its name.
    pub user_name: UserName,
    /// The branch it relays for, when it is another `tilld`.
    pub branch: Option<BranchName>,
    require_encryption: bool,
    allow_from: Vec<IpNet>,
    keys: Vec<Digest>,
    passwords: Vec<Password>,
}

/// All configured callers.
pub struct Callers {
    by_name: HashMap<String, Caller>,
}

/// An encrypted body that one of the passwords opened.
pub struct Opened<'a> {
    /// What was inside: one JSON object.
    pub text: String,
    /// The password that opened it, which also closes the answer.
    pub password: &'a Password,
}

/// What is known of a request besides its body, for the question who sent it.
pub struct Circumstances<'a> {
    /// The socket's peer.
    pub peer: IpAddr,
    /// How the body came.
    pub form: Form,
    /// The caller's name in the path, when the path has one.
    pub named: Option<&'a str>,
    /// The `Tilld-Branch` header.
    pub branch: Option<&'a str>,
}

impl Callers {
    /// Reads the secrets of the configured callers.
    pub fn load(configured: &[config::Caller]) -> Result<Callers, ConfigError> {
        let mut by_name = HashMap::new();
        for caller in configured {
            let keys = caller.authentication_keys()?;
            let passwords = caller.encryption_passwords()?;
            let ready = Caller {
                user_name: caller.user_name.clone(),
                branch: caller.branch.clone(),
                require_encryption: caller.require_encryption,
                allow_from: caller.allow_from.clone(),
                keys: keys.iter().map(|key| digest(key)).collect(),
                passwords: passwords.iter().map(|password| Password::new(password)).collect(),
            };
            by_name.insert(caller.user_name.as_str().to_owned(), ready);
        }
        Ok(Callers { by_name })
    }

    /// A caller that is not configured, with this key, plain and from everywhere.
    pub fn one(user_name: &UserName, key: &str) -> Callers {
        let caller = Caller {
            user_name: user_name.clone(),
            branch: None,
            require_encryption: false,
            allow_from: Vec::new(),
            keys: vec![digest(key)],
            passwords: Vec::new(),
        };
        Callers { by_name: HashMap::from([(user_name.as_str().to_owned(), caller)]) }
    }

    /// Opens an encrypted body with the first password after which padding, UTF-8 and one JSON
    /// object all hold, and whose owner is the one named inside: padding alone fits by chance in
    /// 1 of 250 tries, and two callers may have been given one password.
    pub fn open(&self, body: &[u8]) -> Option<Opened<'_>> {
        let sealed = Sealed::decode(body)?;
        self.by_name.values().find_map(|caller| {
            caller.passwords.iter().find_map(|password| {
                let text = password.open(&sealed)?;
                let inside = Request::parse(text.as_bytes()).ok()?;
                let is_owner = inside.user_name() == Some(caller.user_name.as_str());
                is_owner.then_some(Opened { text, password })
            })
        })
    }

    /// The configured caller with this name.
    pub fn named(&self, name: &str) -> Option<&UserName> {
        Some(&self.by_name.get(name)?.user_name)
    }

    /// The caller that sent this request, and which key it used; `None` is always answered -1001.
    pub fn verify(
        &self,
        request: &Request<'_>,
        circumstances: &Circumstances<'_>,
    ) -> Option<(&Caller, KeyId)> {
        let name = request.user_name().unwrap_or_default();
        let caller = self.by_name.get(name);
        // An unknown caller costs the same comparison as a known one.
        let keys = caller.map_or(&[UNKNOWN_CALLER_KEY][..], |caller| &caller.keys);
        let given = digest(request.authentication().unwrap_or_default());
        let fits = keys.iter().fold(Choice::from(0), |fits, key| fits | key.0.ct_eq(&given.0));
        let caller = caller.filter(|_| bool::from(fits))?;
        caller.allows(circumstances).then(|| (caller, KeyId::of(given)))
    }
}

impl Caller {
    fn allows(&self, circumstances: &Circumstances<'_>) -> bool {
        let name = self.user_name.as_str();
        let from_here = self.allow_from.is_empty()
            || self.allow_from.iter().any(|net| net.contains(&circumstances.peer));
        from_here
            && (circumstances.form == Form::Encrypted || !self.require_encryption)
            && circumstances.named.is_none_or(|named| named == name)
            && self
                .branch
                .as_ref()
                .is_none_or(|branch| circumstances.branch == Some(branch.as_str()))
    }
}

fn digest(key: &str) -> Digest {
    Digest(Sha256::digest(key).into())
}
