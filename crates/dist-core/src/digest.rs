//! Digests, and the hashers that make them.
//!
//! Text form: `algorithm:hex`, lower-case hex of the algorithm's full length
//! (OCI image-spec, descriptor.md, "Digests"). sha256 and sha512 are known.

use std::fmt;
use std::str::FromStr;

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

/// The name of some content: the hash of its bytes. A malformed one cannot exist.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Digest {
    /// SHA-256, 32 bytes.
    Sha256([u8; 32]),
    /// SHA-512, 64 bytes.
    Sha512([u8; 64]),
}

/// Why a text is no [`Digest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:hex`.
    #[error("a digest is written algorithm:hex")]
    Form,
    /// The algorithm is neither sha256 nor sha512.
    #[error("the digest algorithm is not supported (sha256 and sha512 are)")]
    Algorithm,
    /// The hex part has the wrong length.
    #[error("the digest's hex part has {got} characters instead of {expected}")]
    Length {
        /// Characters the algorithm demands.
        expected: usize,
        /// Characters that are there.
        got: usize,
    },
    /// The hex part has a character outside `0-9a-f`.
    #[error("the digest's hex part may only hold 0-9 and a-f")]
    Hex,
}

impl Digest {
    /// Hashes `bytes` with SHA-256.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::Sha256(Sha256::digest(bytes).into())
    }

    /// The algorithm's name: `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
        }
    }

    /// The first eight bytes, by which digests of one algorithm are ordered but for those few that
    /// have them in common.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        let first = self.as_bytes().first_chunk().copied().unwrap_or_default();
        u64::from_be_bytes(first)
    }

    /// The hash's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// The hash in lower-case hex.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(self.as_bytes().len() * 2);
        for byte in self.as_bytes() {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text
    }

    /// The first twelve hex digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.hex();
        text.truncate(12);
        text
    }

    /// A hasher of this digest's algorithm.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::sha256(),
            Self::Sha512(_) => Hasher::sha512(),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())?;
        f.write_str(":")?;
        // Without a text of its own: listings print very many of these. Hashes are 32 or 64 bytes.
        for chunk in self.as_bytes().chunks(32) {
            let mut digits = [0; 64];
            for (pair, byte) in digits.chunks_exact_mut(2).zip(chunk) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 15)];
            }
            f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Form)?;
        match algorithm {
            "sha256" => decode(hex).map(Self::Sha256),
            "sha512" => decode(hex).map(Self::Sha512),
            _ => Err(DigestError::Algorithm),
        }
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// What each byte is worth as a hex digit, [`NO_DIGIT`] where it is none.
const WORTH: [u8; 256] = {
    let mut worth = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        worth[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    worth
};

const NO_DIGIT: u8 = 0xff;

/// Listings read a hundred thousand of these: the digits are looked up, and judged all at once.
fn decode<const N: usize>(hex: &str) -> Result<[u8; N], DigestError> {
    let hex = hex.as_bytes();
    if hex.len() != N * 2 {
        return Err(DigestError::Length { expected: N * 2, got: hex.len() });
    }
    let mut bytes = [0; N];
    let mut all = 0;
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let (high, low) = (WORTH[usize::from(pair[0])], WORTH[usize::from(pair[1])]);
        all |= high | low;
        *byte = high << 4 | low & 15;
    }
    if all == NO_DIGIT { Err(DigestError::Hex) } else { Ok(bytes) }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The digest of a layer's uncompressed tar (OCI image-spec, config.md, "Layer DiffID").
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The digest of a stack of layers (OCI image-spec, config.md, "Layer ChainID").
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Computes the chain ID of every prefix of `diff_ids`, lowest layer first.
#[must_use]
pub fn chain_ids(diff_ids: &[DiffId]) -> Vec<ChainId> {
    let mut chain: Vec<ChainId> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.0,
            Some(parent) => Digest::sha256(format!("{parent} {diff_id}").as_bytes()),
        };
        chain.push(ChainId(next));
    }
    chain
}

/// A hash in the making, whose state can be saved and restored.
#[derive(Clone)]
pub struct Hasher(Inner);

