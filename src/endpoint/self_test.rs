//! A caller that the daemon itself is, to see whether a confirmation would be taken: it goes
//! through every check, and is then kept apart from the books. Its key is made at the start and
//! never leaves this process but over TLS to itself.

use std::io;

use serde_json::json;
use zeroize::Zeroizing;

use super::callers::{Caller, Callers, Circumstances};
use crate::domain::collection::UserName;
use crate::domain::contract::Prefix;
use crate::domain::provenance::{Digest, KeyId};
use crate::domain::time::AcceptedAt;
use crate::skypay::request::Request;
use crate::system::{clock, entropy};

/// Nobody is kept from configuring a caller of this name: only the key makes a self-test of it.
const NAME: &str = "tilld-selftest";

/// Any five letters or digits, where no biller is configured.
const PREFIX: &str = "TILLD";

/// Who asks for a self-test, known by a key that nobody else has.
pub struct SelfTest {
    callers: Callers,
    key: Zeroizing<String>,
}

impl SelfTest {
    /// One with a fresh key.
    pub fn new() -> io::Result<SelfTest> {
        let key = Zeroizing::new(Digest(entropy::bytes()?).to_string());
        let name = UserName::parse(NAME).map_err(io::Error::other)?;
        Ok(SelfTest { callers: Callers::one(&name, &key), key })
    }

    /// Whether this request is one.
    pub fn verify(
        &self,
        request: &Request<'_>,
        circumstances: &Circumstances<'_>,
    ) -> Option<(&Caller, KeyId)> {
        self.callers.verify(request, circumstances)
    }

    /// A confirmation that an endpoint for these billers would take.
    pub fn body(&self, prefixes: &[Prefix]) -> Zeroizing<String> {
        let now = AcceptedAt::new(clock::now());
        let prefix = prefixes.first().map_or(PREFIX, Prefix::as_str);
        let confirmation = json!({
            "userName": NAME,
            "action": "collectionCollect",
            "authentication": self.key.as_str(),
            "contractNumber": format!("{prefix}00000000"),
            "amount": "1.00",
            "phone": "09000000000",
            "receiptNumber": format!("SELFTEST-{}", now.unix_ms()),
            "collectedTime": now.wall_clock(),
            "payChannel": "99",
        });
        Zeroizing::new(confirmation.to_string())
    }
}
