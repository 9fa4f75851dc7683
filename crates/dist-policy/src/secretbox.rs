//! NaCl's `crypto_secretbox` (XSalsa20 and Poly1305), as far as opening one goes.
//!
//! ```text
//! keystream = XSalsa20(key, nonce)      its first 32 bytes are Poly1305's key
//! box       = tag (16) || message XOR keystream[32..]
//! ```

use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit as _;
use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit as _, StreamCipher as _};

/// Opens a box; `None` for another key, or where a bit differs.
pub(crate) fn open(key: &[u8; 32], nonce: &[u8; 24], boxed: &[u8]) -> Option<Vec<u8>> {
    let (tag, sealed) = boxed.split_at_checked(16)?;
    let mut stream = XSalsa20::new(key.into(), nonce.into());
    let mut mac_key = [0; 32];
    stream.apply_keystream(&mut mac_key);
    let expected = Poly1305::new(&mac_key.into()).compute_unpadded(sealed);
    // Who asks has the box and the password: nothing is learnt from how long this takes.
    if expected.as_slice() != tag {
        return None;
    }
    let mut message = sealed.to_vec();
    stream.apply_keystream(&mut message);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_not_opened() {
        assert_eq!(open(&[0; 32], &[0; 24], &[0; 15]), None);
        assert_eq!(open(&[0; 32], &[0; 24], &[0; 40]), None);
    }
}
