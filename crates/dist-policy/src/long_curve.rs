//! ECDSA over P-521 with SHA-512, which ring has not: notation's `ES512`, and certificates by such keys.

use p521::ecdsa::signature::Verifier as _;
use p521::ecdsa::{Signature, VerifyingKey};
use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};

use crate::distinguished::element;

/// The bytes of each of a signature's two numbers.
pub(crate) const HALF: usize = 66;

/// Verifies signatures as certificates have them: two numbers in DER.
pub(crate) static ECDSA_P521_SHA512: &dyn SignatureVerificationAlgorithm = &LongCurve;

#[derive(Debug)]
struct LongCurve;

impl SignatureVerificationAlgorithm for LongCurve {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let numbers = fixed(signature).ok_or(InvalidSignature)?;
        let signature = Signature::from_slice(&numbers).map_err(|_| InvalidSignature)?;
        key.verify(message, &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA512
    }
}

/// The two numbers of `SEQUENCE { INTEGER, INTEGER }`, each with all its digits.
fn fixed(der: &[u8]) -> Option<Vec<u8>> {
    let (numbers, rest) = element(der, 0x30)?;
    let (first, numbers) = element(numbers, 2)?;
    let (second, more) = element(numbers, 2)?;
    if !rest.is_empty() || !more.is_empty() {
        return None;
    }
    let mut fixed = Vec::with_capacity(2 * HALF);
    for number in [first, second] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let digits = number.get(zeros..)?;
        let missing = HALF.checked_sub(digits.len())?;
        fixed.resize(fixed.len() + missing, 0);
        fixed.extend_from_slice(digits);
    }
    Some(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_all_their_digits() {
        let read = fixed(&[0x30, 7, 2, 2, 0, 0x80, 2, 1, 5]).unwrap();
        assert_eq!((read.len(), read[HALF - 1], read[2 * HALF - 1]), (2 * HALF, 0x80, 5));
        for der in [&[][..], &[0x30, 0], &[0x30, 3, 2, 1, 5], &[0x30, 6, 2, 1, 5, 2, 1, 5, 0]] {
            assert_eq!(fixed(der), None, "{der:?}");
        }
        let long = [&[0x30, 72, 2, 67, 1][..], &[0; 66], &[2, 1, 5]].concat();
        assert_eq!(fixed(&long), None);
    }
}
