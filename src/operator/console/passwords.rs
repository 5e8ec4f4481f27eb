//! Passwords: how they are kept, and how one is compared. Knows neither files nor pages.
//!
//! Argon2id with 19 MiB for each, which is what OWASP recommends at least and what a branch's
//! server has to spare for a moment.

use std::sync::LazyLock;

use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{ARGON2ID_IDENT, Argon2, Block, Params};
use subtle::ConstantTimeEq as _;

use crate::operator::{Exit, Failure};
use crate::system::entropy;

/// A shorter password can be guessed although guessing is slow.
pub const PASSWORD_CHARS_MIN: usize = 10;

/// No form that a browser is shown takes a longer one.
pub const PASSWORD_CHARS_MAX: usize = 256;

/// Room for so many blocks of 1 KiB is asked for, only the first of which are used. What is larger
/// than 32 MiB the allocator always has from the system and gives back to it; anything smaller it
/// would keep after the second login (mallopt(3), `M_MMAP_THRESHOLD`).
const BLOCKS_ROOM: usize = 33 * 1024;

/// With what an unknown user's password is compared, so that it takes as long as a known one's.
static NOBODYS: LazyLock<String> = LazyLock::new(|| {
    // A salt and a hash of zeros: which password gives it, nobody knows.
    let parameters = Params::default();
    format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        parameters.m_cost(),
        parameters.t_cost(),
        parameters.p_cost(),
        "A".repeat(22),
        "A".repeat(43)
    )
});

/// The hash to keep of a password, as a PHC string.
pub fn hash(password: &str) -> Result<String, Failure> {
    let salt = entropy::bytes::<16>()?;
    let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string())
        .map_err(|error| Failure::new(Exit::Error, format!("the password cannot be kept: {error}")))
}

/// Whether this is the password; without a user it is none, and takes as long.
pub fn is_right(password: &str, password_hash: Option<&str>) -> bool {
    let matches = matches(password, password_hash.unwrap_or(&NOBODYS)).unwrap_or(false);
    matches && password_hash.is_some()
}

/// `None` when the hash is damaged, or not of our making.
fn matches(password: &str, kept: &str) -> Option<bool> {
    let kept = PasswordHash::new(kept).ok()?;
    if kept.algorithm != ARGON2ID_IDENT {
        return None;
    }
    let params = Params::try_from(&kept).ok()?;
    let mut memory = Vec::with_capacity(BLOCKS_ROOM.max(params.block_count()));
    memory.resize(params.block_count(), Block::new());
    let (salt, hash) = (kept.salt?, kept.hash?);
    let mut computed = vec![0; hash.len()];
    Argon2::from(params)
        .hash_password_into_with_memory(password.as_bytes(), &salt, &mut computed, &mut memory)
        .ok()?;
    Some(computed.ct_eq(hash.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_itself_is_right_and_nobody_has_one() {
        let kept = hash("correct horse").unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert_ne!(kept, hash("correct horse").unwrap(), "each has a salt of its own");
        assert!(is_right("correct horse", Some(&kept)));
        for wrong in ["", "correct horse ", "Correct horse"] {
            assert!(!is_right(wrong, Some(&kept)), "{wrong}");
        }
        assert!(!is_right("correct horse", None));
        assert!(!is_right("correct horse", Some("$damaged")));
    }

    #[test]
    fn an_unknown_user_costs_what_a_known_one_costs() {
        let known = hash("correct horse").unwrap();
        let nobodys = PasswordHash::new(&NOBODYS).expect("a hash that can be compared with");
        let known = PasswordHash::new(&known).unwrap();
        assert_eq!(nobodys.params, known.params);
        assert_eq!(nobodys.hash.map(|hash| hash.len()), known.hash.map(|hash| hash.len()));
    }
}
