//! Signatures that openssl made, judged; and signatures of ours, which openssl judges.

#![forbid(unsafe_code)]

mod bundles;
mod keys;
mod notation;
mod openssl;
mod policies;
mod simple;