#[derive(Clone)]
enum Inner {
    Sha256(Box<Sha256>),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// Starts a SHA-256 hash.
    #[must_use]
    pub fn sha256() -> Self {
        Self(Inner::Sha256(Box::default()))
    }

    /// Starts a SHA-512 hash.
    #[must_use]
    pub fn sha512() -> Self {
        Self(Inner::Sha512(Box::default()))
    }

    /// The algorithm's name: `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match &self.0 {
            Inner::Sha256(_) => "sha256",
            Inner::Sha512(_) => "sha512",
        }
    }

    /// Starts another hash of the same algorithm.
    #[must_use]
    pub fn fresh(&self) -> Self {
        match &self.0 {
            Inner::Sha256(_) => Self::sha256(),
            Inner::Sha512(_) => Self::sha512(),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Sha256(hash) => hash.update(bytes),
            Inner::Sha512(hash) => hash.update(bytes),
        }
    }

    /// Returns the digest of all bytes added.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            Inner::Sha256(hash) => Digest::Sha256(hash.finalize().into()),
            Inner::Sha512(hash) => Digest::Sha512(hash.finalize().into()),
        }
    }

    /// Saves the state; [`Hasher::restore`] with the same algorithm continues from it.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        match &self.0 {
            Inner::Sha256(hash) => hash.serialize().to_vec(),
            Inner::Sha512(hash) => hash.serialize().to_vec(),
        }
    }

    /// Restores a state that [`Hasher::save`] returned; `None` where it is not one.
    #[must_use]
    pub fn restore(algorithm: &str, state: &[u8]) -> Option<Self> {
        match algorithm {
            "sha256" => {
                let state = SerializedState::<Sha256>::try_from(state).ok()?;
                Some(Self(Inner::Sha256(Box::new(Sha256::deserialize(&state).ok()?))))
            }
            "sha512" => {
                let state = SerializedState::<Sha512>::try_from(state).ok()?;
                Some(Self(Inner::Sha512(Box::new(Sha512::deserialize(&state).ok()?))))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_values() {
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        assert_eq!(Digest::sha256(b"").short(), "e3b0c44298fc");
        assert_eq!(Digest::sha256(b"").prefix(), 0xe3b0_c442_98fc_1c14);
        let long = Digest::Sha512(std::array::from_fn(|at| u8::try_from(at).unwrap() * 4));
        assert_eq!(long.to_string(), format!("sha512:{}", long.hex()));
        assert_eq!(long.to_string().parse(), Ok(long));
        assert_eq!(serde_json::from_value(serde_json::json!(long)).ok(), Some(long));
    }

    #[test]
    fn malformed() {
        for (text, error) in [
            ("", DigestError::Form),
            ("sha256", DigestError::Form),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm),
            ("SHA256:00", DigestError::Algorithm),
            ("sha256:00", DigestError::Length { expected: 64, got: 2 }),
            (&EMPTY.to_uppercase().replace("SHA256", "sha256"), DigestError::Hex),
            (&format!("{}\n", &EMPTY[..EMPTY.len() - 1]), DigestError::Hex),
            (
                "sha256:../../../../../../../../../../../../../../../../etc/passwd/00000",
                DigestError::Hex,
            ),
        ] {
            assert_eq!(text.parse::<Digest>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn chain_of_one_is_the_diff_id() {
        let diff = DiffId(Digest::sha256(b"a"));
        assert_eq!(chain_ids(&[diff]), [ChainId(diff.0)]);
        let two = chain_ids(&[diff, diff]);
        assert_eq!(two[1].0, Digest::sha256(format!("{diff} {diff}").as_bytes()));
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in "\\PC*") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn saved_state_continues(a in prop::collection::vec(any::<u8>(), 0..500), b in prop::collection::vec(any::<u8>(), 0..500)) {
            for mut hasher in [Hasher::sha256(), Hasher::sha512()] {
                hasher.update(&a);
                let mut restored = Hasher::restore(hasher.algorithm(), &hasher.save()).unwrap();
                hasher.update(&b);
                restored.update(&b);
                prop_assert_eq!(hasher.finish(), restored.finish());
            }
        }
    }
}
