//! The encrypted form of a body: base64( AES-128-ECB, PKCS#5 padding ( UTF-8 text ) ).
//!
//! It must not know what the text says. SkyPay's rule, not ours: ECB has no integrity, so what
//! opens is only probably what was sealed; TLS and the contract's identity make that harmless.

use std::fmt;

use aes::Aes128;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use ecb::cipher::block_padding::Pkcs7;
use ecb::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyInit};
use sha1::{Digest as _, Sha1};
use zeroize::Zeroizing;

/// AES works on blocks of this many bytes, and the padding is at least one byte: even an empty
/// text is sealed as one whole block.
const BLOCK_BYTES: usize = 16;

/// An encryption password agreed with SkyPay, as the key made from it. Wiped from memory on drop.
pub struct Password(Zeroizing<[u8; 16]>);

impl Password {
    /// Makes the key: the first 16 bytes of SHA1(SHA1(`text` as UTF-8)).
    pub fn new(text: &str) -> Password {
        let twice = Zeroizing::new(<[u8; 20]>::from(Sha1::digest(Sha1::digest(text))));
        let mut key = Zeroizing::new([0; 16]);
        key.copy_from_slice(&twice[..16]);
        Password(key)
    }

    /// The text inside, if padding and UTF-8 hold. A wrong password passes the padding once in
    /// about 250 tries, so a text that opens must still prove itself.
    pub fn open(&self, sealed: &Sealed) -> Option<String> {
        let cipher = || ecb::Decryptor::<Aes128>::new((&*self.0).into());
        // The last block tells nearly all wrong passwords, of which a stranger may have many tried.
        let mut last = sealed.0[sealed.0.len() - BLOCK_BYTES..].to_vec();
        cipher().decrypt_padded::<Pkcs7>(&mut last).ok()?;
        let mut text = sealed.0.clone();
        let length = cipher().decrypt_padded::<Pkcs7>(&mut text).ok()?.len();
        text.truncate(length);
        String::from_utf8(text).ok()
    }

    /// Encrypts `text`; base64 without line breaks.
    pub fn seal(&self, text: &str) -> String {
        let mut blocks = vec![0; (text.len() / BLOCK_BYTES + 1) * BLOCK_BYTES];
        let cipher = ecb::Encryptor::<Aes128>::new((&*self.0).into());
        let sealed = cipher
            .encrypt_padded_b2b::<Pkcs7>(text.as_bytes(), &mut blocks)
            .expect("there is room for the text and its padding");
        BASE64_STANDARD.encode(sealed)
    }
}

/// Says that there is a password, never which.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Whole encrypted blocks, not yet opened.
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Takes base64 of at least one whole block. ASCII white space is ignored, because the
    /// published samples have line breaks in the base64.
    pub fn decode(body: &[u8]) -> Option<Sealed> {
        let dense: Vec<u8> =
            body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let blocks = BASE64_STANDARD.decode(dense).ok()?;
        (!blocks.is_empty() && blocks.len().is_multiple_of(BLOCK_BYTES)).then_some(Sealed(blocks))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const VECTORS: &str = include_str!("../../tests/vectors/cipher.json");

    fn open(password: &str, body: &[u8]) -> Option<String> {
        Password::new(password).open(&Sealed::decode(body)?)
    }

    /// A body whose last block decrypts to exactly `block`, whatever its padding says.
    fn sealed_block(password: &str, block: [u8; 16]) -> String {
        let mut cipher = ecb::Encryptor::<Aes128>::new((&*Password::new(password).0).into());
        let mut block = block.into();
        cipher.encrypt_block(&mut block);
        BASE64_STANDARD.encode(block)
    }

    #[test]
    fn all_twenty_vectors_hold_in_both_directions() {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 20);
        for vector in vectors {
            let text = |name: &str| vector[name].as_str().unwrap();
            let password = Password::new(text("password"));
            let key_hex = format!("{:032x}", u128::from_be_bytes(*password.0));
            assert_eq!(key_hex, text("key_hex"));
            assert_eq!(password.seal(text("plaintext")), text("ciphertext"));
            let sealed = Sealed::decode(text("ciphertext").as_bytes()).unwrap();
            assert_eq!(password.open(&sealed).as_deref(), Some(text("plaintext")));
        }
    }

    #[test]
    fn white_space_within_the_base64_is_ignored() {
        let body = b"\r\n 5KBS8aVXxL0Fvfhi\r\nqa6U+wXjdy1SX35S\tIYh0QqaQpW4=\n";
        assert_eq!(open("k3yForTests-01", body).as_deref(), Some("0123456789abcdef"));
    }

    #[test]
    fn what_is_no_base64_of_whole_blocks_is_not_sealed() {
        for body in [
            "",
            " \n",
            "=",
            "AAAA",                      // 3 bytes
            "BeN3LVJfflIhiHRCppClbg",    // its padding cut off
            "BeN3LVJfflIhiHRCppClbgAA",  // 18 bytes
            "BeN3LVJfflIhiHRCppClbg==A", // something after the end
            "BeN3LVJfflIhiHRCppClbh==",  // bits set that belong to no byte
            "BeN3LVJfflIhiHRCppCl-g==",  // the alphabet of URLs
            "{\"action\":\"collectionCollect\"}",
        ] {
            assert!(Sealed::decode(body.as_bytes()).is_none(), "{body:?}");
        }
        assert!(Sealed::decode(&[0xff; 32]).is_none());
    }

    #[test]
    fn a_wrong_password_does_not_open() {
        let body = Password::new("k3yForTests-01").seal("{\"receiptNumber\":\"R1\"}");
        assert_eq!(open("k3yForTests-02", body.as_bytes()), None);
    }

    #[test]
    fn every_byte_of_the_padding_is_checked() {
        let text = |block: [u8; 16]| open("a", sealed_block("a", block).as_bytes());
        assert_eq!(text(*b"0123456789abc\x03\x03\x03").as_deref(), Some("0123456789abc"));
        assert_eq!(text([16; 16]).as_deref(), Some(""));
        for block in [
            *b"0123456789abc\x02\x03\x03",
            *b"0123456789abc\x03\x04\x03",
            *b"0123456789abcde\x00",
            *b"0123456789abcde\x11",
            *b"0123456789abcdef",
        ] {
            assert_eq!(text(block), None, "{block:?}");
        }
    }

    #[test]
    fn a_text_that_is_not_utf_8_does_not_open() {
        let body = sealed_block("a", *b"0123\xff\xfe6789abcd\x02\x02");
        assert_eq!(open("a", body.as_bytes()), None);
    }

    #[test]
    fn a_password_does_not_show_itself() {
        assert_eq!(format!("{:?}", Password::new("k3yForTests-01")), "Password(…)");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_as_itself(password in "\\PC{1,40}", text in "(?s).{0,200}") {
            let body = Password::new(&password).seal(&text);
            prop_assert_eq!(open(&password, body.as_bytes()), Some(text));
        }

        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            open("a", &body);
            open("a", BASE64_STANDARD.encode(&body).as_bytes());
        }
    }
}
