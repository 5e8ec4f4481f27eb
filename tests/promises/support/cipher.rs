//! The published encryption, written a second time and block by block, so that the product is not
//! tested against itself.

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

const BLOCK_BYTES: usize = 16;

/// base64( AES-128-ECB, PKCS#5 ( text ) ).
pub fn encrypt(password: &str, text: &str) -> String {
    let mut padded = text.as_bytes().to_vec();
    let missing = BLOCK_BYTES - padded.len() % BLOCK_BYTES;
    padded.extend(std::iter::repeat_n(u8::try_from(missing).unwrap(), missing));
    STANDARD.encode(encrypt_blocks(password, &padded))
}

/// The text inside `body`, if padding and UTF-8 fit this password.
pub fn decrypt(password: &str, body: &str) -> Option<String> {
    let mut bytes = decrypt_blocks(password, &STANDARD.decode(body).ok()?);
    let missing = usize::from(*bytes.last()?);
    let padding_fits = (1..=BLOCK_BYTES).contains(&missing)
        && bytes[bytes.len() - missing..].iter().all(|b| usize::from(*b) == missing);
    if !padding_fits {
        return None;
    }
    bytes.truncate(bytes.len() - missing);
    String::from_utf8(bytes).ok()
}

/// Encrypts whole blocks as they are, for bodies whose padding is wrong on purpose.
pub fn encrypt_blocks(password: &str, plain: &[u8]) -> Vec<u8> {
    let cipher = cipher(password);
    blocks(plain, |block| cipher.encrypt_block(block))
}

/// Decrypts whole blocks and leaves the padding on.
pub fn decrypt_blocks(password: &str, encrypted: &[u8]) -> Vec<u8> {
    let cipher = cipher(password);
    blocks(encrypted, |block| cipher.decrypt_block(block))
}

/// The key is the first 16 bytes of SHA1(SHA1(password)).
fn cipher(password: &str) -> Aes128 {
    let digest = Sha1::digest(Sha1::digest(password));
    Aes128::new_from_slice(&digest[..BLOCK_BYTES]).expect("16 bytes are a key")
}

fn blocks(bytes: &[u8], mut change: impl FnMut(&mut aes::Block)) -> Vec<u8> {
    assert_eq!(bytes.len() % BLOCK_BYTES, 0, "whole blocks");
    let mut changed = bytes.to_vec();
    for chunk in changed.chunks_exact_mut(BLOCK_BYTES) {
        let mut block = aes::Block::try_from(&*chunk).expect("16 bytes are a block");
        change(&mut block);
        chunk.copy_from_slice(&block);
    }
    changed
}
