//! Messages with their type beside them, as clients in Go name it: the bare name, without a host.

use dist_core::{Context as _, Error, ErrorKind, Result};
use prost::Name;
use prost_types::Any;

/// A message with its type.
pub(crate) fn pack<M: Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// The message that says nothing.
pub(crate) fn empty() -> Any {
    Any { type_url: "google.protobuf.Empty".to_owned(), value: Vec::new() }
}

/// Whether it is a message of this type, whatever host stands before the name.
pub(crate) fn is<M: Name>(any: &Any) -> bool {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    name == M::full_name()
}

/// Reads a message of this type.
///
/// # Errors
/// `InvalidArgument` for one of another type, or of none.
pub(crate) fn unpack<M: Name + Default>(any: &Any) -> Result<M> {
    if !is::<M>(any) {
        let message = format!("read a {}: the message is a {:?}", M::full_name(), any.type_url);
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    M::decode(any.value.as_slice())
        .context(ErrorKind::InvalidArgument, || format!("read a {}", M::full_name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::containerd::types::transfer::{Data, WindowUpdate};

    #[test]
    fn types_are_names_without_hosts() {
        let mut any = pack(&WindowUpdate { update: 7 });
        assert_eq!(any.type_url, "containerd.types.transfer.WindowUpdate");
        assert_eq!(unpack::<WindowUpdate>(&any).unwrap().update, 7);
        any.type_url.insert_str(0, "types.googleapis.com/");
        assert_eq!(unpack::<WindowUpdate>(&any).unwrap().update, 7);
        assert_eq!(unpack::<Data>(&any).unwrap_err().kind(), ErrorKind::InvalidArgument);
        any.value = vec![0xff];
        assert_eq!(unpack::<WindowUpdate>(&any).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
